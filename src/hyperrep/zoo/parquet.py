"""The Parquet files of a zoo: where their rows become tensors, and tensors become rows. They are cut by bytes, so that
a zoo of large networks is read and transferred in parts of the same size as one of small ones.

Networks of more than a million numbers have a file each, and their rows name it ([`.checkpoint_files`]).

A file's name holds a digest of its content: `datasets` knows what it has read before by the names in the card, and
would give one zoo's rows for another's if all were called alike.
"""

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ..errors import UserError
from ..files import ParquetVectors, read_parquet, sha256_of
from ..files.parquet import parquet_columns
from .checkpoint_files import LARGEST_IN_ROWS, checkpoint_paths, read_checkpoint, write_checkpoint
from .config import ZooConfig
from .settings import SPLITS
from .split import METRICS, UNKNOWN_SEED, ZooSplit
from .stored import FileVectors, StoredWeights, Vectors


ROW_GROUP = 64 * 2**20  # bytes at most, unless a row has more: what is read at once
FILE = 500_000_000  # the same of a file: what is transferred at once
FILE_COLUMN = ("file", pa.string())


def read_splits(folder: Path, config: ZooConfig) -> dict[str, ZooSplit]:
    """The rows of a zoo's folder.

    Raises:
        UserError: if files are missing or damaged, or do not hold what `config` says.
    """
    splits = {split: _read_split(folder, split, config) for split in SPLITS}
    check_splits(config, splits, str(folder))
    return splits


def _read_split(folder: Path, split: str, config: ZooConfig) -> ZooSplit:
    # earlier versions called all zoos' files alike, and did not list them
    files = [folder / name for name in config.files.get(split, ())]
    files = files or sorted((folder / "data").glob(f"{split}-*-of-*.parquet"))
    if not files:
        raise UserError(f"{folder} holds no data/{split}-*.parquet.")
    layout = config.weight_layout()
    in_rows = not _name_files(files[0])
    schema = _schema(config, in_rows)
    if in_rows:
        position = schema.get_field_index("weights")
        table = read_parquet(files, schema.remove(position))
        stored: Vectors = ParquetVectors(files, schema.field(position))
    else:
        table = read_parquet(files, schema)
        paths = checkpoint_paths(folder, table.column("file").to_pylist())
        stored = FileVectors(paths, partial(read_checkpoint, layout=layout), layout.num_params)

    def column(name: str, dtype: Any) -> Tensor:
        if name in config.unknown:
            return torch.from_numpy(np.full(len(table), UNKNOWN_SEED if name == "seed" else np.nan, dtype))
        return torch.from_numpy(table.column(name).to_numpy().astype(dtype))

    return ZooSplit(
        StoredWeights(stored),
        column("model_id", np.int64),
        column("seed", np.int64),
        column("epoch", np.int64),
        {name: column(name, np.float32) for name in METRICS},
        {name: np.array(table.column(name).to_pylist()) for name in config.factors()},
    )


def check_splits(config: ZooConfig, splits: dict[str, ZooSplit], where: str) -> None:
    """Whether rows are what a zoo's config says, and every model is in one split only.

    Raises:
        UserError: says what is wrong in which split.
    """
    if set(splits) != set(SPLITS):
        raise UserError(f"{where} has splits {', '.join(splits)}; {', '.join(SPLITS)} are needed.")
    split_of: dict[int, str] = {}
    for split, rows in splits.items():
        what = f"{where}: split {split}"
        if not len(rows):
            raise UserError(f"{what} is empty.")
        columns: list[Any] = [rows.model_id, rows.seed, rows.epoch, *rows.metrics.values(), *rows.factors.values()]
        if {len(column) for column in columns} != {len(rows)}:
            raise UserError(f"{what} has {len(rows)} rows of weights, and columns of other lengths.")
        shape = (len(rows), config.weight_layout().num_params)
        if tuple(rows.shape) != shape or rows.dtype != torch.float32:
            found = f"{rows.dtype} of shape {tuple(rows.shape)}"
            raise UserError(f"{what} has weights {found}; float32 of shape {shape} is needed.")
        if strange := sorted(set(rows.epoch.tolist()) - set(config.epochs)):
            raise UserError(f"{what} has rows of epochs {strange[:5]}, which the zoo's config does not name.")
        models = set(rows.model_id.tolist())
        if not 0 <= min(models) <= max(models) < config.num_models:
            raise UserError(
                f"{what} has models {min(models)} to {max(models)}; there are 0 to {config.num_models - 1}."
            )
        if leaked := [model for model in sorted(models) if split_of.setdefault(model, split) != split]:
            raise UserError(f"{where}: model {leaked[0]} is in the splits {split_of[leaked[0]]} and {split}.")
        if len(torch.stack([rows.model_id, rows.epoch]).unique(dim=1)[0]) < len(rows):
            raise UserError(f"{what} has an epoch of a model twice.")
        for name, values in rows.metrics.items():
            if name.endswith("accuracy") and ((values < 0) | (values > 1)).any():  # NaN is one that is not known
                raise UserError(f"{what} has {name} outside of 0 to 1.")
        for name, choices in config.factors().items():
            if others := set(rows.factors[name].tolist()) - set(np.array(choices).tolist()):
                raise UserError(f"{what} has {name} {min(others)!r}; the zoo's grid has {choices}.")


