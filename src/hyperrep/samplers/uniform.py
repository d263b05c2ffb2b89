"""Uniform samples of latent space (paper, S_U): the floor that a density must beat."""

from dataclasses import field
from typing import ClassVar

import torch
from torch import Tensor

from .anchored import AnchoredSampler
from .base import settings_class


@settings_class
class UniformSampler(AnchoredSampler):
    """Every latent dimension uniform in (-1, 1), the range of the bottleneck's tanh. Ignores where models lie."""

    method: ClassVar[str] = "uniform"
    label: ClassVar[str] = "U"

    top: float | int | None = field(default=None, kw_only=True)

    def drawn_from(self) -> dict[str, Tensor]:
        return {}

    def _sample(self, num_samples: int, generator: torch.Generator | None) -> Tensor:
        return torch.rand(num_samples, self.latent_size, generator=generator) * 2 - 1
