"""A zoo's folder in strange hands: whose rows one gets, and files that do not hold what they should."""

import dataclasses
import json
import shutil
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_zoo import write_tiny_zoo

from hyperrep.errors import UserError
from hyperrep.zoo import load_zoo, write_zoo_card


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Path:
    return write_tiny_zoo(tmp_path_factory.mktemp("zoos") / "zoo")


@pytest.fixture
def copy(zoo, tmp_path) -> Path:
    return shutil.copytree(zoo, tmp_path / "zoo")


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """One cache for all that a test reads."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def rows_of(folder: Path) -> torch.Tensor:
    return datasets.load_dataset(str(folder), split="train").with_format("torch")["weights"][:]


# ----------------------------------------------------------------------------------------------------- whose rows


def test_two_zoos_of_one_name_and_one_rebuilt_have_their_own_rows(cache, tmp_path):
    seen = []
    for place, seed in (("a", 0), ("b", 1)):
        folder = write_tiny_zoo(tmp_path / place / "zoo", seed=seed)
        seen.append(rows_of(folder))
        assert torch.equal(seen[-1], load_zoo(folder)["train"].weights)
    assert not torch.equal(*seen)
    other = load_zoo(tmp_path / "b" / "zoo")
    folder = other.save(tmp_path / "a" / "zoo", overwrite=True)
    assert torch.equal(rows_of(folder), seen[1])
    assert len(list((folder / "data").iterdir())) == 3  # nothing of the zoo that was there


def test_the_same_zoo_has_the_same_bytes_and_names(zoo, tmp_path):
    again = write_tiny_zoo(tmp_path / "zoo")
    contents = [{p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in (zoo, again)]
    assert contents[0] == contents[1]


def test_rows_are_those_of_the_config_and_not_of_a_file_beside(copy):
    before = load_zoo(copy)["train"].weights
    (path,) = (copy / "data").glob("train-*")
    pq.write_table(pq.read_table(path).slice(0, 2), copy / "data" / "train-00000-of-00001.parquet")
    assert torch.equal(load_zoo(copy)["train"].weights, before)


def as_earlier_versions_wrote(zoo: Path, target: Path) -> Path:
    (target / "data").mkdir(parents=True)
    for path in (zoo / "data").iterdir():
        shutil.copy(path, target / "data" / f"{path.name.split('-')[0]}-00000-of-00001.parquet")
    config = json.loads((zoo / "zoo_config.json").read_text())
    del config["files"]
    (target / "zoo_config.json").write_text(json.dumps(config))
    return target


def test_a_zoo_of_an_earlier_version_is_loaded_and_written_anew(cache, zoo, tmp_path):
    old = load_zoo(as_earlier_versions_wrote(zoo, tmp_path / "old"))
    assert torch.equal(old["test"].weights, load_zoo(zoo)["test"].weights)
    new = old.save(tmp_path / "new")
    assert (new / "zoo_config.json").read_bytes() == (zoo / "zoo_config.json").read_bytes()
    assert torch.equal(rows_of(new), old["train"].weights)


def test_a_card_that_a_person_edited_stays(copy):
    assert "org/own" in write_zoo_card(copy, "org/own").read_text()
    (copy / "README.md").write_text("mine")
    with pytest.raises(UserError, match=r"README\.md was not written by hyperrep, or was changed"):
        write_zoo_card(copy)
    assert (copy / "README.md").read_text() == "mine"


def test_a_zoo_fits_on_one_screen(zoo):
    loaded = load_zoo(zoo)
    text = repr(loaded)
    assert len(text.splitlines()) < 8
    assert max(map(len, text.splitlines())) < 200
    assert "40 checkpoints of 20 models" in text
    assert "tensor(" not in text + repr(loaded.config) + repr(loaded["test"])


# ------------------------------------------------------------------------------------------------ damaged Parquet


def change(folder: Path, **columns) -> None:
    """Put other columns, or none, into the file of the validation split."""
    (path,) = (folder / "data").glob("validation-*")
    table = pq.read_table(path)
    for name, values in columns.items():
        table = table.drop_columns([name])
        if values is not None:
            table = table.append_column(name, values(len(table)))
    pq.write_table(table, path)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"seed": None}, "seed is missing"),
        ({"test_loss": None}, "test_loss is missing"),
        ({"epoch": lambda n: pa.array([None] * n, pa.int16())}, "epoch has empty places"),
        ({"epoch": lambda n: pa.array([1.0, 2.0] * (n // 2))}, "epoch holds double"),
        ({"epoch": lambda n: pa.array(["1", "2"] * (n // 2))}, "epoch holds string"),
        ({"epoch": lambda n: pa.array([1, 7] * (n // 2))}, r"epochs \[7\], which the zoo's config does not name"),
        ({"epoch": lambda n: pa.array([1] * n)}, "an epoch of a model twice"),
        ({"model_id": lambda n: pa.array([0, 0, *(i // 2 + 20 for i in range(2, n))])}, "model 0 is in the splits"),
        ({"model_id": lambda n: pa.array([-1] * n)}, "models -1 to -1"),
        ({"model_id": lambda n: pa.array([2**40] * n)}, "does not fit int32"),
        ({"weights": lambda n: pa.array([[0.0]] * n)}, "weights does not fit"),
        ({"weights": lambda n: pa.array([[0.0] * (97 + (-1) ** i) for i in range(n)])}, "weights does not fit"),
        ({"weights": lambda n: pa.array([[None] * 97] * n, pa.list_(pa.float32()))}, "weights has empty places"),
        ({"weights": lambda n: pa.array([b"x"] * n)}, "weights holds binary"),
        ({"test_accuracy": lambda n: pa.array([1.5] * n)}, "test_accuracy outside of 0 to 1"),
    ],
)
def test_rows_that_are_refused(copy, columns, said):
    change(copy, **columns)
    with pytest.raises(UserError, match=said):
        load_zoo(copy)


def test_lists_of_the_right_length_and_wider_numbers_are_the_same_rows(copy):
    before = load_zoo(copy)["validation"]
    change(
        copy,
        weights=lambda n: pa.array(before.weights.double().tolist()),
        epoch=lambda n: pa.array(before.epoch.tolist()),
    )
    after = load_zoo(copy)["validation"]
    assert torch.equal(after.weights, before.weights)
    assert torch.equal(after.epoch, before.epoch)


@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: whole[:-100], lambda whole: b"PAR1" + whole[5:9]])
def test_parquet_that_is_cut_short(copy, damage):
    (path,) = (copy / "data").glob("test-*")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=rf"{path.name} cannot be read, or is damaged"):
        load_zoo(copy)


def test_an_empty_split_is_refused(zoo, tmp_path):
    loaded = load_zoo(zoo)
    with pytest.raises(UserError, match="split test is empty"):
        dataclasses.replace(loaded, splits=loaded.splits | {"test": loaded["test"][:0]}).save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


# ----------------------------------------------------------------------------------------------- hostile configs


def layout(change):
    return lambda config: {"layout": change(config["layout"])}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: {"netwrok": {}}, "did you mean 'network'"),
        (lambda c: {"network": []}, "network"),
        (lambda c: {"network": c["network"] | {"conv_channels": "x"}}, "conv_channels"),
        (lambda c: {"network": c["network"] | {"conv_channels": [10**12]}}, "another layout"),
        (lambda c: {"network": c["network"] | {"conv_channels": [3] * 10**5}}, "network: "),
        (lambda c: {"network": c["network"] | {"num_labels": 10**12}}, "num_labels"),
        (lambda c: {"network": c["network"] | {"image_size": 10**30}}, "another layout"),
        (lambda c: {"network": c["network"] | {"hidden_sizes": [6]}}, "another layout"),
        (layout(lambda tensors: tensors[:-1]), "another layout"),
        (layout(lambda tensors: [[name + "x", shape] for name, shape in tensors]), "another layout"),
        (layout(lambda tensors: tensors[::-1]), "another layout"),
        (layout(lambda tensors: []), "no tensor"),
        (layout(lambda tensors: [*tensors, tensors[0]]), "one twice"),
        (layout(lambda tensors: [[name, [0, *shape]] for name, shape in tensors]), "positive sizes"),
        (layout(lambda tensors: [[name, [-1, *shape]] for name, shape in tensors]), "positive sizes"),
        (layout(lambda tensors: [[name, [[2], *shape]] for name, shape in tensors]), "positive sizes"),
        (layout(lambda tensors: [[name, [10**40, *shape]] for name, shape in tensors]), "2,147,483,647 at most"),
        (layout(lambda tensors: [["x"]]), "positive sizes"),
        (layout(lambda tensors: "tensors"), "layout"),
        (lambda c: {"num_models": 10**12}, "num_models"),
        (lambda c: {"num_models": 2}, "there are 0 to 1"),
        (lambda c: {"num_models": True}, "num_models"),
        (lambda c: {"epochs": []}, "epochs"),
        (lambda c: {"epochs": [2, 1]}, "in order"),
        (lambda c: {"epochs": [1, 10**9]}, "do not lie"),
        (lambda c: {"epochs": ["1"]}, "epochs"),
        (lambda c: {"image_processor": {"image_mean": "x"}}, "image_mean"),
        (lambda c: {"image_processor": {"image_mean": ["x"]}}, "image_mean"),
        (lambda c: {"image_processor": {"image_size": 10**12}}, "image_size"),
        (lambda c: {"image_processor": {"fit": "stretch"}}, "image_processor"),
        (lambda c: {"images": {"name": 1, "fingerprint": "x", "train": 1, "validation": 1}}, "images has name"),
        (lambda c: {"images": {"name": "x", "fingerprint": "x", "train": "1"}}, "images has train"),
        (lambda c: {"protocol": {"recipe": {"learning_rat": 1.0}}}, "did you mean 'learning_rate'"),
        (lambda c: {"protocol": {"recipe": {"learning_rate": "x"}}}, "learning_rate"),
        (lambda c: {"protocol": {"recipe": {}}}, "protocol lacks name"),
        (lambda c: {"protocol": {"grid": 3}}, "grid"),
        (lambda c: {"files": {"train": ["data/a.parquet"]}}, "files names splits"),
        (lambda c: {"files": {split: ["../../etc/passwd"] for split in c["files"]}}, "passwd"),
        (lambda c: {"files": {split: ["data/../x.parquet"] for split in c["files"]}}, "x.parquet"),
        (lambda c: {"files": {split: ["data/a.parquet"] for split in c["files"]}}, "twice"),
    ],
)
def test_configs_that_are_refused(copy, change, said):
    path = copy / "zoo_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | change(config)))
    with pytest.raises(UserError, match=said) as caught:
        load_zoo(copy)
    assert len(str(caught.value).splitlines()) == 1


def test_networks_of_another_type_are_loaded_but_not_run(zoo, tmp_path):
    loaded = load_zoo(zoo)
    config = dataclasses.replace(loaded.config, network={"model_type": "resnet"})
    other = load_zoo(dataclasses.replace(loaded, config=config).save(tmp_path / "other"))
    assert torch.equal(other["test"].weights, loaded["test"].weights)
    with pytest.raises(UserError, match="of type 'resnet'"):
        other.config.network_config()
