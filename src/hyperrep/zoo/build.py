"""Build a zoo: train its models shard by shard, resumably, and merge the shards into a `datasets` folder."""

import json
import logging
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from tqdm.auto import tqdm

from ..errors import UserError
from ..images import ImageData
from ..population import Engine
from ..version import __version__
from ..weights import WeightLayout
from .card import write_card
from .dataset import CONFIG_NAME, METRICS, ZooConfig, ZooSplit, write_split
from .protocol import Protocol
from .settings import ZooSettings, split_models
from .shards import (
    Shard,
    full_disk_explained,
    is_finished,
    plan_shards,
    read_shards,
    share_of,
    train_shard,
    write_atomically,
)


SETTINGS_NAME = "settings.json"

logger = logging.getLogger(__name__)


def build_zoo(
    settings: ZooSettings,
    images: ImageData,
    engine: Engine,
    output: str | Path,
    resume: bool = False,
    overwrite: bool = False,
    processes: PartialState | None = None,
) -> Path:
    """Train a zoo and write it to `output`.

    Finished shards wait in `output/.build`; a build that was interrupted goes on from them with `resume`, and gives
    the same bytes as one that was left alone, whatever the number of processes before and after.

    Args:
        settings ([`ZooSettings`]), images ([`ImageData`]), engine ([`Engine`])
        output (`str` or `Path`): folder of the zoo.
        resume (`bool`, *optional*): go on with an interrupted build.
        overwrite (`bool`, *optional*): delete an existing zoo first.
        processes (`PartialState`, *optional*): Accelerate's account of the processes that share the work. They need
            `output` on a file system they all see.

    Raises:
        UserError: if the folder exists and neither `resume` nor `overwrite` is set, or the unfinished build in it has
            other settings, or the images do not fit the protocol, or there are more processes than models, or the
            disk is too small.
    """
    output = Path(output)
    rank, count = (processes.process_index, processes.num_processes) if processes else (0, 1)
    _check_images(settings.protocol, images)
    if count > settings.models:
        raise UserError(f"{count} processes cannot share {settings.models} models; start at most {settings.models}.")
    fingerprint = json.loads(
        json.dumps(asdict(settings) | {"images": images.fingerprint, "engine": engine.name})  # tuples become lists
    )
    if not (resume or overwrite):
        _check_disk(settings, images, output)
    work = output / ".build"
    shard_size = min(engine.models_at_once, -(-settings.models // count))
    if rank == 0:
        unfinished = _claim(output, work, fingerprint, shard_size, resume, overwrite)
    if processes:
        processes.wait_for_everyone()
    if rank > 0:
        unfinished = (work / SETTINGS_NAME).exists()
    if not unfinished:
        logger.info("%s is already complete", output)
        return output

    # a resumed build keeps the shards it was begun with, whatever the machine
    shards = plan_shards(settings, json.loads((work / SETTINGS_NAME).read_text())["shard_size"])
    _train(settings, images, engine, work, shards, rank, count)
    if rank == 0:
        _wait_for(shards, work)
        with full_disk_explained(output):
            _merge(settings, images, engine, output, shards)
        shutil.rmtree(work)
    return output


def _train(
    settings: ZooSettings, images: ImageData, engine: Engine, work: Path, shards: list[Shard], rank: int, count: int
) -> None:
    """Train the shards that are this process's share and not finished yet."""
    mine = share_of(shards, rank, count)
    unfinished = [shard for shard in mine if not is_finished(shard, settings, work)]
    total, left = (sum(shard.cost for shard in part) for part in (mine, unfinished))
    name = work.parent.name + (f", process {rank + 1} of {count}" if count > 1 else "")
    with tqdm(
        total=total,
        initial=total - left,  # so that rate and time left come from what this run trains
        smoothing=0.05,
        unit="model-epoch",
        desc=f"training {name}",
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} [{elapsed}<{remaining}, {rate_fmt}]",
        disable=rank > 0,
    ) as progress:
        for shard in unfinished:
            train_shard(settings, shard, images, engine, work, progress.update)


def _wait_for(shards: list[Shard], work: Path) -> None:
    """Until the other processes have written theirs. A barrier would time out: the slowest may take hours longer."""
    while missing := sum(not shard.path(work).exists() for shard in shards):
        logger.info("waiting for other processes: %d of %d shards", len(shards) - missing, len(shards))
        time.sleep(1)


def _check_images(protocol: Protocol, images: ImageData) -> None:
    network = protocol.network_config(images.classes)
    expected = (network.num_channels, network.image_size, network.image_size)
    if tuple(images.train.pixels.shape[1:]) != expected:
        raise UserError(
            f"protocol {protocol.name} wants images of shape {expected}, {images.name} gives "
            f"{tuple(images.train.pixels.shape[1:])} after preprocessing."
        )


def _check_disk(settings: ZooSettings, images: ImageData, output: Path) -> None:
    """Shards and merged zoo lie on the disk at the same time, for a moment."""
    parameters = network_layout(settings.protocol.network_config(images.classes)).num_params
    rows = sum(
        len(models) * len(settings.kept(settings.epochs_of(split)))
        for split, models in split_models(settings.models).items()
    )
    needed = 2 * 4 * parameters * rows
    existing = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(
            f"the zoo takes {needed / 1e6:,.1f} MB while it is built, {existing} has {free / 1e6:,.1f} MB left; free "
            "some space, or store fewer epochs with --keep-epochs."
        )


def _claim(output: Path, work: Path, fingerprint: dict, shard_size: int, resume: bool, overwrite: bool) -> bool:
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
    settings_path = work / SETTINGS_NAME
    if settings_path.exists():
        _check_same(output, json.loads(settings_path.read_text()), fingerprint)
    else:
        work.mkdir(parents=True, exist_ok=True)
        settings_file = json.dumps(fingerprint | {"shard_size": shard_size}, indent=2)
        write_atomically(settings_path, lambda path: path.write_text(settings_file))
    for leftover in work.glob("*.tmp"):
        leftover.unlink()
    return True


def _check_same(output: Path, previous: dict, fingerprint: dict) -> None:
    if changed := [key for key in fingerprint if key in previous and previous[key] != fingerprint[key]]:
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
        "test_epochs": config["protocol"].get("test_epochs", config["protocol"]["epochs"]),
        "first_seed": config["protocol"]["first_seed"],
        "images": config["images"]["fingerprint"],
        "engine": config["made_with"]["engine"],
    }


