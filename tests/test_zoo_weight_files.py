"""Large networks are files of their own, which rows name: each a checkpoint that anybody can load."""

import json
import shutil
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_zoo import tiny_layout, tiny_network, write_tiny_zoo

from hyperrep import load_zoo
from hyperrep.errors import UserError
from hyperrep.networks import SmallCNNForImageClassification
from hyperrep.training.data import TrainingData
from hyperrep.zoo import checkpoint_files


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    """A zoo with its weights in the rows."""
    return write_tiny_zoo(tmp_path_factory.mktemp("zoos") / "zoo")


@pytest.fixture(scope="module")
def files(rows, tmp_path_factory) -> Path:
    """The same, as if its networks were large."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hyperrep.zoo.parquet.LARGEST_IN_ROWS", tiny_layout().num_params - 1)
        return load_zoo(rows).save(tmp_path_factory.mktemp("zoos") / "zoo")


def test_it_is_the_same_zoo(rows, files):
    one, other = load_zoo(rows), load_zoo(files)
    for split in one.splits:
        assert torch.equal(one[split].weights, other[split].weights)
        assert torch.equal(one[split].epoch, other[split].epoch)
    first, second = (TrainingData.from_zoo(zoo, [2], 5.0) for zoo in (one, other))
    assert first.digest == second.digest


def test_a_row_names_a_checkpoint_that_its_module_loads(files, monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    row = datasets.load_dataset(str(files))["train"][3]
    assert "weights" not in row
    module = SmallCNNForImageClassification(tiny_network())
    module.load_state_dict(load_file(files / row["file"]))
    split = load_zoo(files)["train"]
    expected = split[(split.model_id == row["model_id"]) & (split.epoch == row["epoch"])].weights[0]
    assert torch.equal(tiny_layout().vectorize(module.state_dict()).detach(), expected)


def test_only_chosen_networks_are_read(files, monkeypatch):
    read = []
    one = checkpoint_files.read_checkpoint
    monkeypatch.setattr(
        "hyperrep.zoo.parquet.read_checkpoint", lambda path, layout: read.append(path) or one(path, layout)
    )
    split = load_zoo(files)["train"]
    assert read == []
    assert split.select([2])[:3].weights.shape[0] == 3
    assert len(read) == len(set(read)) == 3


def test_no_more_than_one_network_is_in_memory_while_they_are_written(rows, monkeypatch, tmp_path):
    monkeypatch.setattr("hyperrep.zoo.parquet.LARGEST_IN_ROWS", 1)
    files = load_zoo(load_zoo(rows).save(tmp_path / "first"))
    sizes = []
    write = checkpoint_files.write_checkpoint

    def noted(folder, model, epoch, vector, layout):
        sizes.append(vector.untyped_storage().nbytes())
        return write(folder, model, epoch, vector, layout)

    monkeypatch.setattr("hyperrep.zoo.parquet.write_checkpoint", noted)
    files.save(tmp_path / "second")
    assert set(sizes) == {4 * tiny_layout().num_params}
    assert len(sizes) == sum(map(len, files.splits.values()))


def test_a_zoo_that_replaces_another_leaves_no_files_of_it(rows, monkeypatch, tmp_path):
    monkeypatch.setattr("hyperrep.zoo.parquet.LARGEST_IN_ROWS", 1)
    zoo = load_zoo(rows)
    folder = zoo.save(tmp_path / "zoo")
    (folder / "weights" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="hyperrep did not write"):
        zoo.save(folder, overwrite=True)
    (folder / "weights" / "mine.txt").unlink()
    monkeypatch.setattr("hyperrep.zoo.parquet.LARGEST_IN_ROWS", 2**20)
    load_zoo(folder).save(folder, overwrite=True)  # from its own files, which go
    assert not (folder / "weights").exists()
    assert torch.equal(load_zoo(folder)["test"].weights, zoo["test"].weights)


def test_the_card_says_where_networks_are(files):
    text = (files / "README.md").read_text()
    assert "`file` (the network: a safetensors file" in text
    assert "`weights` (" not in text


def spoiled_rows(folder: Path, value: str) -> None:
    """Another file name in the first row of the training split."""
    config = json.loads((folder / "zoo_config.json").read_text())
    (name,) = config["files"]["train"]
    table = pq.read_table(folder / name)
    names = [value, *table.column("file").to_pylist()[1:]]
    pq.write_table(table.set_column(table.schema.get_field_index("file"), "file", [names]), folder / name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/etc/passwd", "no name of a checkpoint"),
        ("weights/../../secret.safetensors", "no name of a checkpoint"),
        ("weights/.hidden.safetensors", "no name of a checkpoint"),
        ("weights/nobody.safetensors", "lacks weights/nobody.safetensors"),
    ],
)
def test_a_row_leads_nowhere_else(name, said, files, tmp_path):
    folder = load_zoo_copy(files, tmp_path)
    spoiled_rows(folder, name)
    with pytest.raises(UserError, match=said):
        load_zoo(folder)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda tensors: {**tensors, "more": torch.zeros(1)}, "holds tensors"),
        (lambda tensors: {name: tensor.half() for name, tensor in tensors.items()}, "float32 is needed"),
        (lambda tensors: {name: tensor.flatten() for name, tensor in tensors.items()}, "has shape"),
    ],
)
def test_a_file_with_other_tensors_is_one_line(spoil, said, files, tmp_path):
    folder = load_zoo_copy(files, tmp_path)
    path = sorted((folder / "weights").iterdir())[0]
    save_file(spoil(load_file(path)), path)
    zoo = load_zoo(folder)
    with pytest.raises(UserError, match=said):
        [split.weights for split in zoo.splits.values()]
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match="damaged"):
        [split.weights for split in load_zoo(folder).splits.values()]


def load_zoo_copy(files: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(files, tmp_path / "copy"))
