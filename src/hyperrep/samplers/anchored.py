"""Samplers that keep every training latent with its score, and can therefore be refitted."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import UserError
from .base import Sampler, one_of, sampler_classes


class AnchoredSampler(Sampler):
    r"""
    A density over the best of some latents. It keeps *all* of them, so that a published sampler can be turned into
    another method's or another share's ([`refit`]).

    Args:
        top (`float`, *optional*): fit to this share of the latents, best by score (method S_...30 of the paper is
            0.3). The cut is the `1 - top` quantile of all scores; ties at the cut stay in. All latents by default.
        score (`str`, *optional*, defaults to `"validation_accuracy"`): what the scores are, for the record.
    """

    state_shapes: ClassVar[Mapping[str, tuple[int | None, ...]]] = {"latents": (None, None), "scores": (None,)}

    top: float | int | None
    score: str

    def __post_init__(self) -> None:
        if self.top is not None and not 0 < self.top <= 1:
            raise UserError(f"top is {self.top}; it must be a share above 0 and at most 1, such as 0.3.")

    @property
    def latents(self) -> Tensor:
        """All of them, (rows, latent_size)."""
        return self.fitted()["latents"]

    @property
    def scores(self) -> Tensor:
        """Of all of them, (rows,)."""
        return self.fitted()["scores"]

    @property
    def latent_size(self) -> int:
        return self.latents.shape[1]

    def _fit(self, latents: Tensor, scores: Tensor | None) -> dict[str, Tensor]:
        if scores is None:
            if self.top is not None and self.top < 1:
                raise UserError(f"top {self.top} selects by score, and no scores were given.")
            scores = torch.zeros(len(latents))
        return {"latents": latents, "scores": scores}

    def check_state(self) -> None:
        if self.scores.shape != self.latents.shape[:1] or not self.latents.numel():
            raise UserError(
                f"latents have shape {list(self.latents.shape)} and scores {list(self.scores.shape)}; as many are "
                "needed, one row or more."
            )

    @property
    def anchors(self) -> Tensor:
        """The selected latents (anchors, latent_size)."""
        if self.top is None:
            return self.latents
        return self.latents[self.scores >= torch.quantile(self.scores, 1 - self.top)]


def fit_to_known(sampler: Sampler, points: Tensor, scores: Tensor) -> Sampler:
    """Fit a sampler to the networks whose score is known; where none is, to all of them, without choosing the best.

    Args:
        sampler ([`Sampler`])
        points (`Tensor`): (rows, latent_size).
        scores (`Tensor`): (rows,), NaN where it is not known.

    Raises:
        UserError: as [`Sampler.fit`].
    """
    known = torch.isfinite(scores)
    if known.any():
        return sampler.fit(points[known], scores[known])
    if "top" in (settings := sampler.settings()):
        sampler = type(sampler)(**settings | {"top": None})
    return sampler.fit(points)


def refit(sampler: Sampler, method: str | None = None, **settings: Any) -> Sampler:
    """A sampler over the same latents, with another method or other settings.

    Args:
        sampler ([`Sampler`]): a fitted one that keeps its latents.
        method (`str`, *optional*): such as `kde` or `uniform`; the sampler's own by default.
        settings: arguments of that method's class; `None` leaves a setting as it was.

    Raises:
        UserError: if the method or a setting is unknown, the method has no such setting, or the sampler keeps no
            latents.
    """
    sampler.fitted()
    changed = {name: value for name, value in settings.items() if value is not None}
    if method in (None, sampler.method) and not changed:
        return sampler
    kinds = {kind.method: kind for kind in sampler_classes()}
    kind = one_of(kinds, sampler.method if method is None else method, "sampling method")
    known = kind().settings()
    if unknown := [name for name in changed if name not in known]:
        raise UserError(f"method {kind.method} has no setting {', '.join(unknown)}; it has {', '.join(known)}.")
    kept = {name: value for name, value in sampler.settings().items() if name in known}
    if not isinstance(sampler, AnchoredSampler):
        raise UserError(f"{sampler} keeps no latents that another could be fitted to.")
    return kind(**(kept | changed)).fit(sampler.latents, sampler.scores)
