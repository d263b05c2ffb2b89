"""A shard that was interrupted goes on where it stood: it ends in the bytes of one that was left alone."""

import dataclasses
import errno
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_zoo import MAX_IMAGES, Interrupting, contents, settings

from hyperrep.images import ImageData
from hyperrep.population import Engine, Recipe
from hyperrep.population.loop import LoopEngine
from hyperrep.population.native import NativeEngine, NativeUnavailable
from hyperrep.population.vmap import VmapEngine
from hyperrep.zoo import ZooSettings, build_zoo, get_protocol
from hyperrep.zoo import build as zoo_build
from hyperrep.zoo import progress as zoo_progress
from hyperrep.zoo.shards import plan_shards, progress_of, train_shard


EPOCHS = 4


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """Progress is written after every epoch."""
    monkeypatch.setattr(zoo_progress, "INTERVAL", 0.0)


def new_engine(name: str) -> Engine:
    if name == "native":
        try:
            return NativeEngine.for_network(get_protocol("digits").network_config(list("0123456789")))
        except NativeUnavailable as reason:
            pytest.skip(f"no native engine here: {reason}")
    return LoopEngine() if name == "loop" else VmapEngine()


def dying(engine: Engine, call: int) -> Engine:
    """Gives up in the middle of its call number `call`."""
    train, calls = engine.train_epoch, []

    def train_epoch(population, *arguments):
        calls.append(population)
        if len(calls) == call:
            population.weights += 1  # half an epoch's work
            raise KeyboardInterrupt
        return train(population, *arguments)

    engine.train_epoch = train_epoch  # type: ignore[method-assign]
    return engine


def zoo(recipe: Recipe, **changes) -> ZooSettings:
    protocol = get_protocol("digits")
    protocol = dataclasses.replace(protocol, recipe=recipe, network=protocol.network | changes)
    return settings(protocol=protocol, epochs=EPOCHS, keep_epochs=(0, 2, 3, 4))


ZOOS = {
    "adam with dropout": zoo(Recipe("adam", 1e-3, weight_decay=1e-3), dropout=0.5),
    "momentum": zoo(Recipe("sgd", 1e-2)),
    "diverged": zoo(Recipe("sgd", 1e30), hidden_act="relu"),
}


@pytest.mark.parametrize("name", ZOOS)
@pytest.mark.parametrize("engine", ["loop", "vmap", "native"])
def test_a_shard_goes_on_after_any_epoch_to_the_same_bytes(engine, name, images, tmp_path):
    """Killed in every epoch in turn, each time after one epoch more."""
    (shard,), (left_alone, killed) = plan_shards(ZOOS[name], 5), (tmp_path / "a", tmp_path / "b")
    for folder in (left_alone, killed):
        folder.mkdir()
    costs: list[float] = []
    train_shard(ZOOS[name], shard, images, new_engine(engine), left_alone, costs.append)
    for epoch in range(EPOCHS):
        with pytest.raises(KeyboardInterrupt):
            train_shard(ZOOS[name], shard, images, dying(new_engine(engine), 2 if epoch else 1), killed, print)
        assert progress_of(ZOOS[name], shard, images, killed).epoch() == epoch
        assert not shard.path(killed).exists()
    again: list[float] = []
    train_shard(ZOOS[name], shard, images, new_engine(engine), killed, again.append)
    assert (len(costs), len(again)) == (EPOCHS, 1)
    assert [path.name for path in killed.iterdir()] == [shard.path(killed).name]
    assert shard.path(killed).read_bytes() == shard.path(left_alone).read_bytes()
    if name == "diverged":
        assert load_file(shard.path(killed))["weights"].isnan().any()


def test_no_progress_is_written_before_its_time(images, monkeypatch, tmp_path):
    monkeypatch.setattr(zoo_progress, "INTERVAL", 1e9)
    (shard,) = plan_shards(settings(), 5)
    with pytest.raises(KeyboardInterrupt):
        train_shard(settings(), shard, images, dying(LoopEngine(), 2), tmp_path, print)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_costs_the_progress_only(images, monkeypatch, tmp_path, caplog):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zoo_progress, "save_file", full)
    (shard,) = plan_shards(settings(), 5)
    with caplog.at_level(logging.WARNING):
        train_shard(settings(), shard, images, LoopEngine(), tmp_path, print)
    assert "the progress after epoch 1 is not kept: the disk is full" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == [shard.path(tmp_path).name]


# ------------------------------------------------------------------------------------------------------ whole builds


def interrupted(images: ImageData, output: Path) -> Path:
    """A build that died in its second of two epochs; its one shard's progress."""
    with pytest.raises(KeyboardInterrupt):
        build_zoo(settings(), images, Interrupting(calls=2), output)
    (path,) = (output / ".build").glob("*.safetensors")
    return path


def test_a_build_goes_on_inside_a_shard(images, folder, tmp_path):
    interrupted(images, tmp_path / "small")
    engine = Interrupting()
    build_zoo(settings(), images, engine, tmp_path / "small", resume=True)
    assert engine.trained == 1
    assert contents(tmp_path / "small") == contents(folder)


