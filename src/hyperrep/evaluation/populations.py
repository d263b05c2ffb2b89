"""The populations that are compared, from their names: drawn by every sampler there is, in latent space by the
pipeline (S_...) or over weights as a baseline (B_...)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from ..errors import UserError
from ..files import read_tensors
from ..representation.loading import WEIGHTS
from ..results import fingerprint
from ..samplers import Sampler, fit_to_known, sampler_classes
from ..weights import WeightLayout
from ..zoo import load_zoo
from .bench import Bench
from .novelty import last_rows


STORED = "S_stored"
PREFIXES = {"weights": "B", "latents": "S"}  # of the paper


@dataclass(frozen=True)
class Population:
    """Generated networks.

    Attributes:
        method, variant (`str`): what rows call it.
        weights (`Tensor`): (num_models, num_params)
        settings (`dict`): how it was drawn.
    """

    method: str
    variant: str
    weights: Tensor
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.method}-{self.variant or 'only'}"


@dataclass(frozen=True)
class Draw:
    """A population that is to be drawn.

    Attributes:
        space (`str`): `weights` or `latents`.
        sampler ([`Sampler`]): not fitted yet.
    """

    space: str
    sampler: Sampler

    @property
    def method(self) -> str:
        """`S_KDE30`: where it was drawn, by what, and from how many per cent of the best."""
        top = self.sampler.settings().get("top")
        label = self.sampler.label or self.sampler.method.upper()
        return f"{PREFIXES[self.space]}_{label}" + ("" if top is None else f"{100 * top:.6g}")

    @property
    def variant(self) -> str:
        return variant_of(self.sampler)


def variant_of(sampler: Sampler) -> str:
    """The values of those settings that tables show side by side; empty for a sampler that comes in one kind."""
    # of how many of the best, its method says
    names = dict.fromkeys(name for variant in sampler.variants for name in variant if name != "top")
    return " ".join(str(sampler.settings()[name]) for name in names)


def planned(methods: Sequence[str] = (), **changes: Any) -> list[Draw]:
    """What is drawn: samplers in every variant, over weights where that is a baseline, and over latents.

    Args:
        methods (`list[str]`, *optional*): these, by method (`kde`) or method and variant (`kde-joint`). By default all
            that fit in seconds (`tabled`).
        changes: settings instead of a sampler's own, for those that have them; `None` changes nothing.

    Raises:
        UserError: if a method is unknown or needs a library that is missing, or a setting is out of range.
    """
    asked = {name: value for name, value in changes.items() if value is not None}
    draws = []
    for kind in sampler_classes():
        own = kind().settings()
        # a sampler that uses all networks by default is not one of the best
        known = {name: value for name, value in asked.items() if own.get(name) is not None}
        draws += [Draw(space, kind(**{**known, **variant})) for space in kind.spaces for variant in kind.variants]
    names = {name: draw for draw in draws for name in _names(draw)}
    if unknown := [name for name in methods if name not in names]:
        raise UserError(f"method {unknown[0]!r} is unknown; choose from {', '.join(names)}.")
    chosen = [
        draw for draw in draws if (any(name in methods for name in _names(draw)) if methods else draw.sampler.tabled)
    ]
    for draw in chosen:
        draw.sampler.check_installed()  # they are fitted after minutes, or after a zoo was built
    return sorted(chosen, key=lambda draw: list(PREFIXES).index(draw.space))


def _names(draw: Draw) -> list[str]:
    method = draw.sampler.method
    return [method, f"{method}-{draw.variant.replace(' ', '-')}"] if draw.variant else [method]


def check_memory(bench: Bench, draws: Sequence[Draw], num_models: int) -> None:
    """Before anything is allocated.

    Raises:
        UserError
    """
    config, answers = bench.model.config, len(bench.images.test) + len(bench.images.validation)
    num_params = sum(math.prod(shape) for _, shape in config.layout)
    one = 4 * ((len(draws) + 1) * (num_params + config.latent_size) + 3 * num_params + 2 * answers)
    needed, there = num_models * one, psutil.virtual_memory().total
    if needed > there:
        raise UserError(
            f"num_models is {num_models:,}; so many networks of {num_params:,} parameters take "
            f"{needed / 2**30:,.0f} GiB, and this machine has {there / 2**30:,.0f}. Ask for fewer."
        )


def draw_populations(bench: Bench, draws: Sequence[Draw], num_models: int, seed: int) -> Iterator[Population]:
    """Every generated population; the sampler that ships with the representation last, as `S_stored`, unless it is one
    of the others.

    Raises:
        UserError: if latents or decoded networks are not finite.
    """
    scores, recognised = bench.training.metrics["validation_accuracy"], False
    # a baseline gets the weights as the representation does: aligned, if it was trained on aligned ones
    processor = bench.model.processor
    points = {"latents": bench.latents, "weights": processor.align(bench.training.weights)}
    places = {"latents": bench.model.latent_places, "weights": processor.places}
    for draw in draws:
        sampler = fit_to_known(draw.sampler, points[draw.space], scores, places[draw.space], bench.training.model_id)
        made: dict[str, Any] = {}
        if draw.space == "latents" and bench.sampler is not None and _same(sampler, bench.sampler):
            made["stored_sampler"] = recognised = True
        yield population_of(bench, draw.method, draw.variant, draw.space, sampler, num_models, seed, made)
    if bench.sampler is not None and not recognised:
        made = {"stored_sampler": True}
        made["sampler_sha256"] = fingerprint(bench.sampler.fitted())  # it may be anybody's
        name = variant_of(bench.sampler) or bench.sampler.method
        yield population_of(bench, STORED, name, "latents", bench.sampler, num_models, seed, made)


def population_of(
    bench: Bench,
    method: str,
    variant: str,
    space: str,
    sampler: Sampler,
    num_models: int,
    seed: int,
    made: dict[str, Any],
) -> Population:
    """Networks drawn by a fitted sampler, over `latents` by the pipeline or over `weights`.

    Args:
        made (`dict`): what its rows say beside the sampler's settings.

    Raises:
        UserError: if decoded networks are not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    made = {"sampling": {"method": sampler.method, **sampler.settings()}, "space": space} | made
    if space == "weights":
        return Population(method, variant, bench.refreshed(sampler.sample(num_models, generator)), made)
    try:
        weights = bench.pipeline(sampler)(num_models, generator=generator).weights
    except UserError as error:
        raise UserError(f"{method} {variant}: {error}") from error
    return Population(method, variant, bench.refreshed(weights), made)


