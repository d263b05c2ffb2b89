"""The native engine: C++ kernels that train one network in each lane of a vector register."""

from .compile import NativeUnavailable
from .engine import NativeEngine


__all__ = ["NativeEngine", "NativeUnavailable"]
