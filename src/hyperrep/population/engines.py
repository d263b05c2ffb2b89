"""Which engine trains a population."""

import logging

import torch

from ..errors import UserError
from ..networks import Network
from .cuda import CudaEngine, CudaUnavailable
from .loop import LoopEngine
from .native import NativeEngine, NativeUnavailable
from .population import Engine
from .vmap import VmapEngine


ENGINES = ("auto", "cuda", "native", "vmap", "loop")

logger = logging.getLogger(__name__)


def choose_engine(name: str, network: Network) -> Engine:
    """The engine of this name; `auto` is the fastest that can train the network on this machine.

    Args:
        name (`str`): `auto`, `cuda` (kernels for small CNNs on a GPU), `native` (the same on a CPU), `vmap` (any
            network, on a GPU where there is one) or `loop`.
        network (`PreTrainedConfig` or `nn.Module`): the networks to train.

    Raises:
        UserError: if the name is unknown, or `cuda` or `native` was asked for and is not to be had.
    """
    if name == "loop":
        return LoopEngine()
    if name == "vmap":
        return VmapEngine(device="cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        try:
            return CudaEngine.for_network(network)
        except CudaUnavailable as reason:
            if name == "cuda":
                raise UserError(f"the CUDA engine cannot be used: {reason}") from reason
            logger.warning("falling back to the vmap engine, many times slower: %s", reason)
            return VmapEngine(device="cuda", models_per_chunk=1024)
    if name in ("auto", "native"):
        try:
            return NativeEngine.for_network(network)
        except NativeUnavailable as reason:
            if name == "native":
                raise UserError(f"the native engine cannot be used: {reason}") from reason
            logger.warning("falling back to the vmap engine, several times slower: %s", reason)
            return VmapEngine()
    raise UserError(f"engine {name!r} is unknown; choose from {', '.join(ENGINES)}.")
