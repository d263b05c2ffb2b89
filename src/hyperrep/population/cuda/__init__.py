"""The engine for a GPU: CUDA kernels for the small CNNs, one network a block."""

from .compile import CudaUnavailable
from .engine import CudaEngine


__all__ = ["CudaEngine", "CudaUnavailable"]
