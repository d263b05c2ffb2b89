"""The populations that are compared: which checkpoints they start from, and how they are drawn."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor

from ..errors import UserError
from ..files import construct
from ..images import ImageData
from ..representation import HyperRepModel
from ..representation.batched import decode_rows, encode_rows
from ..results import fingerprint
from ..samplers import KDE_VARIANTS, KDESampler, Sampler, UniformSampler
from ..zoo import Zoo, ZooSplit


FIRST_ORDER_SEED = 1_000_000  # image orders of fine-tuned networks: none that a zoo's own seeds would give
LARGEST_SEED = 2**32 - 1
STORED = "S_stored"


@dataclass(frozen=True)
class FinetuneSettings:
    """Args:
    num_models (`int`, *optional*, defaults to 50): networks in each generated population.
    epochs (`int`, *optional*, defaults to 25): fine-tuning epochs, by the zoo's own recipe.
    top (`float`, *optional*, defaults to 0.3): share of the training checkpoints, best by zoo validation accuracy,
        that the densities are fitted to.
    bandwidth (`float`, *optional*, defaults to 0.002): of the kernel density, in latents and in weights.
    variants (`tuple[str, ...]`): of the kernel density, see [`KDESampler`].
    seed (`int`, *optional*, defaults to 0): of the sampling and of the image orders.
    """

    num_models: int = 50
    epochs: int = 25
    top: float = 0.3
    bandwidth: float = 0.002
    variants: tuple[str, ...] = KDE_VARIANTS
    seed: int = 0

    def __post_init__(self):
        if self.num_models < 1:
            raise UserError(f"num_models is {self.num_models}; it must be at least 1.")
        if self.epochs < 0:
            raise UserError(f"epochs is {self.epochs}; it must be 0 or more.")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise UserError(f"seed is {self.seed}; it must be from 0 to {LARGEST_SEED:,}.")
        for variant in self.variants:
            KDESampler(variant, self.bandwidth, self.top)  # checks its own ranges, before anything is trained

    @property
    def share(self) -> str:
        """Of the best, in per cent: `30`."""
        return f"{100 * self.top:.6g}"

    @property
    def order_seeds(self) -> range:
        """Seeds of the image orders, one a network."""
        first = FIRST_ORDER_SEED * (self.seed + 1)
        return range(first, first + self.num_models)


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
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.method}-{self.variant or 'only'}"


@strict
@dataclass
class Filter:
    """Which checkpoints of a zoo a representation was trained on, as its configuration records it (`config.zoo`).

    Attributes:
        epochs (`list[int]`)
        weight_threshold (`float`): checkpoints with a weight beyond it, in absolute value, were dropped.
    """

    epochs: list[int]
    weight_threshold: float | int = math.inf

    @classmethod
    def of(cls, model: HyperRepModel, zoo: Zoo) -> "Filter":
        """A representation that does not say gets the last epoch of the training models, and all finite checkpoints.

        Raises:
            UserError: if the record is damaged.
        """
        record = model.config.zoo or {}
        known = {name: record[name] for name in ("epochs", "weight_threshold") if name in record}
        return construct(cls, {"epochs": [int(zoo["train"].epoch.max())]} | known, "config.json, zoo")

    def __post_init__(self):
        if not self.epochs or not self.weight_threshold > 0:
            raise UserError(f"epochs {self.epochs} within {self.weight_threshold} leave no checkpoint.")

    def rows(self, zoo: Zoo, split: str) -> ZooSplit:
        """A split as the representation's training took it."""
        return zoo[split].select(self.epochs).within(self.weight_threshold, split)


def check_memory(model: HyperRepModel, images: ImageData, settings: FinetuneSettings) -> None:
    """Before anything is allocated.

    Raises:
        UserError
    """
    config, answers = model.config, len(images.test) + len(images.validation)
    populations = 2 * len(settings.variants) + 2
    num_params = sum(math.prod(shape) for _, shape in config.layout)
    one = 4 * (populations * (num_params + config.latent_size) + 3 * num_params + 2 * answers)
    needed, there = settings.num_models * one, psutil.virtual_memory().total
    if needed > there:
        raise UserError(
            f"num_models is {settings.num_models:,}; so many networks of {num_params:,} parameters take "
            f"{needed / 2**30:,.0f} GiB, and this machine has {there / 2**30:,.0f}. Ask for fewer."
        )


def draw_populations(
    model: HyperRepModel, training: ZooSplit, settings: FinetuneSettings, stored: Sampler | None
) -> Iterator[Population]:
    """Every generated population.

    Raises:
        UserError: if latents or decoded networks are not finite.
    """
    scores = training.metrics["validation_accuracy"]
    latents = encode_rows(model, training.weights)
    if not torch.isfinite(latents).all():
        raise UserError("the representation encodes checkpoints to NaN or infinite latents; train it again.")
    recognised = False

    def population(method: str, variant: str, sampler: Sampler) -> Population:
        nonlocal recognised
        drawn = sampler.sample(settings.num_models, torch.Generator().manual_seed(settings.seed))
        made: dict[str, Any] = {"sampling": {"method": sampler.method, **sampler.settings()}}
        if method.startswith("S_"):
            drawn = finite(decode_rows(model, drawn), f"{method} {variant}")
            if sampler is stored or (stored is not None and _same(sampler, stored)):
                made["stored_sampler"] = recognised = True
        return Population(method, variant, drawn, made)

    # the baseline gets the weights as the representation does: aligned, if it was trained on aligned ones
    for method, points in (("S_KDE", latents), ("B_KDE", model.align(training.weights))):
        for variant in settings.variants:
            sampler = KDESampler(variant=variant, bandwidth=settings.bandwidth, top=settings.top)
            yield population(method + settings.share, variant, sampler.fit(points, scores))
    yield population("S_U", "", UniformSampler().fit(latents, scores))
    if stored is not None and not recognised:
        found = population(STORED, str(stored.settings().get("variant", stored.method)), stored)
        found.settings["sampler_sha256"] = fingerprint(stored.fitted())  # it may be anybody's
        yield found


def _same(sampler: Sampler, stored: Sampler) -> bool:
    """Whether two samplers draw the same; latents may differ as far as they do from one machine to another."""
    if type(sampler) is not type(stored):
        return False
    if isinstance(sampler, UniformSampler):
        return True  # it does not look at the latents
    state, other = sampler.fitted(), stored.fitted()
    return sampler.settings() == stored.settings() and all(
        state[name].shape == other[name].shape and torch.allclose(state[name], other[name], rtol=0.0, atol=1e-4)
        for name in sampler.state_shapes
    )


def finite(weights: Tensor, what: str) -> Tensor:
    broken = int((~torch.isfinite(weights).all(dim=1)).sum())
    if broken:
        raise UserError(
            f"{broken} of {len(weights)} decoded networks ({what}) hold NaN or infinite weights; the representation "
            "cannot be evaluated."
        )
    return weights
