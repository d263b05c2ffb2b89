"""Samplers from a folder, from a zoo, and from one another."""

import difflib
import math
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import construct
from ..representation import HyperRepModel
from ..representation.batched import encode_rows
from ..zoo import ZooSplit
from .base import CONFIG_NAME, Sampler, read_sampler
from .kde import KDESampler
from .uniform import UniformSampler


METHODS: dict[str, type[Sampler]] = {"kde": KDESampler, "uniform": UniformSampler}


def load_sampler(folder: str | Path) -> Sampler:
    """The sampler that was saved in `folder`.

    Raises:
        UserError: if files are missing or damaged, the method is unknown, or a setting is unknown or out of range.
    """
    folder = Path(folder)
    config, latents, scores = read_sampler(folder)
    try:
        kind = _sampler_class(config.pop("method"))
        return construct(kind, config, CONFIG_NAME).fit(latents, scores)
    except UserError as error:
        raise UserError(f"the sampler in {folder} cannot be used: {error}") from error


def refit(sampler: Sampler, method: str | None = None, **settings: Any) -> Sampler:
    """A sampler over the same latents, with another method or other settings.

    Args:
        sampler ([`Sampler`]): a fitted one.
        method (`str`, *optional*): `kde` or `uniform`; the sampler's own by default.
        settings: arguments of that method's class; `None` leaves a setting as it was.

    Raises:
        UserError: if the method or a setting is unknown, or the method has no such setting.
    """
    kind = _sampler_class(sampler.method if method is None else method)
    known = kind().settings()
    changed = {name: value for name, value in settings.items() if value is not None}
    if unknown := [name for name in changed if name not in known]:
        raise UserError(f"method {kind.method} has no setting {', '.join(unknown)}; it has {', '.join(known)}.")
    kept = {name: value for name, value in sampler.settings().items() if name in known}
    if sampler.latents is None:
        raise UserError("the sampler has no latents to refit to: call fit first, or load a saved one.")
    return kind(**(kept | changed)).fit(sampler.latents, sampler.scores)


def fit_sampler(model: HyperRepModel, rows: ZooSplit, sampler: Sampler | None = None) -> Sampler:
    """Encode checkpoints as they are (no augmentation) and fit a sampler to their latents.

    Checkpoints that the model's training dropped (`weight_threshold`) are dropped here, too.

    Args:
        model ([`HyperRepModel`])
        rows ([`ZooSplit`]): the training split's checkpoints.
        sampler ([`Sampler`], *optional*): the method; by default independent KDE over the best 30 %.
    """
    sampler = sampler or KDESampler()
    rows = rows.within((model.config.zoo or {}).get("weight_threshold", math.inf))
    return sampler.fit(encode_rows(model, rows.weights), rows.metrics[sampler.score])


def _sampler_class(method: str) -> type[Sampler]:
    if method not in METHODS:
        nearest = difflib.get_close_matches(method, METHODS, n=1, cutoff=0.0)[0]
        raise UserError(
            f"sampling method {method!r} is unknown; did you mean {nearest!r}? There are {', '.join(METHODS)}."
        )
    return METHODS[method]
