"""Kernel density estimation over latents (paper, S_KDE)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import UserError
from .anchored import AnchoredSampler
from .bandwidth import cross_validated
from .base import Shapes, settings_class


KDE_VARIANTS = ("independent", "neuron", "layer", "joint", "as_released")
CROSS_VALIDATED = "cv"
LARGEST_BANDWIDTH = 10


@settings_class
class KDESampler(AnchoredSampler):
    r"""
    A Gaussian kernel density, of what is drawn independently of the rest.

    - `independent`: a density for each latent dimension, drawn from independently, as the paper's text says. Samples
      combine dimensions of different training models, so they are new.
    - `neuron`, `layer`: a density for what the latent says of each neuron, or of each layer. The coarser, the more a
      sample keeps of each of its parents. Where one latent stands for the whole network, they are `joint`.
    - `joint`: one density over whole latents: a training latent plus noise, independent in every dimension.
    - `as_released`: a density for each dimension, but all drawn with one random state, as the paper's published code
      does. Every dimension then picks the same training model and the same noise: a sample is a training latent plus
      one tiny offset, shared by all dimensions. For comparison only.

    Args:
        variant (`str`, *optional*, defaults to `"independent"`)
        bandwidth (`float` or `str`, *optional*, defaults to 0.002): standard deviation of the kernel; the paper's code
            has 0.002. With `"cv"` the one under which held-out fifths of the networks are likeliest, see
            [`cross_validated`].
        top, worst, score: see [`AnchoredSampler`].
    """

    method: ClassVar[str] = "kde"
    spaces: ClassVar[tuple[str, ...]] = ("weights", "latents")
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = (
        *({"variant": name} for name in KDE_VARIANTS),
        {"variant": "independent", "top": None},
    )
    state_shapes: ClassVar[Shapes] = {**AnchoredSampler.state_shapes, "bandwidth": (1,)}

    variant: str = "independent"
    bandwidth: float | int | str = 0.002

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in KDE_VARIANTS:
            raise UserError(f"variant {self.variant!r} is unknown; choose from {', '.join(KDE_VARIANTS)}.")
        if isinstance(self.bandwidth, str):
            if self.bandwidth != CROSS_VALIDATED:
                raise UserError(f"bandwidth is {self.bandwidth!r}; it must be a number or {CROSS_VALIDATED!r}.")
        elif not 0 < self.bandwidth <= LARGEST_BANDWIDTH:
            raise UserError(
                f"bandwidth is {self.bandwidth}; it must be positive, and at most {LARGEST_BANDWIDTH}: latents lie "
                "between -1 and 1."
            )

    def _learned(self) -> dict[str, Tensor]:
        if isinstance(self.bandwidth, str):
            width = cross_validated(self.anchors, self._groups(), self.models[self.chosen])
        else:
            width = float(self.bandwidth)
        return {"bandwidth": torch.tensor([width])}

    def check_state(self) -> None:
        super().check_state()
        width = self.fitted()["bandwidth"].item()
        if not 0 < width <= LARGEST_BANDWIDTH:
            raise UserError(f"the stored bandwidth is {width}; it must be positive, and at most {LARGEST_BANDWIDTH}.")

    def _groups(self) -> Tensor:
        """(latent_size,), from 0: dimensions of one group come from one anchor."""
        if self.variant == "independent":
            return torch.arange(self.latent_size)
        if self.variant in ("neuron", "layer"):
            return self.places[:, ("layer", "neuron").index(self.variant)].unique(return_inverse=True)[1]
        return torch.zeros(self.latent_size, dtype=torch.int64)

    def _sample(self, num_samples: int, generator: torch.Generator | None) -> Tensor:
        anchors, groups = self.anchors, self._groups()
        # a draw from a kernel density is one of its points, chosen with equal odds, plus noise of the kernel
        chosen = torch.randint(len(anchors), (num_samples, int(groups.max()) + 1), generator=generator)
        width = self.latent_size if self.variant != "as_released" else 1
        noise = torch.randn(num_samples, width, generator=generator)
        return anchors.gather(0, chosen[:, groups]) + self.fitted()["bandwidth"] * noise