def test_overwriting_takes_no_progress_of_the_build_before(images, folder, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        build_zoo(settings(first_seed=9), images, Interrupting(calls=2), tmp_path / "small")
    engine = Interrupting()
    build_zoo(settings(), images, engine, tmp_path / "small", overwrite=True)
    assert engine.trained == 2
    assert contents(tmp_path / "small") == contents(folder)


def test_a_folder_begun_by_the_earlier_code_is_gone_on_with(images, folder, monkeypatch, tmp_path):
    """Its manifest names shards only, and there is no progress."""
    monkeypatch.setattr(LoopEngine, "models_at_once", 2)
    monkeypatch.setattr(zoo_progress, "INTERVAL", 1e9)
    output = tmp_path / "small"
    with pytest.raises(KeyboardInterrupt):
        build_zoo(settings(), images, Interrupting(calls=3), output)
    manifest = output / ".hyperrep.json"
    lines = [line for line in manifest.read_text().splitlines() if "progress" not in line]
    text = "\n".join(lines)
    manifest.write_text(text.replace('.safetensors",\n ]', '.safetensors"\n ]'))
    monkeypatch.setattr(zoo_progress, "INTERVAL", 0.0)
    engine = Interrupting()
    build_zoo(settings(), images, engine, output, resume=True)
    assert engine.trained == 4
    assert contents(output) == contents(folder)


def of_another_network(path: Path) -> None:
    tensors = load_file(path)
    weights = tensors["population.first_moment"][:, :-1].contiguous()
    save_file(tensors | {"population.first_moment": weights}, path, {"epoch": "1", "steps": "4"})


def of_another_epoch(path: Path) -> None:
    save_file(load_file(path), path, {"epoch": "2", "steps": "4"})


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "another network": of_another_network,
    "the last epoch": of_another_epoch,
    "no epoch": lambda path: save_file(load_file(path), path),
    "no number": lambda path: save_file(load_file(path), path, {"epoch": "one", "steps": "4"}),
    "no tensors": lambda path: save_file({}, path, {"epoch": "1", "steps": "4"}),
    "steps below 0": lambda path: save_file(load_file(path), path, {"epoch": "1", "steps": "-4"}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_progress_is_reported_and_the_shard_starts_anew(damage, images, folder, tmp_path, caplog):
    path = interrupted(images, tmp_path / "small")
    DAMAGES[damage](path)
    engine = Interrupting()
    with caplog.at_level(logging.WARNING):
        build_zoo(settings(), images, engine, tmp_path / "small", resume=True)
    assert [record.getMessage().count("\n") for record in caplog.records] == [0]
    assert f"{path.name} is damaged" in caplog.text
    assert engine.trained == 2
    assert contents(tmp_path / "small") == contents(folder)


KILLED_BUILD = """
import os, signal, sys
from hyperrep.images import load_images
from hyperrep.population.loop import LoopEngine
from hyperrep.zoo import ZooSettings, build_zoo, get_protocol, progress

save_file, progress.INTERVAL = progress.save_file, 0.0

def save_and_die(tensors, path, metadata):
    if metadata["epoch"] == "2":
        path.write_bytes(b"half of the progress")
        os.kill(os.getpid(), signal.SIGKILL)
    save_file(tensors, path, metadata)

progress.save_file = save_and_die
protocol = get_protocol("digits")
images = load_images("digits", protocol.processor(), protocol.validation_fraction, max_images=int(sys.argv[2]))
build_zoo(ZooSettings(protocol, models=5, epochs=3), images, LoopEngine(), sys.argv[1])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_a_process_killed_while_it_writes_progress_is_gone_on_from_the_one_before(images, tmp_path):
    outcome = subprocess.run(
        [sys.executable, "-c", KILLED_BUILD, str(tmp_path / "killed"), str(MAX_IMAGES)],
        env=os.environ | {"PYTHONPATH": str(Path(zoo_build.__file__).parents[2]), "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == -signal.SIGKILL, outcome.stderr
    engine = Interrupting()
    build_zoo(settings(epochs=3), images, engine, tmp_path / "killed", resume=True)
    assert engine.trained == 2  # of three epochs
    undisturbed = build_zoo(settings(epochs=3), images, LoopEngine(), tmp_path / "undisturbed")
    assert contents(tmp_path / "killed") == contents(undisturbed)


def test_what_was_kept_is_what_the_shard_will_hold(images, tmp_path):
    (shard,) = plan_shards(ZOOS["momentum"], 5)
    with pytest.raises(KeyboardInterrupt):
        train_shard(ZOOS["momentum"], shard, images, dying(LoopEngine(), EPOCHS), tmp_path, print)
    kept = load_file(shard.progress_path(tmp_path))
    train_shard(ZOOS["momentum"], shard, images, LoopEngine(), tmp_path, print)
    whole = load_file(shard.path(tmp_path))
    for name, values in whole.items():
        assert torch.equal(kept[f"rows.{name}"], values[:3])  # of the epochs 0, 2 and 3
    assert torch.equal(kept["population.weights"], whole["weights"][2])
