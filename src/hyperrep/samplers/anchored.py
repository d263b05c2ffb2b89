"""Samplers that keep every training latent with its score, and can therefore be refitted."""

from dataclasses import field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import UserError
from ..files import construct
from .base import Sampler, Shapes, one_of, sampler_classes, settings_class


@settings_class
class AnchoredSampler(Sampler):
    r"""
    A density over the best of some latents. It keeps *all* of them, so that a published sampler can be turned into
    another method's or another share's ([`refit`]).

    Args:
        top (`float`, *optional*): fit to this share of the latents, best by score (method S_...30 of the paper is
            0.3). The cut is the `1 - top` quantile of all scores; ties at the cut stay in. With `None`, all.
        worst (`bool`, *optional*, defaults to `False`): to so many of the worst instead.
        score (`str`, *optional*, defaults to `"validation_accuracy"`): by which column of the zoo.
    """

    state_shapes: ClassVar[Shapes] = {
        "latents": (None, None),
        "scores": (None,),
        "places": (None, 2),
        "models": (None,),
    }
    whole_numbers: ClassVar[tuple[str, ...]] = ("places", "models")

    top: float | int | None = field(default=0.3, kw_only=True)
    worst: bool = field(default=False, kw_only=True)
    score: str = field(default="validation_accuracy", kw_only=True)

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
    def places(self) -> Tensor:
        """Layer and neuron of each of their numbers, (latent_size, 2)."""
        return self.fitted()["places"]

    @property
    def latent_size(self) -> int:
        return self.latents.shape[1]

    @property
    def models(self) -> Tensor:
        """Of which network each of them is a checkpoint, (rows,)."""
        return self.fitted()["models"]

    def _fit(self, latents: Tensor, scores: Tensor | None, places: Tensor, models: Tensor) -> dict[str, Tensor]:
        if scores is None:
            if self.top is not None and self.top < 1:
                raise UserError(f"top {self.top} selects by score, and no scores were given.")
            scores = torch.zeros(len(latents))
        before = self.state
        self.state = {"latents": latents, "scores": scores, "places": places, "models": models}
        try:
            return self.state | self._learned()
        except BaseException:  # a fit that fails leaves the sampler as it was
            self.state = before
            raise

    def _learned(self) -> dict[str, Tensor]:
        """What a density knows of its [`anchors`] beyond themselves: the rest of the state."""
        return {}

    def check_state(self) -> None:
        if self.scores.shape != self.latents.shape[:1] or not self.latents.numel():
            raise UserError(
                f"latents have shape {list(self.latents.shape)} and scores {list(self.scores.shape)}; as many are "
                "needed, one row or more."
            )
        if len(self.places) != self.latent_size or (self.places < 0).any():
            raise UserError(f"places are those of {len(self.places)} numbers, latents have {self.latent_size}.")
        if len(self.models) != len(self.latents):
            raise UserError(f"models are those of {len(self.models)} latents; there are {len(self.latents)}.")

    @property
    def anchors(self) -> Tensor:
        """The selected latents (anchors, latent_size)."""
        return self.latents[self.chosen]

    @property
    def chosen(self) -> Tensor:
        """Which latents are selected, (rows,), bool."""
        goodness = -self.scores if self.worst else self.scores
        return goodness >= torch.quantile(goodness, 1 - (1 if self.top is None else self.top))


def fit_to_known(
    sampler: Sampler,
    points: Tensor,
    scores: Tensor,
    places: Tensor | None = None,
    models: Tensor | None = None,
) -> Sampler:
    """Fit a sampler to the networks whose score is known; where none is, to all of them, without choosing the best.

    Args:
        sampler ([`Sampler`])
        points (`Tensor`): (rows, latent_size).
        scores (`Tensor`): (rows,), NaN where it is not known.
        places, models (`Tensor`, *optional*): see [`Sampler.fit`].

    Raises:
        UserError: as [`Sampler.fit`].
    """
    known = torch.isfinite(scores)
    if known.any():
        return sampler.fit(points[known], scores[known], places, None if models is None else models[known])
    if "top" in (settings := sampler.settings()):
        sampler = type(sampler)(**settings | {"top": None})
    return sampler.fit(points, places=places, models=models)


def new_sampler(method: str, **settings: Any) -> Sampler:
    """A sampler by the name of its method, not fitted yet.

    Args:
        method (`str`): such as `kde`.
        settings: arguments of its class.

    Raises:
        UserError: if the method or a setting is unknown, or a setting out of range.
    """
    kind = one_of({kind.method: kind for kind in sampler_classes()}, method, "sampling method")
    known = kind().settings()
    if unknown := [name for name in settings if name not in known]:
        raise UserError(f"method {method} has no setting {', '.join(unknown)}; it has {', '.join(known)}.")
    return construct(kind, settings, f"method {method}")


def refit(sampler: Sampler, method: str | None = None, **settings: Any) -> Sampler:
    """A sampler over the same latents, with another method or other settings.

    Args:
        sampler ([`Sampler`]): a fitted one that keeps its latents.
        method (`str`, *optional*): such as `kde` or `uniform`; the sampler's own by default.
        settings: arguments of that method's class; `None` leaves a setting as it was. Another method starts from its
            own, but for those that choose latents: `top`, `worst` and `score`.

    Raises:
        UserError: if the method or a setting is unknown, the method has no such setting, or the sampler keeps no
            latents.
    """
    sampler.fitted()
    changed = {name: value for name, value in settings.items() if value is not None}
    if method in (None, sampler.method) and not changed:
        return sampler
    kind = type(new_sampler(sampler.method if method is None else method, **changed))
    common = kind().settings() if kind is type(sampler) else ("top", "worst", "score")
    kept = {name: value for name, value in sampler.settings().items() if name in common and name in kind().settings()}
    if kind is type(sampler) and set(changed) <= set(kind.of_drawing):
        return kind(**(kept | changed)).restored(sampler.fitted())
    if not isinstance(sampler, AnchoredSampler):
        raise UserError(f"{sampler} keeps no latents that another could be fitted to.")
    return kind(**(kept | changed)).fit(sampler.latents, sampler.scores, sampler.places, sampler.models)
