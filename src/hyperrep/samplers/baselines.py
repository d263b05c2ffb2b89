"""What samples have to beat: networks made of training networks without having learned anything (arXiv 2506.07998)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import UserError
from .anchored import AnchoredSampler
from .base import settings_class


@settings_class
class NoiseSampler(AnchoredSampler):
    r"""
    A training network plus Gaussian noise, in each layer as large as a share of how far its weights spread.

    Args:
        scale (`float`, *optional*, defaults to 0.3): standard deviation of the noise over that of all weights of the
            layer, in all networks that are chosen from.
        top, worst, score: see [`AnchoredSampler`].
    """

    method: ClassVar[str] = "noise"
    label: ClassVar[str] = "N"
    spaces: ClassVar[tuple[str, ...]] = ("weights",)
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"scale": 0.1}, {"scale": 0.3}, {"scale": 0.5})

    scale: float | int = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.scale <= 100:
            raise UserError(f"scale is {self.scale}; it must lie between 0 and 100.")

    def _sample(self, num_samples: int, generator: torch.Generator | None) -> Tensor:
        anchors, layers = self.anchors, self.places[:, 0]
        spread = torch.empty(self.latent_size)
        for layer in layers.unique():
            spread[layers == layer] = anchors[:, layers == layer].std(correction=0)
        chosen = torch.randint(len(anchors), (num_samples,), generator=generator)
        return anchors[chosen] + self.scale * spread * torch.randn(num_samples, self.latent_size, generator=generator)


@settings_class
class AverageSampler(AnchoredSampler):
    r"""
    The average of some training networks, each drawn anew.

    Args:
        count (`int`, *optional*, defaults to 16): of how many; with 2, the middle between a pair.
        top, worst, score: see [`AnchoredSampler`].
    """

    method: ClassVar[str] = "average"
    label: ClassVar[str] = "A"
    spaces: ClassVar[tuple[str, ...]] = ("weights",)
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"count": 2}, {"count": 16})

    count: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.count <= 10_000:
            raise UserError(f"count is {self.count}; it must lie between 1 and 10,000.")

    def _sample(self, num_samples: int, generator: torch.Generator | None) -> Tensor:
        anchors, total = self.anchors, torch.zeros(num_samples, self.latent_size)
        for _ in range(self.count):
            total += anchors[torch.randint(len(anchors), (num_samples,), generator=generator)]
        return total / self.count


@settings_class
class InterpolationSampler(AnchoredSampler):
    r"""
    A point between two training networks, at an even share of the way.

    Args:
        top, worst, score: see [`AnchoredSampler`].
    """

    method: ClassVar[str] = "interpolation"
    label: ClassVar[str] = "I"
    spaces: ClassVar[tuple[str, ...]] = ("weights",)

    def _sample(self, num_samples: int, generator: torch.Generator | None) -> Tensor:
        anchors = self.anchors
        ends = torch.randint(len(anchors), (2, num_samples), generator=generator)
        share = torch.rand(num_samples, 1, generator=generator)
        return anchors[ends[0]].lerp(anchors[ends[1]], share)