def of_the_zoo(bench: Bench, num_models: int) -> Population:
    """B_F: the first training networks as they are after their last epoch, to be trained on (`direct` in the code of
    arXiv 2209.14733); fewer than asked for if there are no more."""
    training = bench.training
    chosen = last_rows(training.model_id)[:num_models]
    made = {"space": "weights", "models": training.model_id[chosen].tolist()}
    return Population("B_F", "", training.weights[chosen], made)


def from_folder(bench: Bench, folder: str) -> Population:
    """Networks of the zoo's architecture: those that were written to a folder as `model-00000`, ..., or the last
    checkpoints of a zoo; as they are.

    Raises:
        UserError: if there are none, or they have other tensors.
    """
    path = Path(folder)
    layout = WeightLayout.from_list(bench.model.config.layout)
    if (path / "zoo_config.json").exists():
        zoo = load_zoo(path)
        if zoo.config.weight_layout() != layout:
            raise UserError(f"the networks of zoo {folder} have other tensors than those of zoo {bench.zoo.name}.")
        weights = torch.cat([split.select([max(split.epoch.tolist())]).weights for split in zoo.splits.values()])
    else:
        files = sorted(path.glob(f"model-*/{WEIGHTS}"))
        if not files:
            raise UserError(f"{folder} holds no networks: no zoo_config.json, and no model-*/{WEIGHTS}.")
        shapes = dict(layout.tensors)
        weights = torch.stack([layout.vectorize(read_tensors(file, shapes)) for file in files])
    name = path.resolve().name
    return Population(name, "", weights, {"networks": name, "networks_sha256": fingerprint({"weights": weights})})


def _same(sampler: Sampler, stored: Sampler) -> bool:
    """Whether two samplers draw the same; latents may differ as far as they do, once rounded, from one machine to
    another."""
    if type(sampler) is not type(stored) or sampler.settings() != stored.settings():
        return False
    state, other = sampler.drawn_from(), stored.drawn_from()
    return all(
        state[name].shape == other[name].shape and torch.allclose(state[name], other[name], rtol=0.0, atol=1e-3)
        for name in state
    )
