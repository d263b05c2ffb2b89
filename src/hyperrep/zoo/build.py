import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from tqdm.auto import tqdm

from ..errors import UserError
from ..files import OutputFolder, check_output, disk_explained, mode_of, output_folder, read_json
from ..files.writing import Mode
from ..images import ImageData
from ..networks import input_shape, layout_of
from ..population import Engine
from ..population.vmap import VmapEngine
from ..version import __version__
from .card import CARD_FILES
from .config import CONFIG_NAME, ZooConfig, image_facts
from .dataset import load_config, write_into
from .protocol import Protocol
from .settings import ZooSettings, split_models
from .shards import Shard, is_finished, plan_shards, progress_of, read_shards, share_of, train_shard
from .split import METRICS, ZooSplit


WORK = ".build"
SETTINGS_NAME = f"{WORK}/settings.json"

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

    Finished shards wait in `output/.build`, and so does, every few minutes, how far the others have come; a build that
    was interrupted goes on from there with `resume`, in the shards that it was begun with, and gives the same bytes as
    one that was left alone, whatever the number of processes after (on the same kind of processor; with another engine
    than the native one, also with as many threads). The number of processes that it was begun with changes the shards,
    and so no byte with the native and CUDA engines and the loop, but last digits with the vmap engine. With that on a
    GPU, where memory decides how many models are computed at once, builds are close, not the same.

    Args:
        settings ([`ZooSettings`]), images ([`ImageData`]), engine ([`Engine`])
        output (`str` or `Path`): folder of the zoo.
        resume (`bool`, *optional*): go on with an interrupted build.
        overwrite (`bool`, *optional*): remove the zoo that hyperrep wrote there first.
        processes (`PartialState`, *optional*): Accelerate's account of the processes that share the work. They need
            `output` on a file system they all see.

    Raises:
        UserError: before anything is written or removed: if the folder exists and neither `resume` nor `overwrite` is
            set, or is not ours to write to, or the build in it has other settings, or the images do not fit the
            protocol, or there are more processes than models, or the disk is too small.
    """
    output, mode = Path(output), mode_of(resume, overwrite)
    rank, count = (processes.process_index, processes.num_processes) if processes else (0, 1)
    _check_images(settings.protocol, images)
    if count > settings.models:
        raise UserError(f"{count} processes cannot share {settings.models} models; start at most {settings.models}.")
    asked = _fingerprint(settings, images, engine)
    if resume and (output / CONFIG_NAME).exists():
        _check_same(output, _fingerprint_of(load_config(output)), asked)
        if rank == 0 and (output / WORK).exists():  # a kill may have come between the last file and the tidying up
            with output_folder(output, "zoo", mode) as folder:
                folder.remove(WORK)
        logger.info("%s is already complete", output)
        return output
    shard_size = min(engine.models_at_once, -(-settings.models // count))
    if rank == 0:
        check_output(output, "zoo", mode, resumable=True)
        _check_disk(settings, images, output)
        with _claimed(output, asked, shard_size, mode) as folder:
            if processes:
                processes.wait_for_everyone()
            shards = _planned(settings, output)
            work = Path(WORK)
            names = [path.as_posix() for shard in shards for path in (shard.path(work), shard.progress_path(work))]
            folder.check_replaceable(*names)
            folder.working(names)
            _train(settings, images, engine, output, shards, rank, count)
            _wait_for(shards, output / WORK)
            with disk_explained(output):
                _merge(settings, images, asked["made_with"], folder, shards)
            folder.remove(WORK)
    else:
        assert processes
        processes.wait_for_everyone()  # until the first has claimed the folder
        _train(settings, images, engine, output, _planned(settings, output), rank, count)
    return output


@contextmanager
def _claimed(output: Path, asked: dict[str, Any], shard_size: int, mode: Mode) -> Iterator[OutputFolder]:
    """The folder, ours alone, with the settings of this build in it."""
    with output_folder(output, "zoo", mode, resumable=True) as folder:
        if mode == "resume" and (output / SETTINGS_NAME).exists():
            _check_same(output, read_json(output / SETTINGS_NAME), asked)
        else:
            if mode == "overwrite":
                folder.clear()
            begun = json.dumps(asked | {"shard_size": shard_size}, indent=2)
            folder.write(SETTINGS_NAME, lambda path: path.write_text(begun), working=True)
        folder.check_replaceable(CONFIG_NAME, *CARD_FILES)  # and not only when all is trained
        yield folder


def _planned(settings: ZooSettings, output: Path) -> list[Shard]:
    """The shards that a build was begun with: those of the machine it was begun on."""
    size = read_json(output / SETTINGS_NAME).get("shard_size")
    if not isinstance(size, int) or size < 1:
        raise UserError(f"{output / SETTINGS_NAME} is damaged: shard_size is {size!r}. Start anew with --overwrite.")
    return plan_shards(settings, size)


def _train(
    settings: ZooSettings, images: ImageData, engine: Engine, output: Path, shards: list[Shard], rank: int, count: int
) -> None:
    """Train the shards that are this process's share and not finished yet."""
    mine, work = share_of(shards, rank, count), output / WORK
    unfinished = [shard for shard in mine if not is_finished(shard, settings, images, work)]
    total, left = (sum(shard.cost for shard in part) for part in (mine, unfinished))
    for shard in unfinished:
        left -= shard.cost * progress_of(settings, shard, images, work).epoch() / max(1, shard.epochs)
    name = output.name + (f", process {rank + 1} of {count}" if count > 1 else "")
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
    expected = input_shape(protocol.network_config(images.classes))
    if tuple(images.train.pixels.shape[1:]) != expected:
        raise UserError(
            f"protocol {protocol.name} wants images of shape {expected}, {images.name} gives "
            f"{tuple(images.train.pixels.shape[1:])} after preprocessing."
        )


