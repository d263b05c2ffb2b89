"""One Gaussian: what a density must beat that claims to know more than mean and covariance."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import UserError
from .anchored import AnchoredSampler
from .base import Shapes, settings_class


VARIANTS = ("diagonal", "low_rank")


@settings_class
class GaussianSampler(AnchoredSampler):
    r"""
    A Gaussian with the latents' mean and variances, and their leading principal components if asked for.

    Args:
        variant (`str`, *optional*, defaults to `"diagonal"`): all dimensions independent; or `low_rank`.
        rank (`int`, *optional*, defaults to 64): so many components carry their covariance in `low_rank`; what is left
            of each dimension's variance is independent.
        top, worst, score: see [`AnchoredSampler`].
    """

    method: ClassVar[str] = "gaussian"
    label: ClassVar[str] = "G"
    spaces: ClassVar[tuple[str, ...]] = ("weights", "latents")
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = tuple({"variant": name} for name in VARIANTS)
    state_shapes: ClassVar[Shapes] = {
        **AnchoredSampler.state_shapes,
        "mean": (None,),
        "components": (None, None),
        "deviations": (None,),
    }

    variant: str = "diagonal"
    rank: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in VARIANTS:
            raise UserError(f"variant {self.variant!r} is unknown; choose from {', '.join(VARIANTS)}.")
        if self.rank < 1:
            raise UserError(f"rank is {self.rank}; it must be 1 or more.")

    def _learned(self) -> dict[str, Tensor]:
        anchors = self.anchors.double()
        mean, variance = anchors.mean(dim=0), anchors.var(dim=0, correction=0)
        components = torch.zeros(0, anchors.shape[1], dtype=torch.float64)
        if self.variant == "low_rank":
            _, values, vectors = torch.linalg.svd(anchors - mean, full_matrices=False)
            components = (values[: self.rank, None] / len(anchors) ** 0.5) * vectors[: self.rank]
        rest = (variance - components.square().sum(dim=0)).clamp_min(0)
        fitted = {"mean": mean, "components": components, "deviations": rest.sqrt()}
        return {name: tensor.float() for name, tensor in fitted.items()}

    def check_state(self) -> None:
        super().check_state()
        state = self.fitted()
        widths = {state[name].shape[-1] for name in ("mean", "components", "deviations")}
        if widths != {self.latent_size} or (state["deviations"] < 0).any():
            raise UserError(f"mean, components and deviations are not those of {self.latent_size} dimensions.")

    def drawn_from(self) -> dict[str, Tensor]:
        state = self.fitted()
        along = state["components"]  # each up to its sign
        return {"mean": state["mean"], "covariance": along.T @ along, "deviations": state["deviations"]}

    def _sample(self, num_samples: int, generator: torch.Generator | None) -> Tensor:
        state = self.fitted()
        common = torch.randn(num_samples, len(state["components"]), generator=generator)
        own = torch.randn(num_samples, self.latent_size, generator=generator)
        return state["mean"] + common @ state["components"] + own * state["deviations"]
