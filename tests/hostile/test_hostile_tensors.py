"""Hostile tensors and tables: weights of a representation, latents, checkpoints of a run, rows of a zoo."""

import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from handling import is_handled, is_refused, tree
from safetensors.torch import load_file, save_file


SAMPLE = "sample representation --num-models 1 --output out"
TENSORS = {"weights": "representation/model.safetensors", "latents": "representation/sampler/sampler.safetensors"}


class Owned:
    """What a pickle may do to whoever loads it."""

    def __reduce__(self):
        return os.mkdir, ("owned",)


def header(length: int, text: bytes) -> bytes:
    return struct.pack("<Q", length) + text


BYTES = {
    "empty": lambda whole: b"",
    "cut in the header": lambda whole: whole[:50],
    "cut by a byte": lambda whole: whole[:-1],
    "cut in half": lambda whole: whole[: len(whole) // 2],
    "a byte too many": lambda whole: whole + b"\x00",
    "zeros": lambda whole: bytes(len(whole)),
    "ones": lambda whole: b"\xff" * len(whole),
    "a header of 2^63 bytes": lambda whole: header(2**63, b"{}"),
    "no JSON in the header": lambda whole: header(8, b"{{{{{{{{"),
    "a header of nothing": lambda whole: header(2, b"{}"),
    "offsets beyond the file": lambda whole: header(
        80, json.dumps({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}).encode().ljust(80)
    ),
    "a pickle": lambda whole: pickle.dumps(Owned()),
    "a pointer of git-lfs": lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
}


@pytest.mark.parametrize("damage", BYTES)
@pytest.mark.parametrize("which", TENSORS)
def test_damaged_tensor_files_are_named(place, hyperrep, which, damage):
    path = place / TENSORS[which]
    path.write_bytes(BYTES[damage](path.read_bytes()))
    before = tree(place)
    is_refused(hyperrep(*SAMPLE.split()))
    assert tree(place) == before
    assert not (place / "owned").exists()


def first_float(tensors: dict) -> str:
    return next(name for name, tensor in tensors.items() if tensor.ndim and tensor.is_floating_point())


def with_value(value: float):
    def change(tensors):
        tensors[first_float(tensors)].view(-1)[-1] = value

    return change


def renamed(tensors):
    tensors["renamed"] = tensors.pop(first_float(tensors))


def missing(tensors):
    del tensors[first_float(tensors)]


def longer(tensors):
    name = first_float(tensors)
    tensors[name] = torch.cat([tensors[name], tensors[name]])


def wider(tensors):
    name = first_float(tensors)
    tensors[name] = torch.cat([tensors[name], tensors[name]], dim=-1)


def flat(tensors):
    name = first_float(tensors)
    tensors[name] = tensors[name].reshape(1, -1, 1)


def whole_numbers(tensors):
    tensors[first_float(tensors)] = tensors[first_float(tensors)].long()


def one_too_many(tensors):
    tensors["extra"] = torch.zeros(3)


def none(tensors):
    tensors.clear()


CHANGES = [
    with_value(float("nan")),
    with_value(float("inf")),
    with_value(float("-inf")),
    renamed,
    missing,
    longer,
    wider,
    flat,
    whole_numbers,
    one_too_many,
    none,
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("which", TENSORS)
def test_tensors_that_do_not_fit_make_no_networks(place, hyperrep, which, change):
    path = place / TENSORS[which]
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    is_refused(hyperrep(*SAMPLE.split()))
    assert not (place / "out").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "model.pkl", "model.bin"])
def test_a_pickle_is_never_loaded(place, hyperrep, name):
    (place / "representation" / "model.safetensors").unlink()
    (place / "representation" / name).write_bytes(pickle.dumps(Owned()))
    is_refused(hyperrep(*SAMPLE.split()))
    assert not (place / "owned").exists()


@pytest.mark.parametrize(
    "target", ["pytorch_model.bin", "../outside.safetensors", "/etc/passwd", "missing.safetensors", "", None, 3]
)
def test_an_index_names_only_safetensors_beside_it(place, hyperrep, target):
    folder = place / "representation"
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(place / "outside.safetensors")
    torch.save(dict(names), folder / "pytorch_model.bin")
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, target)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    is_refused(hyperrep(*SAMPLE.split()))
    assert not (place / "out").exists()


# ------------------------------------------------------------------------------------------------- rows of a zoo


def parquet(place: Path, split: str = "train") -> Path:
    return next((place / "zoo" / "data").glob(f"{split}-*.parquet"))


@pytest.mark.parametrize("damage", ["empty", "cut by a byte", "cut in half", "zeros", "a pickle"])
def test_damaged_parquet_files_are_named(place, hyperrep, damage):
    path = parquet(place)
    path.write_bytes(BYTES[damage](path.read_bytes()))
    is_refused(hyperrep("zoo", "info", "zoo"), "train")


def column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


def weights(table: pa.Table) -> np.ndarray:
    return np.array(table.column("weights").to_pylist(), np.float32)


