"""Building zoos: an interrupted build ends in the same bytes as an undisturbed one, on any number of processes."""

import dataclasses
import errno
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from launch import Processes
from safetensors.torch import load_file, save_file
from small_zoo import MAX_IMAGES, MODELS, Interrupting, contents, settings

from hyperrep.errors import UserError
from hyperrep.files import OutputFolder
from hyperrep.files.writing import TEMPORARY
from hyperrep.population.loop import LoopEngine
from hyperrep.zoo import build as zoo_build
from hyperrep.zoo import build_zoo, get_protocol, load_zoo
from hyperrep.zoo import dataset as zoo_dataset
from hyperrep.zoo import parquet as zoo_parquet
from hyperrep.zoo import shards as zoo_shards
from hyperrep.zoo.shards import plan_shards, share_of


pytestmark = pytest.mark.usefixtures("contained")


# ------------------------------------------------------------------------------------------------ interrupted builds


def test_an_interrupted_build_is_resumed_to_the_same_bytes(images, folder, monkeypatch, tmp_path):
    monkeypatch.setattr(LoopEngine, "models_at_once", 2)  # shards of 2, 2 and 1 models, two epochs each
    output = tmp_path / "small"
    with pytest.raises(KeyboardInterrupt):
        build_zoo(settings(), images, Interrupting(calls=4), output)  # the second shard's second epoch
    assert [path.name for path in (output / ".build").glob("shard*")] == ["shard-00000.safetensors"]
    with pytest.raises(UserError, match=r"holds no zoo_config\.json: its build was interrupted: .* --resume"):
        load_zoo(output)

    engine = Interrupting()
    build_zoo(settings(), images, engine, output, resume=True)
    assert engine.trained == 4  # the first shard's two epochs were not trained again
    assert contents(output) == contents(folder)


def test_a_build_can_be_interrupted_again_and_again(images, folder, monkeypatch, tmp_path):
    monkeypatch.setattr(LoopEngine, "models_at_once", 1)
    output = tmp_path / "small"
    for attempt in range(MODELS):  # each attempt finishes one shard of one model, and dies in the second epoch after
        with pytest.raises(KeyboardInterrupt):
            build_zoo(settings(), images, Interrupting(calls=2 if attempt == 0 else 4), output, resume=attempt > 0)
        assert len(list((output / ".build").glob("shard*"))) == attempt
    build_zoo(settings(), images, LoopEngine(), output, resume=True)
    assert contents(output) == contents(folder)


