"""Uniform samples of latent space (paper, S_U): the floor that a density must beat."""

import torch
from torch import Tensor

from .base import Sampler


class UniformSampler(Sampler):
    """Every latent dimension uniform in (-1, 1), the range of the bottleneck's tanh. Ignores where models lie."""

    method = "uniform"

    def _sample(self, num_samples: int, generator: torch.Generator | None) -> Tensor:
        return torch.rand(num_samples, self.anchors.shape[1], generator=generator) * 2 - 1
