"""A zoo knows its size: files and row groups are cut by bytes, and weights are read when they are needed."""

import dataclasses
import os
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_zoo import EPOCHS, write_tiny_zoo

from hyperrep.errors import UserError
from hyperrep.files import ParquetVectors
from hyperrep.files import parquet as files_parquet
from hyperrep.training.data import TrainingData
from hyperrep.zoo import Zoo, ZooSplit, load_zoo
from hyperrep.zoo import parquet as zoo_parquet


PARAMS = 119  # of the tiny network
ROW = 4 * PARAMS + 64  # bytes of a row, with its other columns


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_tiny_zoo(tmp_path_factory.mktemp("zoos") / "zoo")


@pytest.fixture
def reads(monkeypatch) -> list[tuple[str, int]]:
    """Every row group whose weights are decoded: the file and its number."""
    seen = []
    batches = ParquetVectors._batches

    def noted(self, group):
        path, _, index = self._groups[group]
        seen.append((path.name, index))
        return batches(self, group)

    monkeypatch.setattr(ParquetVectors, "_batches", noted)
    return seen


def in_memory(split: ZooSplit) -> ZooSplit:
    return ZooSplit(split.weights.clone(), split.model_id, split.seed, split.epoch, split.metrics, split.factors)


def by_epoch(zoo: Zoo) -> dict[str, ZooSplit]:
    return {name: split[split.epoch.argsort(stable=True)] for name, split in zoo.splits.items()}


# --------------------------------------------------------------------------------------------------- files by bytes