def write_splits(folder: Path, splits: dict[str, ZooSplit], config: ZooConfig) -> dict[str, list[str]]:
    """Write each split as Parquet files in `folder/data`, and large networks in `folder/weights`; returns the former's
    names, which change with their content."""
    (folder / "data").mkdir()
    names: dict[str, list[str]] = {}
    _, rows_of_file = _sizes(config)
    for split, rows in splits.items():
        files, path = rows.in_pieces(rows_of_file), folder / "data" / f"{split}.parquet"
        names[split] = []
        for index, part in enumerate(files):
            write_split(path, part, config)
            number = f"-{index:05d}-of-{len(files):05d}" if len(files) > 1 else ""
            names[split].append(f"data/{split}{number}-{sha256_of(path)[:16]}.parquet")
            os.replace(path, folder / names[split][-1])
    return names


def write_split(path: Path, rows: ZooSplit, config: ZooConfig) -> None:
    """Write rows as one file, columnar: weights as `FixedSizeList<float32>`. No more than a row group is copied, or
    read where weights lie in files."""
    schema = _schema(config, are_in_rows(config))
    # float weights do not compress, and dictionaries of them only cost time; their statistics tell that none is null
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for part in rows.in_pieces(_sizes(config)[0]):
            writer.write_table(_table(part, config, schema, path.parent.parent), row_group_size=len(part))


def are_in_rows(config: ZooConfig) -> bool:
    """Whether networks are small enough to stand in their rows."""
    return config.weight_layout().num_params <= LARGEST_IN_ROWS


def _name_files(path: Path) -> bool:
    """Whether the rows of a Parquet file name the files of their networks, instead of holding them."""
    return {"file", "weights"} & set(parquet_columns(path)) == {"file"}


def _sizes(config: ZooConfig) -> tuple[int, int]:
    """Rows of a row group and of a file."""
    row = 64 + (4 * config.weight_layout().num_params if are_in_rows(config) else 64)
    group = max(1, ROW_GROUP // row)
    return group, group * max(1, FILE // (group * row))


def _table(rows: ZooSplit, config: ZooConfig, schema: pa.Schema, folder: Path) -> pa.Table:
    columns: dict[str, Any] = {name: getattr(rows, name).numpy() for name in ("model_id", "seed", "epoch")}
    columns |= {name: rows.metrics[name].numpy() for name in METRICS}
    columns |= {name: values.tolist() for name, values in rows.factors.items()}
    if "file" in schema.names:
        columns["file"] = _checkpoints(rows, config, folder)
    else:
        flat = pa.array(rows.weights.contiguous().numpy().reshape(-1))
        columns["weights"] = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
    return pa.table({field.name: columns[field.name] for field in schema}, schema=schema)


def _checkpoints(rows: ZooSplit, config: ZooConfig, folder: Path) -> list[str]:
    """Write the networks of rows, one after the other; returns their names."""
    names = [""] * len(rows)
    for positions, weights in rows.parts():
        for position, vector in zip(positions.tolist(), weights):
            model, epoch = int(rows.model_id[position]), int(rows.epoch[position])
            names[position] = write_checkpoint(folder, model, epoch, vector, config.weight_layout())
    return names


def _schema(config: ZooConfig, in_rows: bool) -> pa.Schema:
    fields: list[tuple[str, pa.DataType]] = [("model_id", pa.int32()), ("seed", pa.int32()), ("epoch", pa.int16())]
    fields.append(("weights", pa.list_(pa.float32(), config.weight_layout().num_params)) if in_rows else FILE_COLUMN)
    fields += [(name, pa.float32()) for name in METRICS]
    # text or numbers, as all values of a factor together are
    fields += [(name, pa.array(np.array(values).tolist()).type) for name, values in config.factors().items()]
    return pa.schema([field for field in fields if field[0] not in config.unknown])
