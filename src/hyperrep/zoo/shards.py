"""The parts a zoo is built in: some models each, trained together and kept in one file until all are there."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..files.writing import written_atomically
from ..images import ImageData
from ..networks import dropout_rate, initial_weights, layout_of
from ..population import Engine, Population, train_on
from .progress import Progress, is_whole
from .settings import ZooSettings, split_models
from .split import METRICS


# What decides which operations a population runs; the other factors are numbers that differ from model to model.
COMMON_FACTORS = ("hidden_act", "optimizer", "train_fraction")


@dataclass(frozen=True)
class Shard:
    """Models that are trained together.

    Attributes:
        index (`int`): names its file.
        models (`list[int]`): which of the zoo's models.
        epochs (`int`): how long they are trained.
        factors (`list[dict]`): generating factors of each. Activation, optimiser and train fraction are common.
    """

    index: int
    models: list[int]
    epochs: int
    factors: list[dict[str, Any]]

    @property
    def train_fraction(self) -> float:
        """Share of the training images that its models see."""
        return self.factors[0].get("train_fraction", 1.0)

    @property
    def cost(self) -> float:
        """Model-epochs; one over half of the images counts half."""
        return len(self.models) * self.epochs * self.train_fraction

    def path(self, folder: Path) -> Path:
        return folder / f"shard-{self.index:05d}.safetensors"

    def progress_path(self, folder: Path) -> Path:
        """Where it lies how far the training has come, until it is finished."""
        return folder / f"progress-{self.index:05d}.safetensors"


def plan_shards(settings: ZooSettings, size: int) -> list[Shard]:
    """Cut a zoo into shards of at most `size` models that are trained equally long and by the same operations.

    With the native engine and the loop, how a zoo is cut changes none of its bytes: they compute each model by itself.
    The vmap engine computes a chunk of a shard at once, and the sums in its matrix products are rounded by how many
    models there are: cut otherwise, last digits differ, which training amplifies.
    """
    factors = settings.protocol.factors(settings.models)
    alike: dict[tuple, list[int]] = defaultdict(list)
    for split, models in split_models(settings.models).items():
        for model in models.tolist():
            common = [factors[model].get(name, "") for name in COMMON_FACTORS]
            alike[settings.epochs_of(split), *common].append(model)
    parts = [
        (sorted(models)[i : i + size], key[0])
        for key, models in sorted(alike.items())
        for i in range(0, len(models), size)
    ]
    return [
        Shard(index, models, epochs, [factors[model] for model in models])
        for index, (models, epochs) in enumerate(parts)
    ]


def share_of(shards: list[Shard], rank: int, count: int) -> list[Shard]:
    """The shards of one of `count` processes, the costly ones first: dealt out so, all have about as much to do."""
    return sorted(shards, key=lambda shard: -shard.cost)[rank::count]


def train_shard(
    settings: ZooSettings,
    shard: Shard,
    images: ImageData,
    engine: Engine,
    folder: Path,
    report: Callable[[float], object],
) -> None:
    """Train a shard's models and store the kept epochs, as tensors (kept epochs, models, ...).

    Args:
        report: called after every epoch with its part of the shard's cost.
    """
    protocol, kept = settings.protocol, settings.kept(shard.epochs)
    seeds = [settings.seeds[model] for model in shard.models]
    networks = [protocol.network_config(images.classes, factors) for factors in shard.factors]
    recipes = [protocol.recipe_of(factors) for factors in shard.factors]
    if shard.train_fraction < 1:
        count = max(1, round(shard.train_fraction * len(images.train)))
        images = replace(images, train=images.train[:count])  # in an order that is random already
    population = Population.start(
        networks[0],
        recipes[0],
        torch.cat([initial_weights(network, [seed]) for network, seed in zip(networks, seeds)]),
    )
    population.learning_rates = torch.tensor([recipe.learning_rate for recipe in recipes])
    population.weight_decays = torch.tensor([recipe.weight_decay for recipe in recipes])
    population.dropouts = torch.tensor([dropout_rate(network) for network in networks])
    progress = progress_of(settings, shard, images, folder)
    rows = {name: torch.empty(len(kept), *shape, dtype=torch.float32) for name, shape in progress.shapes.items()}
    epochs = range(progress.restore(population, rows), shard.epochs + 1)
    for result in train_on(networks[0], population, images, seeds, epochs, engine):
        if result.epoch in kept:
            row = result.metrics() | {"weights": result.weights}
            for name, values in rows.items():
                values[kept.index(result.epoch)] = row[name]
        progress.keep(result.epoch, population, rows)
        if result.epoch > 0:
            report(shard.cost / shard.epochs)
    with written_atomically(shard.path(folder)) as temporary:
        save_file(rows, temporary)
    progress.remove()


def progress_of(settings: ZooSettings, shard: Shard, images: ImageData, folder: Path) -> Progress:
    """The file that holds how far an unfinished shard has come."""
    shapes = _shapes(settings, shard, images)
    return Progress(shard.progress_path(folder), settings.kept(shard.epochs), shard.epochs, shapes)


def _shapes(settings: ZooSettings, shard: Shard, images: ImageData) -> dict[str, list[int]]:
    """Of the columns of one epoch."""
    models = len(shard.models)
    num_params = layout_of(settings.protocol.network_config(images.classes)).num_params
    return {name: [models] for name in METRICS} | {"weights": [models, num_params]}


def is_finished(shard: Shard, settings: ZooSettings, images: ImageData, folder: Path) -> bool:
    """Whether the shard's file is there and whole. One that was cut short is reported and removed."""
    kept, shapes = len(settings.kept(shard.epochs)), _shapes(settings, shard, images)
    path = shard.path(folder)
    return path.exists() and is_whole(path, {name: [kept, *shape] for name, shape in shapes.items()})


def read_shards(shards: list[Shard], folder: Path) -> dict[str, Tensor]:
    """All rows of all shards, ordered by model and epoch; `model_id` (rows,) says whose they are."""
    tensors: dict[str, list[Tensor]] = defaultdict(list)
    for shard in shards:
        part = load_file(shard.path(folder))
        for name, values in part.items():  # (kept epochs, models, ...) -> (models * kept epochs, ...)
            tensors[name].append(values.transpose(0, 1).flatten(0, 1))
        kept = len(part["weights"])
        tensors["model_id"].append(torch.tensor(shard.models).repeat_interleave(kept))
    rows = {name: torch.cat(parts) for name, parts in tensors.items()}
    order = rows["model_id"].argsort(stable=True)
    return {name: values[order] for name, values in rows.items()}