@pytest.mark.parametrize("step", ["write_splits", "write_card", "write_text", "remove"])
def test_a_build_interrupted_while_it_is_merged_is_resumed(step, images, folder, monkeypatch, tmp_path):
    output = tmp_path / "small"
    remove = OutputFolder.remove

    def interrupt(*arguments):
        raise KeyboardInterrupt

    def interrupt_at_shards(folder, name):
        if name == ".build":
            raise KeyboardInterrupt
        remove(folder, name)

    with monkeypatch.context() as patch:
        room: object = OutputFolder
        if step in ("write_splits", "write_card"):
            room = zoo_dataset
        elif step == "remove":  # of the shards, once all else is written
            interrupt = interrupt_at_shards
        patch.setattr(room, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            build_zoo(settings(), images, LoopEngine(), output)
    engine = Interrupting()
    build_zoo(settings(), images, engine, output, resume=True)
    assert engine.trained == 0
    assert contents(output) == contents(folder)


KILLED_BUILD = """
import os, signal, sys
from hyperrep.images import load_images
from hyperrep.population.loop import LoopEngine
from hyperrep.zoo import ZooSettings, build_zoo, get_protocol, shards

save_file = shards.save_file

def save_and_die(tensors, path):
    if "shard-00001" in str(path):
        path.write_bytes(b"half a shard")
        os.kill(os.getpid(), signal.SIGKILL)
    save_file(tensors, path)

shards.save_file, LoopEngine.models_at_once = save_and_die, 2
protocol = get_protocol("digits")
images = load_images("digits", protocol.processor(), protocol.validation_fraction, max_images=int(sys.argv[2]))
build_zoo(ZooSettings(protocol, models=5, epochs=2), images, LoopEngine(), sys.argv[1])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_a_killed_process_leaves_a_build_that_can_be_resumed(images, folder, monkeypatch, tmp_path):
    """A real SIGKILL, halfway through the file of the second shard."""
    output = tmp_path / "small"
    source = str(Path(zoo_build.__file__).parents[2])
    outcome = subprocess.run(
        [sys.executable, "-c", KILLED_BUILD, str(output), str(MAX_IMAGES)],
        env=os.environ | {"PYTHONPATH": source, "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == -signal.SIGKILL, outcome.stderr
    assert len(list((output / ".build").glob(f".*{TEMPORARY}"))) == 1
    assert len(list((output / ".build").glob("*.safetensors"))) == 1

    monkeypatch.setattr(LoopEngine, "models_at_once", 2)
    engine = Interrupting()
    build_zoo(settings(), images, engine, output, resume=True)
    assert engine.trained == 4
    assert contents(output) == contents(folder)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"models": 6}, "models"),
        ({"epochs": 3}, "epochs, keep_epochs, test_epochs"),
        ({"first_seed": 2}, "first_seed"),
        ({"protocol": dataclasses.replace(get_protocol("digits"), title="Other")}, "protocol"),
    ],
)
def test_a_build_is_not_resumed_with_other_settings(changes, named, images, monkeypatch, tmp_path):
    output = tmp_path / "small"
    with pytest.raises(KeyboardInterrupt):
        build_zoo(settings(), images, Interrupting(calls=1), output)
    before = contents(output)
    with pytest.raises(UserError, match=rf"begun with other settings \({named} differ\)"):
        build_zoo(settings(**changes), images, LoopEngine(), output, resume=True)
    assert contents(output) == before


def test_a_build_is_not_resumed_with_other_images_or_another_engine(images, tmp_path):
    output = tmp_path / "small"
    with pytest.raises(KeyboardInterrupt):
        build_zoo(settings(), images, Interrupting(calls=1), output)
    with pytest.raises(UserError, match=r"\(images differ\)"):
        build_zoo(settings(), dataclasses.replace(images, fingerprint="0" * 16), LoopEngine(), output, resume=True)
    other = LoopEngine()
    other.name = "native"
    with pytest.raises(UserError, match=r"\(engine differ\)"):
        build_zoo(settings(), images, other, output, resume=True)


# ------------------------------------------------------------------------------------------------ several processes


def as_process(rank: int, count: int) -> SimpleNamespace:
    """What Accelerate tells one of several processes, for processes that run one after the other."""
    return SimpleNamespace(process_index=rank, num_processes=count, wait_for_everyone=lambda: None)


def test_processes_share_the_work_and_the_zoo_does_not_show_it(images, folder, monkeypatch, tmp_path):
    """Begun by the first of three processes, left by the other two, finished by one alone."""
    monkeypatch.setattr(LoopEngine, "models_at_once", 1)
    output = tmp_path / "small"
    monkeypatch.setattr(zoo_build, "_wait_for", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):  # instead of waiting for processes that never come
        build_zoo(settings(), images, LoopEngine(), output, processes=as_process(0, 3))
    first = {path.name for path in (output / ".build").glob("shard*")}
    assert first == {"shard-00000.safetensors", "shard-00003.safetensors"}
    build_zoo(settings(), images, LoopEngine(), output, processes=as_process(1, 3))
    assert len(list((output / ".build").glob("shard*"))) == 4
    assert not (output / "zoo_config.json").exists()  # merging is the first process's
    monkeypatch.undo()
    engine = Interrupting()
    build_zoo(settings(), images, engine, output, resume=True)
    assert engine.trained == 2  # one model, two epochs
    assert contents(output) == contents(folder)


def test_the_first_process_waits_for_the_others(images, folder, monkeypatch, tmp_path):
    monkeypatch.setattr(LoopEngine, "models_at_once", 2)
    output = tmp_path / "small"

    def meanwhile(seconds: float) -> None:
        build_zoo(settings(), images, LoopEngine(), output, processes=as_process(1, 2))

    monkeypatch.setattr(zoo_build.time, "sleep", meanwhile)
    build_zoo(settings(), images, LoopEngine(), output, processes=as_process(0, 2))
    assert contents(output) == contents(folder)


def test_more_processes_than_models_are_refused(images, tmp_path):
    with pytest.raises(UserError, match="6 processes cannot share 5 models; start at most 5"):
        build_zoo(settings(), images, LoopEngine(), tmp_path / "small", processes=as_process(0, 6))
    assert not list(tmp_path.iterdir())


SCRIPT = Path(__file__).parents[1] / "scripts" / "build_zoo.py"
SETTINGS = "--protocol digits --models 70 --epochs 12 --keep-epochs 0,12"
LIMIT = 300  # seconds, after which something hangs


def start_build(output: Path, count: int) -> Processes:
    command = [sys.executable, str(SCRIPT), *SETTINGS.split(), "--output", str(output)]
    if output.exists():  # with a build in it, a complete zoo, or nothing yet
        command.append("--resume")
    home = output.parents[1] / "home"
    source = str(Path(zoo_build.__file__).parents[2])
    return Processes(command, count, {"PYTHONPATH": source, "HF_HOME": str(home)})


@pytest.mark.distributed
def test_two_processes_build_the_zoo_of_one(tmp_path):
    for count in (1, 2):
        assert start_build(tmp_path / f"by-{count}" / "zoo", count).wait(LIMIT) == 0
    assert contents(tmp_path / "by-1") == contents(tmp_path / "by-2")


@pytest.mark.slow
@pytest.mark.distributed
def test_twenty_kills_at_random_moments_change_no_byte(tmp_path):
    """SIGKILL to one process or to both of two, while they start, train, write or merge."""
    moments = random.Random(0)
    undisturbed, output = tmp_path / "undisturbed" / "zoo", tmp_path / "killed" / "zoo"
    assert start_build(undisturbed, 1).wait(LIMIT) == 0

    kills, duration = 0, 10.0
    while kills < 20:
        count = 1 + kills % 2
        try:
            assert start_build(output, count).wait(duration * moments.uniform(0.3, 1.2)) == 0
        except subprocess.TimeoutExpired:
            kills += 1
            duration *= 1.1
        else:  # it was faster, so the machine is
            duration /= 1.5
            assert contents(output.parent) == contents(undisturbed.parent)
            shutil.rmtree(output)
    assert start_build(output, 1).wait(LIMIT) == 0
    assert contents(output.parent) == contents(undisturbed.parent)


# ------------------------------------------------------------------------------------------------ what goes wrong


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def of_another_network(path: Path) -> None:
    tensors = load_file(path)
    save_file(tensors | {"weights": tensors["weights"][..., :-1].contiguous()}, path)


def without_a_metric(path: Path) -> None:
    tensors = load_file(path)
    del tensors["test_loss"]
    save_file(tensors, path)


@pytest.mark.parametrize("damage", [cut_short, of_another_network, without_a_metric])
def test_a_shard_that_is_damaged_is_trained_again(damage, images, folder, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(LoopEngine, "models_at_once", 2)
    output = tmp_path / "small"
    with pytest.raises(KeyboardInterrupt):
        build_zoo(settings(), images, Interrupting(calls=5), output)  # two shards are there
    shard = output / ".build" / "shard-00001.safetensors"
    damage(shard)
    engine = Interrupting()
    with caplog.at_level(logging.WARNING):
        build_zoo(settings(), images, engine, output, resume=True)
    assert "shard-00001.safetensors is damaged" in caplog.text
    assert engine.trained == 4  # the damaged shard and the missing one
    assert contents(output) == contents(folder)


@pytest.mark.parametrize("step", ["save_file", "write_split"])
def test_a_full_disk_is_one_line_and_nothing_is_lost(step, images, folder, monkeypatch, tmp_path):
    monkeypatch.setattr(LoopEngine, "models_at_once", 2)
    output = tmp_path / "small"
    room, module = (zoo_shards, "save_file") if step == "save_file" else (zoo_parquet, "write_split")
    write, calls = getattr(room, module), []

    def write_until_full(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            if step == "save_file":
                arguments[1].write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(room, module, write_until_full)
        with pytest.raises(UserError, match=r"the disk is full: .* Free some space and try again"):
            build_zoo(settings(), images, LoopEngine(), output)
    assert not list((output / ".build").glob(f".*{TEMPORARY}"))
    engine = Interrupting()
    build_zoo(settings(), images, engine, output, resume=True)
    assert engine.trained == (4 if step == "save_file" else 0)
    assert contents(output) == contents(folder)


def test_a_disk_that_is_too_small_is_noticed_before_training(images, monkeypatch, tmp_path):
    monkeypatch.setattr(zoo_build.shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    with pytest.raises(UserError, match=r"takes 0\.3 MB while it is built, .* has 0\.0 MB left"):
        build_zoo(settings(), images, Interrupting(calls=1), tmp_path / "small")
    assert not list(tmp_path.iterdir())


def test_what_overwriting_frees_is_room(images, folder, monkeypatch, tmp_path):
    output = shutil.copytree(folder, tmp_path / "small")
    free = 2 * 4 * 2464 * 15 - 100_000  # of 5 models at 3 epochs; the zoo that goes has more than the rest
    monkeypatch.setattr(zoo_build.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(UserError, match="while it is built"):
        build_zoo(settings(), images, Interrupting(calls=1), tmp_path / "other")
    build_zoo(settings(), images, LoopEngine(), output, overwrite=True)
    assert contents(output) == contents(folder)


# --------------------------------------------------------------------------------- longer training of the test split


def test_only_the_test_split_is_trained_longer(images, folder, monkeypatch, tmp_path):
    monkeypatch.setattr(LoopEngine, "models_at_once", 2)
    longer = load_zoo(build_zoo(settings(test_epochs=4), images, LoopEngine(), tmp_path / "longer"))
    usual = load_zoo(folder)
    assert longer.config.epochs == [0, 1, 2, 3, 4]
    for split in ("train", "validation"):
        assert torch.equal(longer[split].weights, usual[split].weights)
    assert longer["test"].epoch.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(longer["test"].select([0, 1, 2]).weights, usual["test"].weights)
    card = (tmp_path / "longer" / "README.md").read_text()
    assert "only the test split's models were trained beyond epoch 2, to 4" in card
    assert "--epochs 2 --test-epochs 4 --output" in card
    with pytest.raises(UserError, match="test_epochs is 1; it must be 2, the epochs, or more"):
        settings(test_epochs=1)
    with pytest.raises(UserError, match="keep_epochs starts at 3, but most models stop at epoch 2"):
        settings(test_epochs=4, keep_epochs=(3, 4))


def test_processes_share_a_grid_evenly():
    planned = plan_shards(settings(protocol=get_protocol("mnist-grid"), models=512), size=32)
    for count in (2, 3, 5):
        shares = [share_of(planned, rank, count) for rank in range(count)]
        assert sorted(shard.index for share in shares for shard in share) == list(range(len(planned)))
        costs = [sum(shard.cost for shard in share) for share in shares]
        assert max(costs) - min(costs) <= max(shard.cost for shard in planned)