def fixed(rows: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def lengths_that_only_add_up(table: pa.Table) -> pa.Table:
    rows = table.column("weights").to_pylist()
    rows[0], rows[1] = rows[0] + rows[1][:1], rows[1][1:]
    return column(table, "weights", pa.array(rows, pa.list_(pa.float32())))


def with_null(name: str):
    def change(table: pa.Table) -> pa.Table:
        values = table.column(name).to_pylist()
        values[1] = None
        return column(table, name, pa.array(values, table.schema.field(name).type))

    return change


def as_type(name: str, kind: pa.DataType):
    def change(table: pa.Table) -> pa.Table:
        values = [str(value) if kind == pa.string() else value for value in table.column(name).to_pylist()]
        return column(table, name, pa.array(values, kind))

    return change


ROWS = {
    "no rows": lambda table: table.slice(0, 0),
    "no column of weights": lambda table: table.drop_columns(["weights"]),
    "no column of epochs": lambda table: table.drop_columns(["epoch"]),
    "no column of accuracies": lambda table: table.drop_columns(["test_accuracy"]),
    "lengths that only add up": lengths_that_only_add_up,
    "a weight too few": lambda table: column(table, "weights", fixed(weights(table)[:, 1:])),
    "a null among epochs": with_null("epoch"),
    "a null among models": with_null("model_id"),
    "a null among weights": with_null("weights"),
    "epochs as text": as_type("epoch", pa.string()),
    "negative epochs": lambda table: column(table, "epoch", pa.array([-1] * len(table), pa.int16())),
    "weights as structs": lambda table: column(table, "weights", pa.array([{"a": 1}] * len(table))),
    "a column twice": lambda table: table.append_column("epoch", table.column("epoch")),
}


@pytest.mark.parametrize("case", ROWS)
def test_rows_that_do_not_fit_are_refused(place, hyperrep, case):
    path = parquet(place)
    pq.write_table(ROWS[case](pq.read_table(path)), path)
    is_refused(hyperrep("zoo", "info", "zoo"))


def test_a_layout_of_the_right_length_with_other_tensors_is_not_trained_on(place, hyperrep):
    """The weights would be cut at the wrong places."""
    config = json.loads((place / "zoo" / "zoo_config.json").read_text())
    layout = config["layout"]
    layout[0], layout[2] = layout[2], layout[0]
    (place / "zoo" / "zoo_config.json").write_text(json.dumps(config))
    is_refused(hyperrep("train", "settings.yaml", "--zoo", "zoo", "--output", "out"))
    assert not (place / "out").exists()


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_that_is_missing_is_named(place, hyperrep, split):
    parquet(place, split).unlink()
    is_refused(hyperrep("zoo", "info", "zoo"), split)


# ------------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture
def interrupted(place, hyperrep) -> Path:
    """A run that has two checkpoints and is not complete."""
    from hyperrep.training import TrainingConfig, train
    from hyperrep.training.step import TrainingStep

    class Stop(Exception):
        pass

    original, calls = TrainingStep.__call__, []

    def stopping(self, step, *arguments):
        calls.append(step)
        if step >= 3 * self.steps_per_epoch:
            raise Stop
        return original(self, step, *arguments)

    TrainingStep.__call__ = stopping
    try:
        config = TrainingConfig.from_yaml(place / "settings.yaml", {"num_train_epochs": 4})
        train(config, place / "zoo", place / "run")
    except Stop:
        pass
    finally:
        TrainingStep.__call__ = original
    assert len(list((place / "run" / "checkpoints").glob("step-*"))) == 2
    return place / "run"


RESUME = ["train", "settings.yaml", "--zoo", "zoo", "--output", "run", "--resume", "--num-train-epochs", "4"]


@pytest.mark.parametrize("damage", ["empty", "cut in half", "zeros", "a pickle", "missing"])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(interrupted, hyperrep, name, damage):
    newest = sorted((interrupted / "checkpoints").glob("step-*"))[-1]
    path = newest / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(BYTES[damage](path.read_bytes()))
    outcome = hyperrep(*RESUME)
    assert outcome.code == 0, outcome
    assert (interrupted / "results" / "training.json").exists()
    assert json.loads((interrupted / "results" / "training.json").read_text())["steps"] > 0


@pytest.mark.parametrize("damage", ["empty", "cut in half", "zeros"])
def test_a_damaged_log_heals_or_is_named(interrupted, hyperrep, damage):
    path = interrupted / "training_log.jsonl"
    path.write_bytes(BYTES[damage](path.read_bytes()))
    is_handled(hyperrep(*RESUME))


@pytest.mark.parametrize("damage", ["empty", "cut in half", "zeros", "missing"])
def test_damaged_settings_of_a_run_are_handled(interrupted, hyperrep, damage):
    path = interrupted / "checkpoints" / "settings.json"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(BYTES[damage](path.read_bytes()))
    is_handled(hyperrep(*RESUME))


def test_the_fixtures_do_what_they_say(place, hyperrep):
    """Undamaged, all of it works: a refusal above is one of the damage."""
    assert hyperrep(*SAMPLE.split()).code == 0
    assert hyperrep("zoo", "info", "zoo").code == 0