def _check_disk(settings: ZooSettings, images: ImageData, output: Path) -> None:
    """Shards and merged zoo lie on the disk at the same time, for a moment. What lies in the folder is part of them,
    or goes before."""
    parameters = layout_of(settings.protocol.network_config(images.classes)).num_params
    rows = sum(
        len(models) * len(settings.kept(settings.epochs_of(split)))
        for split, models in split_models(settings.models).items()
    )
    needed = 2 * 4 * parameters * rows
    existing = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    lying = sum(path.lstat().st_size for path in output.rglob("*") if path.is_file())
    free = shutil.disk_usage(existing).free + lying
    if free < needed:
        raise UserError(
            f"the zoo takes {needed / 1e6:,.1f} MB while it is built, {existing} has {free / 1e6:,.1f} MB left; free "
            "some space, or store fewer epochs with --keep-epochs."
        )


def _made_with(engine: Engine) -> dict[str, str]:
    device = torch.device(getattr(engine, "device", "cpu")).type
    # where models are computed together, by how many decides how they are rounded
    chunk = {"models_per_chunk": str(engine.models_per_chunk)} if isinstance(engine, VmapEngine) else {}
    versions = {"hyperrep": __version__, "torch": torch.__version__}
    return {"engine": engine.name, "device": device} | chunk | versions


def _fingerprint(settings: ZooSettings, images: ImageData, engine: Engine) -> dict[str, Any]:
    """Everything that decides a zoo's bytes, as JSON values."""
    seen = {"images": images.fingerprint, "classes": images.classes}
    return json.loads(json.dumps(asdict(settings) | seen | {"made_with": _made_with(engine)}))


def _fingerprint_of(config: ZooConfig) -> dict[str, Any]:
    """The same of a complete zoo."""
    protocol, labels = dict(config.protocol), config.network.get("id2label")
    own = {name: protocol.pop(name, None) for name in ("first_seed", "test_epochs")}
    return {
        "protocol": protocol,
        "models": config.num_models,
        "epochs": protocol.get("epochs"),
        "keep_epochs": config.epochs,
        **own,
        "images": config.images.get("fingerprint"),
        "classes": list(labels.values()) if isinstance(labels, dict) else [],
        "made_with": config.made_with,
    }


def _check_same(output: Path, previous: dict[str, Any], asked: dict[str, Any]) -> None:
    """Whether a build or a zoo is the one that is asked for. Another version of torch is worth a warning only."""

    def flat(values: dict[str, Any]) -> dict[str, Any]:
        made_with = values.get("made_with")
        # how long a protocol trains by default is decided by the settings
        protocol = {key: value for key, value in dict(values.get("protocol") or {}).items() if key != "epochs"}
        return values | {"protocol": protocol} | (made_with if isinstance(made_with, dict) else {})

    before, now = flat(previous), flat(asked)
    keys = [key for key in now if key not in ("made_with", "hyperrep", "torch")]
    # what earlier versions did not write down cannot be compared
    keys = [key for key in keys if before.get(key) or key not in ("device", "classes", "models_per_chunk")]
    if changed := [key for key in keys if before.get(key) != now[key]]:
        raise UserError(
            f"{output} was begun with other settings ({', '.join(changed)} differ); resume with the same ones, "
            "or start anew with --overwrite."
        )
    if newer := [f"{key} {before.get(key)}" for key in ("hyperrep", "torch") if before.get(key) != now[key]]:
        logger.warning(
            "%s was begun with %s, this is hyperrep %s and torch %s: the same settings may not give the same bytes.",
            output,
            " and ".join(newer),
            now["hyperrep"],
            now["torch"],
        )


def _merge(
    settings: ZooSettings, images: ImageData, made_with: dict[str, str], folder: OutputFolder, shards: list[Shard]
) -> None:
    """Shards to Parquet."""
    rows = read_shards(shards, folder.path / WORK)
    network = settings.protocol.network_config(images.classes)
    splits = {}
    for name, models in split_models(settings.models).items():
        selected = torch.isin(rows["model_id"], models)
        splits[name] = _split(settings, {key: values[selected] for key, values in rows.items()}, name)
    own = {"epochs": settings.epochs, "test_epochs": settings.test_epochs, "first_seed": settings.first_seed}
    config = ZooConfig(
        network=network.to_dict(),
        layout=layout_of(network).to_list(),
        image_processor=settings.protocol.processor().to_dict(),
        protocol=settings.protocol.to_dict() | own,
        images=image_facts(images),
        num_models=settings.models,
        epochs=list(settings.keep_epochs),
        made_with=made_with,  # as it was when the build began: chunks may have become smaller since
    )
    write_into(folder, config, splits)


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
