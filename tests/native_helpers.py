"""What the tests of the C++ kernels share. Importing it skips a test file where they cannot be compiled."""

import pytest
import torch
from torch import Tensor

from hyperrep.networks import SmallCNNConfig
from hyperrep.population.native import NativeEngine, NativeUnavailable


try:
    LANES = NativeEngine(threads=1).lanes
except NativeUnavailable as reason:
    pytest.skip(f"no native engine here: {reason}", allow_module_level=True)


def random_images(network: SmallCNNConfig, count: int = 33) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(count, network.num_channels, network.image_size, network.image_size, generator=generator)
    return pixels, torch.randint(network.num_labels, (count,), generator=generator)


def bits(tensor: Tensor) -> Tensor:
    """For comparison bit by bit: NaN equals NaN, 0 does not equal -0."""
    return tensor.contiguous().view(torch.int32)
