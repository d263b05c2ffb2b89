"""Dropout that is drawn by a hash of network, epoch, image and unit, so that every engine drops the same units.

A network's key comes from its seed and the epoch. An image is known by its position in the network's own order, a unit
by its number in forward order. `native/dropout.h` computes the same.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


_MASK = 0xFFFFFFFF
_STREAM = 1  # tells the keys apart from the image order, which is drawn from (seed, epoch)


def dropout_keys(seeds: Sequence[int], epoch: int) -> Tensor:
    """Keys (models,), int64 below 2^32, of the networks with these seeds in one epoch."""
    keys = [int(np.random.SeedSequence([seed, epoch, _STREAM]).generate_state(1)[0]) for seed in seeds]
    return torch.tensor(keys)


def dropout_thresholds(rates: Tensor) -> Tensor:
    """A unit is dropped if its 32 random bits lie below this; (models,), int64."""
    return (rates.double() * 2**32).floor().long()


def dropout_factors(keys: Tensor, rates: Tensor, positions: Tensor, units: int) -> Tensor:
    """What hidden activations are multiplied by: 0 where they are dropped, else 1 / (1 - rate).

    Args:
        keys, rates (`Tensor`): (models,).
        positions (`Tensor`): (batch,), int64: of the images in the epoch, counted from 0.
        units (`int`): hidden units of one network.

    Returns:
        `Tensor`: (models, batch, units), float32.
    """
    images = _scramble(keys[:, None] ^ _scramble(positions)[None])  # (models, batch)
    steps = (torch.arange(units, device=keys.device) * 0x9E3779B9) & _MASK
    bits = _scramble((images[:, :, None] + steps) & _MASK)
    kept = bits >= dropout_thresholds(rates)[:, None, None]
    return kept * (1 / (1 - rates.float()))[:, None, None]


def _scramble(x: Tensor) -> Tensor:
    """C. Wellons' lowbias32 on int64 tensors that hold 32-bit values."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _MASK
    return x ^ (x >> 16)
