"""Build a zoo: train its models shard by shard, resumably, and merge the shards into a `datasets` folder."""

import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from ..errors import UserError
from ..images import ImageData
from ..population import Engine, train_population
from ..version import __version__
from ..weights import WeightLayout
from .card import write_card
from .dataset import CONFIG_NAME, METRICS, ZooConfig, ZooSplit, split_models, write_split
from .protocol import Protocol


MODELS_PER_SHARD = 32  # what a kill can cost; two full groups of vector lanes, so no engine idles
MIN_MODELS = 4  # so that each of the three splits has a model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ZooSettings:
    """What decides every byte of a zoo, together with the images.

    Args:
        protocol ([`Protocol`])
        models (`int`): how many; their seeds are `first_seed`, `first_seed + 1`, ...
        epochs (`int`): training epochs.
        keep_epochs (`tuple[int, ...]`, *optional*): which of the epochs 0 ... `epochs` are stored; all by default.
        first_seed (`int`, *optional*, defaults to 1): as the published zoos.
    """

    protocol: Protocol
    models: int
    epochs: int
    keep_epochs: tuple[int, ...] = field(default=())
    first_seed: int = 1

    def __post_init__(self):
        if self.models < MIN_MODELS:
            raise UserError(f"a zoo of {self.models} models cannot be split 70/15/15; ask for {MIN_MODELS} or more.")
        if self.epochs < 0:
            raise UserError(f"epochs is {self.epochs}; it must be 0 or more.")
        kept = self.keep_epochs or tuple(range(self.epochs + 1))
        if outside := [epoch for epoch in kept if not 0 <= epoch <= self.epochs]:
            raise UserError(f"keep_epochs names {outside}, but training runs from epoch 0 to {self.epochs}.")
        object.__setattr__(self, "keep_epochs", tuple(sorted(set(kept))))

    @property
    def seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.models)