@pytest.mark.parametrize("row_group", [10**9, 4000, 1000, 1])
@pytest.mark.parametrize("file", [10**9, 9000, 3000, 1])
def test_row_groups_and_files_have_a_size(row_group, file, folder, monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    monkeypatch.setattr(zoo_parquet, "ROW_GROUP", row_group)
    monkeypatch.setattr(zoo_parquet, "FILE", file)
    zoo = load_zoo(folder)
    written = zoo.save(tmp_path / "zoo")
    again = load_zoo(written)
    for split, rows in zoo.splits.items():
        names, total = again.config.files[split], 0
        for name in names:
            metadata = pq.read_metadata(written / name)
            groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            assert all(count == 1 or count * ROW <= row_group for count in groups)
            assert len(groups) == 1 or sum(groups) * ROW <= file
            assert len(set(groups[:-1])) <= 1
            total += sum(groups)
        assert total == len(rows)
        assert names[0].startswith(f"data/{split}-")
        assert (len(names) == 1) == (len(rows) * ROW <= max(file, row_group))
        if len(names) > 1:
            of = [name.split("-")[1:4] for name in names]
            assert of == [[f"{i:05d}", "of", f"{len(names):05d}"] for i in range(len(names))]
        assert torch.equal(again[split].weights, rows.weights)
        assert torch.equal(again[split].model_id, rows.model_id)
    if file == 10**9 and row_group == 10**9:
        assert again.config.files == zoo.config.files
    data = datasets.load_dataset(str(written)).with_format("torch")
    for split, rows in zoo.splits.items():
        assert torch.equal(data[split]["weights"][:], rows.weights)
        assert torch.equal(data[split]["epoch"][:], rows.epoch)


def test_the_sizes_are_those_of_the_hub():
    zoo = dataclasses.make_dataclass("Config", ["num_params"])
    for num_params in (2464, 200_000, 2**20):
        config = type("C", (), {"weight_layout": lambda self, n=num_params: zoo(n)})()
        group, file = zoo_parquet._sizes(config)
        assert group == 1 or group * 4 * num_params <= 64 * 2**20
        assert file % group == 0
        assert file == group or file * 4 * num_params <= 500_000_000
        assert (file + group) * 4 * num_params > 400_000_000


def test_writing_copies_a_row_group_at_a_time(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(zoo_parquet, "ROW_GROUP", 5 * ROW)
    tables, table = [], zoo_parquet._table

    def noted(rows, *others):
        tables.append(len(rows))
        return table(rows, *others)

    monkeypatch.setattr(zoo_parquet, "_table", noted)
    zoo = load_zoo(folder)
    zoo.save(tmp_path / "zoo")
    assert tables == [5] * 12
    assert all(not isinstance(split._weights, torch.Tensor) for split in zoo.splits.values())  # nothing was kept


# -------------------------------------------------------------------------------------------- weights when asked for


@pytest.fixture
def cut(folder, monkeypatch, tmp_path) -> Path:
    """A zoo of two rows a row group and four a file, ordered by epoch."""
    monkeypatch.setattr(zoo_parquet, "ROW_GROUP", 2 * ROW)
    monkeypatch.setattr(zoo_parquet, "FILE", 4 * ROW)
    zoo = load_zoo(folder)
    return dataclasses.replace(zoo, splits=by_epoch(zoo)).save(tmp_path / "cut")


def test_a_zoo_is_loaded_without_its_weights(cut, reads):
    zoo = load_zoo(cut)
    assert [len(split) for split in zoo.splits.values()] == [40, 10, 10]
    assert zoo["train"].shape == (40, PARAMS)
    assert zoo["train"].metrics["test_accuracy"].shape == (40,)
    assert f"weights [40, {PARAMS}]" in repr(zoo)
    assert len(zoo["train"].select([2])[:5]) == 5
    assert reads == []


@pytest.mark.parametrize("epoch", EPOCHS)
def test_an_epoch_reads_the_row_groups_that_hold_it(epoch, cut, reads):
    zoo = load_zoo(cut)
    kept = zoo["train"].select([epoch]).within(torch.inf)
    assert len(set(reads)) == 10  # of twenty
    assert len({name for name, _ in reads}) == 5
    assert (kept.weights == in_memory(zoo["train"].select([epoch])).weights).all()
    assert len(set(reads)) == 10


def test_training_data_reads_its_epochs_and_has_the_digest_of_the_zoo_in_memory(cut, reads):
    largest = load_zoo(cut)["train"].weights.abs().amax(1).median().item()
    reads.clear()
    zoo = load_zoo(cut)
    lazy = TrainingData.from_zoo(zoo, [2], largest)
    assert len(set(reads)) == (20 + 6 + 6) / 2  # five rows of an epoch share a group with one of the other
    assert 0 < lazy.dropped["train"] < 20
    held = Zoo(zoo.name, zoo.config, {name: in_memory(split) for name, split in zoo.splits.items()})
    ready = TrainingData.from_zoo(held, [2], largest)
    assert lazy.digest == ready.digest
    for split in ("train", "validation", "test"):
        assert torch.equal(getattr(lazy, split), getattr(ready, split))


@pytest.mark.parametrize("seed", range(20))
def test_any_choice_of_rows_is_that_of_the_tensors(seed, cut, monkeypatch):
    """Masks, slices and indices in any order and number, one after the other."""
    random = np.random.default_rng(seed)
    monkeypatch.setattr(files_parquet, "BATCH", int(random.integers(1, 4)) * 4 * PARAMS)
    lazy, ready = load_zoo(cut)["train"], in_memory(load_zoo(cut)["train"])
    for _ in range(3):
        if not len(ready):
            break
        kind = random.integers(4)
        index = [
            torch.from_numpy(random.random(len(ready)) < 0.7),
            slice(int(random.integers(len(ready))), None),
            torch.from_numpy(random.integers(0, len(ready), len(ready))),
            torch.from_numpy(random.permutation(len(ready))),
        ][kind]
        lazy, ready = lazy[index], ready[index]
    assert len(lazy) == len(ready)
    if len(ready):
        threshold = ready.weights.abs().amax(1).median().item()
        assert torch.equal(lazy.within(threshold).weights, ready.within(threshold).weights)
        assert torch.equal(lazy.within(threshold).model_id, ready.within(threshold).model_id)
    assert torch.equal(lazy.weights, ready.weights)


def test_no_more_than_a_few_megabytes_are_decoded_at_a_time(folder, monkeypatch):
    monkeypatch.setattr(files_parquet, "BATCH", 3 * 4 * PARAMS)  # a row group of forty rows
    sizes, cast = [], files_parquet._cast

    def noted(column, *arguments):
        sizes.append(len(column))
        return cast(column, *arguments)

    rows = load_zoo(folder)["train"]
    monkeypatch.setattr(files_parquet, "_cast", noted)
    assert torch.equal(rows[7:8].weights, load_zoo(folder)["train"].weights[7:8])
    assert max(sizes[:3]) == 3
    assert sizes[:3] == [3, 3, 3]  # and no more than the first nine rows for the eighth


def test_weights_are_kept_once_they_are_read(cut, reads):
    rows = load_zoo(cut)["train"]
    rows.weights[0, 0] = 7.0
    before = len(reads)
    assert rows.weights[0, 0] == rows[:1].weights[0, 0] == 7.0
    assert len(reads) == before


def test_a_checkpoint_with_a_nan_is_stored_and_not_learned_from(folder, tmp_path):
    zoo = load_zoo(folder)
    weights = zoo["train"].weights
    weights[3, 5], weights[4, 0] = torch.nan, torch.inf
    again = load_zoo(zoo.save(tmp_path / "zoo"))
    assert len(again["train"].within(torch.inf)) == 38
    assert again["train"].weights[3].isnan().sum() == 1


# ------------------------------------------------------------------------------------------------- files in between


def parquet(folder: Path) -> Path:
    return sorted((folder / "data").glob("train-*"))[0]


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def with_holes(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(len(content) - 2000) + content[-1996:])


@pytest.mark.parametrize("damage", [os.remove, cut_short, with_holes])
def test_a_file_that_was_damaged_since_is_one_line(damage, folder, tmp_path):
    zoo = load_zoo(folder)
    path = parquet(zoo.save(tmp_path / "zoo"))
    rows = load_zoo(tmp_path / "zoo")["train"]
    damage(path)
    for use in (lambda: rows.weights, lambda: rows.within(torch.inf)):
        with pytest.raises(UserError, match=rf"{path.name} cannot be read, or is damaged") as caught:
            use()
        assert len(str(caught.value).splitlines()) == 1


def change(folder: Path, kind: pa.DataType, statistics: bool, null: int | None = None) -> None:
    path = parquet(folder)
    table = pq.read_table(path)
    rows = table.column("weights").to_pylist()
    if null is not None:
        rows[1][null] = None
    table = table.set_column(table.schema.get_field_index("weights"), "weights", pa.array(rows, kind))
    pq.write_table(table, path, write_statistics=statistics, row_group_size=3)


KINDS = {
    "as we write": pa.list_(pa.float32(), PARAMS),
    "wide": pa.list_(pa.float64(), PARAMS),
    "lists of any length": pa.list_(pa.float32()),
    "large lists": pa.large_list(pa.float32()),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("statistics", [True, False])
def test_others_write_weights_otherwise(kind, statistics, folder, tmp_path):
    zoo = load_zoo(folder)
    zoo.save(tmp_path / "zoo")
    change(tmp_path / "zoo", KINDS[kind], statistics)
    assert torch.equal(load_zoo(tmp_path / "zoo")["train"].select([1]).weights, zoo["train"].select([1]).weights)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("statistics", [True, False])
def test_an_empty_place_is_found_when_a_zoo_is_loaded(kind, statistics, folder, tmp_path):
    zoo = load_zoo(folder)
    zoo.save(tmp_path / "zoo")
    change(tmp_path / "zoo", KINDS[kind], statistics, null=5)
    with pytest.raises(UserError, match="weights has empty places"):
        load_zoo(tmp_path / "zoo")
