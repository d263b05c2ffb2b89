"""What an adversary found once everything else here was handled: each case was wrong when it was tried first."""

import json
import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from handling import change_json, is_handled, is_refused, tree
from tiny_zoo import write_tiny_zoo
from training_runs import tiny_config

from hyperrep import load_zoo
from hyperrep.errors import UserError
from hyperrep.files import output_folder, read_json, read_tensors
from hyperrep.images import load_images
from hyperrep.networks import SmallCNNConfig, SmallCNNImageProcessor
from hyperrep.pipeline import fit_sampler
from hyperrep.population import Population, Recipe, choose_engine, image_order
from hyperrep.samplers import KDESampler
from hyperrep.training import train


# ------------------------------------------------------------------------------------------- what is the user's stays


@pytest.mark.parametrize("linked", [False, True], ids=["a file", "behind a link"])
def test_a_resumed_build_takes_over_no_shard_that_nobody_wrote(hyperrep, tmp_path, linked):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (out / ".hyperrep.json").write_text('{"kind": "zoo", "files": {}, "working": []}')
    if linked:
        (out / ".build").symlink_to("../elsewhere")
    else:
        (out / ".build").mkdir()
    (out / ".build" / "shard-00000.safetensors").write_text("mine")
    before = {name: content for name, content in tree(tmp_path).items() if name.endswith("00.safetensors")}
    options = "zoo build --protocol digits --models 4 --epochs 0 --max-images 40 --engine vmap --resume"
    is_refused(hyperrep(*options.split(), "--output", out), ".build")
    assert {name: content for name, content in tree(tmp_path).items() if name in before} == before
    assert not (tmp_path / "elsewhere" / "settings.json").exists()


@pytest.mark.parametrize("mode", ["resume", "add"])
def test_what_only_sounds_temporary_is_not_removed(tmp_path, mode):
    with output_folder(tmp_path / "out", "zoo") as out:
        out.write_text("sub/a.txt", "one")
    for name in ("thesis.hyperrep-tmp", "sub/notes.hyperrep-tmp", "a/b/.x.1.hyperrep-tmp"):
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    left = tmp_path / "out" / "sub" / ".a.txt.123.hyperrep-tmp"  # as a killed run leaves it
    left.write_text("half")
    (tmp_path / "out" / ".hyperrep-stage-abc12_d.hyperrep-tmp").mkdir()
    with output_folder(tmp_path / "out", "zoo", mode):
        pass
    assert not left.exists()
    assert set(tree(tmp_path / "out")) == {
        *("thesis.hyperrep-tmp", "sub/notes.hyperrep-tmp", "a/b/.x.1.hyperrep-tmp", "sub/a.txt", ".hyperrep.json")
    }


def test_a_run_in_a_folder_leaves_one_below_it_alone(tmp_path):
    with output_folder(tmp_path / "models" / "a", "zoo") as inner, inner.staging() as stage:
        (stage / "f").write_text("1")
        with output_folder(tmp_path / "models", "results", "add"):
            pass
        assert (stage / "f").exists()
    assert (tmp_path / "models" / "a" / "f").read_text() == "1"