def _merge(settings: ZooSettings, images: ImageData, engine: Engine, output: Path, shards: list[Shard]) -> None:
    """Shards to Parquet. `zoo_config.json` comes last: a folder that has it is complete."""
    rows = read_shards(shards, output / ".build")
    network = settings.protocol.network_config(images.classes)
    splits = {}
    for name, models in split_models(settings.models).items():
        selected = torch.isin(rows["model_id"], models)
        splits[name] = _split(settings, {key: values[selected] for key, values in rows.items()}, name)
        write_split(output, name, splits[name])
    config = ZooConfig(
        network=network.to_dict(),
        layout=network_layout(network).to_list(),
        image_processor=settings.protocol.processor().to_dict(),
        protocol=settings.protocol.to_dict()
        | {"epochs": settings.epochs, "test_epochs": settings.test_epochs, "first_seed": settings.first_seed},
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


def _split(settings: ZooSettings, rows: dict[str, Tensor], name: str) -> ZooSplit:
    """A split from its rows, ordered by model and epoch."""
    kept, of_model = settings.kept(settings.epochs_of(name)), settings.protocol.factors(settings.models)
    return ZooSplit(
        rows["weights"],
        model_id=rows["model_id"],
        seed=rows["model_id"] + settings.first_seed,
        epoch=torch.tensor(kept).repeat(len(rows["model_id"]) // len(kept)),
        metrics={metric: rows[metric] for metric in METRICS},
        factors={
            factor: np.array([of_model[model][factor] for model in rows["model_id"].tolist()])
            for factor in settings.protocol.grid
        },
    )
