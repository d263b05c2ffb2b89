"""The parts a zoo is built in: some models each, trained together and kept in one file until all are there."""

import errno
import logging
import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import UserError
from ..images import ImageData
from ..population import Engine, train_population
from .dataset import METRICS
from .settings import ZooSettings, split_models


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """Models that are trained together.

    Attributes:
        index (`int`): names its file.
        models (`list[int]`): which of the zoo's models.
        epochs (`int`): how long they are trained.
    """

    index: int
    models: list[int]
    epochs: int

    def path(self, folder: Path) -> Path:
        return folder / f"shard-{self.index:05d}.safetensors"


def plan_shards(settings: ZooSettings, size: int) -> list[Shard]:
    """Cut a zoo into shards of at most `size` models that are trained equally long.

    How a zoo is cut changes none of its bytes: a model is defined by its seed alone.
    """
    alike: dict[int, list[int]] = defaultdict(list)
    for split, models in split_models(settings.models).items():
        alike[settings.epochs_of(split)] += models.tolist()
    parts = [
        (sorted(models)[i : i + size], epochs)
        for epochs, models in sorted(alike.items())
        for i in range(0, len(models), size)
    ]
    return [Shard(index, models, epochs) for index, (models, epochs) in enumerate(parts)]


def train_shard(
    settings: ZooSettings,
    shard: Shard,
    images: ImageData,
    engine: Engine,
    folder: Path,
    report: Callable[[int], object],
) -> None:
    """Train a shard's models and store the kept epochs, as tensors (kept epochs, models, ...).

    Args:
        report: called after every epoch with the model-epochs it took.
    """
    protocol, kept = settings.protocol, settings.kept(shard.epochs)
    network = protocol.network_config(images.classes)
    seeds = [settings.seeds[model] for model in shard.models]
    weights, metrics = [], []
    for result in train_population(network, protocol.recipe, images, seeds, shard.epochs, engine):
        if result.epoch in kept:
            weights.append(result.weights)
            metrics.append(result.metrics())
        if result.epoch > 0:
            report(len(seeds))
    tensors = {name: torch.stack([row[name] for row in metrics]) for name in METRICS}
    tensors["weights"] = torch.stack(weights)
    write_atomically(shard.path(folder), lambda path: save_file(tensors, path))


def is_finished(shard: Shard, settings: ZooSettings, folder: Path) -> bool:
    """Whether the shard's file is there and whole. One that was cut short is reported and removed."""
    path = shard.path(folder)
    if not path.exists():
        return False
    expected = (len(settings.kept(shard.epochs)), len(shard.models))
    try:
        with safe_open(path, framework="pt") as file:
            shapes = [tuple(file.get_slice(name).get_shape()[:2]) for name in (*METRICS, "weights")]
        if all(shape == expected for shape in shapes):
            return True
        reason = f"holds {shapes[-1]} epochs and models instead of {expected}"
    except SafetensorError as error:
        reason = str(error)
    logger.warning("%s is damaged (%s); its models are trained again", path, reason)
    path.unlink(missing_ok=True)
    return False


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


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write under a temporary name and rename; nothing half-written is left behind.

    Raises:
        UserError: if the disk is full.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        # safetensors reports the system's error as text
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            raise UserError(
                f"the disk is full: {path.name} could not be written to {path.parent}. What was finished is kept; "
                "free some space and go on with --resume."
            ) from error
        raise
