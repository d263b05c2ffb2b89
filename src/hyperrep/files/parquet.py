"""Parquet files from outside: columns that are read at once, and one of vectors that is read when it is needed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import UserError
from .reading import check_regular, listed


BATCH = 8 * 2**20  # bytes of a column of vectors that are decoded at a time


def read_parquet(files: Sequence[str | Path], schema: pa.Schema) -> pa.Table:
    """The rows of Parquet files, one file after the other, with the columns of `schema` and its types.

    A number may be narrower or wider in the files as long as it fits, and lists of fixed length may be ordinary lists
    of that length. Other columns are left out.

    Raises:
        UserError: if a file cannot be read or is damaged, lacks a column, has another kind of values in it, lists of
            another length, or nulls.
    """
    tables = []
    for path in files:
        check_regular(path)
        with _explained(path):
            found = pq.read_schema(path)
            for field in schema:
                _check_field(found, field, path)
            table = pq.read_table(path, columns=schema.names, partitioning=None)
        columns = [_cast(table.column(field.name), field, path) for field in schema]
        tables.append(pa.table(columns, schema=schema))
    return pa.concat_tables(tables).combine_chunks()


def parquet_columns(path: str | Path) -> list[str]:
    """Names of a Parquet file's columns.

    Raises:
        UserError: if it cannot be read or is damaged.
    """
    check_regular(path)
    with _explained(path):
        return list(pq.read_schema(path).names)


class ParquetVectors:
    """A column of vectors of one length in Parquet files, one file after the other, of which only those rows are read
    that are asked for, a few megabytes at a time.

    Nothing is read before, as long as the files' metadata tell that the column is whole; where they do not, it is read
    once, and forgotten.

    Args:
        files (`Sequence`): their paths.
        field (`pa.Field`): the column, lists of fixed length; in the files it may be what [`read_parquet`] takes.

    Raises:
        UserError: as [`read_parquet`], at once or, where only the values are damaged, when they are read.
    """

    def __init__(self, files: Sequence[str | Path], field: pa.Field):
        self.field = field
        self._groups: list[tuple[Path, pq.FileMetaData, int]] = []
        starts = [0]
        for path in map(Path, files):
            check_regular(path)
            with _explained(path), pq.ParquetFile(path) as file:
                _check_field(file.schema_arrow, field, path)
                known = _known_to_be_whole(file, field, path)
                metadata = file.metadata
            for group in range(metadata.num_row_groups):
                self._groups.append((path, metadata, group))
                starts.append(starts[-1] + metadata.row_group(group).num_rows)
                if not known:
                    for _ in self._batches(len(self._groups) - 1):
                        pass
        self.starts = np.array(starts)  # of each row group, and the end of the last

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def length(self) -> int:
        """Of a vector."""
        return self.field.type.list_size

    def read(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The vectors of `rows`, in parts: which of `rows`, (part,), and their vectors, (part, length), a copy. Row
        groups that hold none of them are not read.

        Raises:
            UserError: if a file was removed, changed or damaged.
        """
        order = np.argsort(rows, kind="stable")
        wanted = rows[order]
        for group in range(len(self._groups)):
            start = int(self.starts[group])
            first, last = np.searchsorted(wanted, self.starts[group : group + 2])
            if first == last:
                continue
            for values in self._batches(group):
                end = start + len(values)
                until = np.searchsorted(wanted, end)
                if first < until:
                    yield order[first:until], values[wanted[first:until] - start]
                first, start = until, end
                if first == last:
                    break

    def _batches(self, group: int) -> Iterator[np.ndarray]:
        """Vectors of a row group, (rows, length), read-only, a few megabytes at a time."""
        path, metadata, index = self._groups[group]
        length, name = self.field.type.list_size, self.field.name
        size = max(1, BATCH // (length * self.field.type.value_type.byte_width))
        # else a whole row group would be read before the first batch of it
        options = {"buffer_size": 2**20, "pre_buffer": False}
        with _explained(path), pq.ParquetFile(path, metadata=metadata, **options) as file:
            for batch in file.iter_batches(batch_size=size, row_groups=[index], columns=[name], use_threads=False):
                column = _cast(pa.chunked_array([batch.column(name)]), self.field, path)
                for chunk in column.chunks:
                    yield chunk.flatten().to_numpy().reshape(len(chunk), length)


def _known_to_be_whole(file: pq.ParquetFile, field: pa.Field, path: Path) -> bool:
    """Whether metadata tell that all vectors have their length and no place is empty.

    Raises:
        UserError: if they tell that they have not.
    """
    found, length = file.schema_arrow.field(field.name).type, field.type.list_size
    fixed = pa.types.is_fixed_size_list(found)
    if fixed and found.list_size != length:
        raise UserError(f"{path}: column {field.name} does not fit {field.type}: it holds {found}.")
    columns = range(file.metadata.num_columns)
    (column,) = [i for i in columns if file.schema.column(i).path.split(".")[0] == field.name]
    for group in map(file.metadata.row_group, range(file.metadata.num_row_groups)):
        chunk = group.column(column)
        statistics = chunk.statistics
        if not fixed or statistics is None or not statistics.has_null_count:
            return False
        if statistics.null_count or chunk.num_values != group.num_rows * length:
            raise UserError(f"{path}: column {field.name} has empty places.")
    return True


@contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"{path} cannot be read, or is damaged: {reason}.") from error


def _check_field(found: pa.Schema, field: pa.Field, path: str | Path) -> None:
    if field.name not in found.names:
        raise UserError(f"{path} has columns {listed(found.names)}; {field.name} is missing.")
    if found.names.count(field.name) > 1:
        raise UserError(f"{path} has more than one column {field.name}.")
    kind = found.field(field.name).type
    if _kind(kind) != _kind(field.type):
        raise UserError(f"{path}: column {field.name} holds {kind}; {field.type} is needed.")


def _cast(column: pa.ChunkedArray, field: pa.Field, path: str | Path) -> pa.ChunkedArray:
    values = [column, pc.list_flatten(column)] if _is_list(column.type) else [column]
    if any(part.null_count for part in values):
        raise UserError(f"{path}: column {field.name} has empty places.")
    try:
        return column.cast(field.type)
    except pa.ArrowException as error:
        raise UserError(f"{path}: column {field.name} does not fit {field.type}: {error}") from error


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _kind(kind: pa.DataType) -> str:
    """Types that are the same but for their width have the same kind."""
    if _is_list(kind):
        return f"list of {_kind(kind.value_type)}"
    if pa.types.is_integer(kind):
        return "integer"
    if pa.types.is_floating(kind):
        return "floating"
    return "text" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else str(kind)
