"""Kernel density estimation over latents (paper, S_KDE)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import UserError
from .anchored import AnchoredSampler
from .base import settings_class


KDE_VARIANTS = ("independent", "joint", "as_released")
LARGEST_BANDWIDTH = 10


@settings_class
class KDESampler(AnchoredSampler):
    r"""
    A Gaussian kernel density, in one of three variants.

    - `independent`: a density for each latent dimension, drawn from independently, as the paper's text says. Samples
      combine dimensions of different training models, so they are new.
    - `joint`: one density over whole latents: a training latent plus noise, independent in every dimension.
    - `as_released`: a density for each dimension, but all drawn with one random state, as the paper's published code
      does. Every dimension then picks the same training model and the same noise: a sample is a training latent plus
      one tiny offset, shared by all dimensions. For comparison only.

    Args:
        variant (`str`, *optional*, defaults to `"independent"`)
        bandwidth (`float`, *optional*, defaults to 0.002): standard deviation of the kernel; the paper's code has
            0.002.
        top, score: see [`AnchoredSampler`].
    """

    method: ClassVar[str] = "kde"
    spaces: ClassVar[tuple[str, ...]] = ("weights", "latents")
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = tuple({"variant": name} for name in KDE_VARIANTS)

    variant: str = "independent"
    bandwidth: float | int = 0.002
    top: float | int | None = 0.3
    score: str = "validation_accuracy"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in KDE_VARIANTS:
            raise UserError(f"variant {self.variant!r} is unknown; choose from {', '.join(KDE_VARIANTS)}.")
        if not 0 < self.bandwidth <= LARGEST_BANDWIDTH:
            raise UserError(
                f"bandwidth is {self.bandwidth}; it must be positive, and at most {LARGEST_BANDWIDTH}: latents lie "
                "between -1 and 1."
            )

    def _sample(self, num_samples: int, generator: torch.Generator | None) -> Tensor:
        anchors = self.anchors
        shape = (num_samples, anchors.shape[1])
        # a draw from a kernel density is one of its points, chosen with equal odds, plus noise of the kernel
        chosen = torch.randint(
            len(anchors), shape if self.variant == "independent" else shape[:1], generator=generator
        )
        noise = torch.randn(shape if self.variant != "as_released" else (num_samples, 1), generator=generator)
        points = anchors.gather(0, chosen) if self.variant == "independent" else anchors[chosen]
        return points + self.bandwidth * noise