def test_nothing_is_written_through_a_linked_folder(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    with output_folder(tmp_path / "out", "zoo") as out:
        (tmp_path / "out" / "results").symlink_to("../elsewhere")
        for write in (
            lambda: out.write_text("results/a.txt", "x"),
            lambda: out.check_replaceable("results/a.txt"),
            lambda: out.arriving("results/new").__enter__(),
        ):
            with pytest.raises(UserError, match="symbolic link"):
                write()
        with pytest.raises(UserError, match="symbolic link"), out.staging() as stage:  # noqa: PT012
            (stage / "results").mkdir()
            (stage / "results" / "b.txt").write_text("x")
    assert not list((tmp_path / "elsewhere").iterdir())


# ------------------------------------------------------------------------------------------------- files without end


def within(seconds: float, action) -> list:
    """What `action` gave or raised; a test that would hang fails."""
    found: list = []

    def run() -> None:
        try:
            found.append(action())
        except UserError as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, "it hangs"
    return found


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_ordinary_file_is_not_read(tmp_path, kind):
    path = tmp_path / "config.json"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    for read in (lambda: read_json(path), lambda: read_tensors(path, {"a": (None,)})):
        assert "ordinary file" in str(within(20, read)[0])


def test_a_key_that_comes_twice_is_found_at_once_in_a_large_file(tmp_path):
    (tmp_path / "a.json").write_text("{" + ",".join(f'"k{i}":0' for i in range(60_000)) + ',"k59999":1}')
    assert "'k59999' comes twice" in str(within(20, lambda: read_json(tmp_path / "a.json"))[0])


def test_a_type_that_torch_cannot_read(tmp_path):
    header = json.dumps({"a": {"dtype": "F4", "shape": [16], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(UserError, match=r"a\.safetensors"):
        read_tensors(tmp_path / "a.safetensors", {"a": (None,)})


# ------------------------------------------------------------------------------------------------ wrong without a word


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("label", [-3, 7])
def test_a_class_that_has_no_name_is_refused(tmp_path, split, label):
    from datasets import ClassLabel, Dataset, Features, Image, Value

    for name in ("train", "test"):
        pixels = np.zeros((6, 6), np.uint8)
        labels = [0, 1, 2, 0, 1, label if name == split else 2]
        data = Dataset.from_dict(
            {"image": [pixels + i for i in range(6)], "label": labels},
            features=Features({"image": Image(), "label": Value("int64")}),
        )
        table = data.data.table.replace_schema_metadata(None)
        features = Features({"image": Image(), "label": ClassLabel(names=["a", "b", "c"])})
        metadata = json.dumps({"info": {"features": features.to_dict()}})
        import pyarrow.parquet as pq

        (tmp_path / "pets").mkdir(exist_ok=True)
        pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), tmp_path / "pets" / f"{name}.parquet")
    with pytest.raises(UserError, match=rf"{label}"):
        load_images(str(tmp_path / "pets"), SmallCNNImageProcessor(image_size=6), 0.2)


def small_population(**changes) -> tuple[SmallCNNConfig, Population]:
    network = SmallCNNConfig(initializer="kaiming_uniform")
    population = Population.start(network, Recipe(), 0.1 * torch.randn(2, 2464))
    for name, value in changes.items():
        setattr(population, name, value)
    return network, population


@pytest.mark.parametrize("name", ["auto", "vmap", "loop"])
@pytest.mark.parametrize(
    "changes",
    [
        {"weights": torch.zeros(1, 2464).expand(2, 2464)},
        {"weights": torch.zeros(2, 2464, requires_grad=True)},
        {"weights": torch.zeros(2, 2464, device="meta")},
        {"weights": torch.zeros(2, 2464).to_sparse()},
        {"weights": np.zeros((2, 2464), np.float32)},
        {"first_moment": torch.zeros(1, 2464).expand(2, 2464)},
        {"steps": -5},
        {"steps": 2.5},
    ],
    ids=str,
)
def test_a_population_that_cannot_be_trained_in_place(name, changes):
    network, population = small_population(**changes)
    engine = choose_engine(name, network)
    with pytest.raises(UserError):
        engine.train_epoch(
            population, torch.rand(8, 1, 28, 28), torch.arange(8), image_order(range(2), epoch=1, num_images=8)
        )


def test_evaluation_needs_no_gradient_and_takes_weights_that_have_one():
    network, _ = small_population()
    weights = (0.1 * torch.randn(2, 2464)).requires_grad_()
    images, labels = torch.rand(8, 1, 28, 28), torch.arange(8)
    losses = [
        choose_engine(name, network).evaluate(network, weights, images, labels).loss for name in ("auto", "loop")
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)


def test_a_batch_is_a_whole_number_of_images():
    with pytest.raises(UserError, match=r"2\.5"):
        Recipe(batch_size=2.5)


# -------------------------------------------------------------------------------------------------------- lost work


@pytest.mark.parametrize("unknown", [1, None], ids=["one", "all"])
@pytest.mark.parametrize("align", [False, True])
def test_a_zoo_with_unknown_accuracies_is_trained_on(tmp_path, unknown, align):
    zoo = load_zoo(write_tiny_zoo(tmp_path / "zoo"))
    zoo["train"].metrics["validation_accuracy"][:unknown] = float("nan")
    config = tiny_config(num_train_epochs=1, align=align, permute=not align)
    train(config, zoo, tmp_path / "representation")
    fit_sampler(tmp_path / "representation", zoo)
    sampler = read_tensors(
        tmp_path / "representation/sampler/sampler.safetensors", KDESampler.state_shapes, KDESampler.whole_numbers
    )
    assert len(sampler["latents"]) == (39 if unknown else 40)


# -------------------------------------------------------------------------------------- tracebacks and broken tables


def changed_zoo(folder: Path, change) -> Path:
    zoo = load_zoo(write_tiny_zoo(folder / "zoo"))
    change(zoo)
    return zoo.save(folder / "changed")


def test_a_zoo_without_accuracies_is_shown(hyperrep, tmp_path):
    def change(zoo):
        for split in zoo.splits.values():
            split.metrics["test_accuracy"][:] = float("nan")

    outcome = hyperrep("zoo", "info", changed_zoo(tmp_path, change))
    is_handled(outcome)
    assert outcome.code == 0


@pytest.mark.parametrize("keys", [("images", "name"), ("protocol", "name"), ("protocol", "title")])
@pytest.mark.parametrize("text", ["[/red]", "$\\frac{$", "$x_{$ zoo", "a|b"])
def test_names_are_text_and_nothing_else(hyperrep, tmp_path, keys, text):
    folder = write_tiny_zoo(tmp_path / "zoo")
    change_json(folder / "zoo_config.json", *keys, to=text)
    for command in (("zoo", "info"), ("card",)):
        outcome = hyperrep(*command, folder)
        is_handled(outcome)
        assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(
    "grid", [{"x": [[1, 2], [3]]}, {"epoch": [1, 2]}, {"x": ["a", 1, None]}, {"x": ["a", 0.5]}], ids=str
)
def test_a_grid_that_no_column_can_hold(hyperrep, tmp_path, grid):
    folder = write_tiny_zoo(tmp_path / "zoo")
    change_json(folder / "zoo_config.json", "protocol", "grid", to=grid)
    is_refused(hyperrep("zoo", "info", folder), "grid", next(iter(grid)))


@pytest.mark.parametrize("size", ["abc", "", "2"])
def test_a_launchers_variables_without_a_launcher(hyperrep, tmp_path, monkeypatch, size):
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    options = "zoo build --protocol digits --models 4 --epochs 0 --max-images 40"
    is_refused(hyperrep(*options.split(), "--output", tmp_path / "zoo"), "WORLD_SIZE")