def build_zoo(
    settings: ZooSettings,
    images: ImageData,
    engine: Engine,
    output: str | Path,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Train a zoo and write it to `output`.

    Finished shards wait in `output/.build`; a build that was interrupted goes on from them with `resume`, and gives
    the same bytes as one that was left alone.

    Raises:
        UserError: if the folder exists and neither `resume` nor `overwrite` is set, or the unfinished build in it has
            other settings, or the images do not fit the protocol.
    """
    output = Path(output)
    _check_images(settings.protocol, images)
    fingerprint = json.loads(
        json.dumps(asdict(settings) | {"images": images.fingerprint, "engine": engine.name})  # tuples become lists
    )
    work = output / ".build"
    if not _claim(output, work, fingerprint, resume, overwrite):
        logger.info("%s is already complete", output)
        return output

    shards = [settings.seeds[i : i + MODELS_PER_SHARD] for i in range(0, settings.models, MODELS_PER_SHARD)]
    with tqdm(total=settings.models * settings.epochs, unit="model-epoch", desc=f"training {output.name}") as progress:
        for i, seeds in enumerate(shards):
            path = work / f"shard-{i:05d}.safetensors"
            if path.exists():
                progress.update(len(seeds) * settings.epochs)
                progress.initial = progress.n  # an honest rate counts only what this run trains
            else:
                _train_shard(settings, images, engine, seeds, path, progress)
    _merge(settings, images, engine, output, [work / f"shard-{i:05d}.safetensors" for i in range(len(shards))])
    shutil.rmtree(work)
    return output


def _check_images(protocol: Protocol, images: ImageData) -> None:
    network = protocol.network_config(images.classes)
    expected = (network.num_channels, network.image_size, network.image_size)
    if tuple(images.train.pixels.shape[1:]) != expected:
        raise UserError(
            f"protocol {protocol.name} wants images of shape {expected}, {images.name} gives "
            f"{tuple(images.train.pixels.shape[1:])} after preprocessing."
        )


def _claim(output: Path, work: Path, fingerprint: dict, resume: bool, overwrite: bool) -> bool:
    """Make `work` ours; False if the zoo in `output` is already complete."""
    if output.exists() and any(output.iterdir()):
        if overwrite:
            if not (output / CONFIG_NAME).exists() and not work.exists():
                raise UserError(f"{output} is not a zoo; --overwrite does not delete it. Choose another folder.")
            shutil.rmtree(output)
        elif not resume:
            raise UserError(f"{output} exists; go on with --resume, start again with --overwrite, or choose another.")
        elif (output / CONFIG_NAME).exists():
            _check_same(output, _complete_fingerprint(output), fingerprint)
            shutil.rmtree(work, ignore_errors=True)  # a kill may have come between the last file and the tidying up
            return False
        elif not work.exists():
            raise UserError(f"{output} is not a zoo and holds no build to resume. Choose another folder.")
    settings_path = work / "settings.json"
    if settings_path.exists():
        _check_same(output, json.loads(settings_path.read_text()), fingerprint)
    else:
        work.mkdir(parents=True, exist_ok=True)
        _write_atomically(settings_path, lambda path: path.write_text(json.dumps(fingerprint, indent=2)))
    for leftover in work.glob("*.tmp"):
        leftover.unlink()
    return True


def _check_same(output: Path, previous: dict, fingerprint: dict) -> None:
    if changed := [key for key in previous if previous[key] != fingerprint.get(key)]:
        raise UserError(
            f"{output} was begun with other settings ({', '.join(changed)} differ); resume with the same ones, "
            "or start again with --overwrite."
        )


def _complete_fingerprint(output: Path) -> dict:
    """What a complete zoo says of the settings it was built with."""
    config = json.loads((output / CONFIG_NAME).read_text())
    return {
        "models": config["num_models"],
        "epochs": config["protocol"]["epochs"],
        "keep_epochs": config["epochs"],
        "first_seed": config["protocol"]["first_seed"],
        "images": config["images"]["fingerprint"],
        "engine": config["made_with"]["engine"],
    }


def _write_atomically(path: Path, write) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    write(temporary)
    temporary.replace(path)


def _train_shard(
    settings: ZooSettings, images: ImageData, engine: Engine, seeds: Sequence[int], path: Path, progress: tqdm
) -> None:
    """Train the models with these seeds and store the kept epochs: tensors (kept epochs, models, ...)."""
    protocol = settings.protocol
    network = protocol.network_config(images.classes)
    weights, metrics = [], []
    for result in train_population(network, protocol.recipe, images, seeds, settings.epochs, engine):
        if result.epoch in settings.keep_epochs:
            weights.append(result.weights)
            metrics.append(result.metrics())
        if result.epoch > 0:
            progress.set_postfix(epoch=result.epoch, test_accuracy=f"{result.test.accuracy.mean():.3f}", refresh=False)
            progress.update(len(seeds))
    tensors = {name: torch.stack([row[name] for row in metrics]) for name in METRICS}
    tensors["weights"] = torch.stack(weights)
    _write_atomically(path, lambda temporary: save_file(tensors, temporary))


def _merge(settings: ZooSettings, images: ImageData, engine: Engine, output: Path, shards: list[Path]) -> None:
    """Shards to Parquet. `zoo_config.json` comes last: a folder that has it is complete."""
    parts = [load_file(path) for path in shards]
    stacked = {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}
    seeds, epochs = torch.tensor(list(settings.seeds)), torch.tensor(settings.keep_epochs)

    network = settings.protocol.network_config(images.classes)
    splits = {name: _rows(stacked, models, seeds, epochs) for name, models in split_models(settings.models).items()}
    for name, rows in splits.items():
        write_split(output, name, rows)
    config = ZooConfig(
        network=network.to_dict(),
        layout=network_layout(network).to_list(),
        image_processor=settings.protocol.processor().to_dict(),
        protocol=settings.protocol.to_dict() | {"epochs": settings.epochs, "first_seed": settings.first_seed},
        images={
            "name": images.name,
            "fingerprint": images.fingerprint,
            "train": len(images.train),
            "validation": len(images.validation),
            "test": len(images.test),
        },
        num_models=settings.models,
        epochs=list(settings.keep_epochs),
        made_with={"engine": engine.name, "hyperrep": __version__, "torch": torch.__version__},
    )
    write_card(output, config, splits)
    config.save(output)


def network_layout(network) -> WeightLayout:
    """Layout of the weight vector of networks with this configuration."""
    from ..networks import SmallCNNForImageClassification

    with torch.device("meta"):
        return WeightLayout.of(SmallCNNForImageClassification(network))


def _rows(stacked: dict[str, Tensor], models: Tensor, seeds: Tensor, epochs: Tensor) -> ZooSplit:
    """Rows of these models, all epochs of one model together."""

    def rows(values: Tensor) -> Tensor:  # (epochs, all models, ...) -> (models * epochs, ...)
        return values[:, models].transpose(0, 1).flatten(0, 1)

    return ZooSplit(
        rows(stacked["weights"]),
        model_id=models.repeat_interleave(len(epochs)),
        seed=seeds[models].repeat_interleave(len(epochs)),
        epoch=epochs.repeat(len(models)),
        metrics={name: rows(stacked[name]) for name in METRICS},
    )
