"""Weights that lie in files until they are needed."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Vectors(Protocol):
    """Vectors of one length in files, such as [`~hyperrep.files.ParquetVectors`]."""

    def __len__(self) -> int: ...

    @property
    def length(self) -> int:
        """Of a vector."""
        ...

    def read(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Those of `rows`, in parts: which of `rows`, (part,), and their vectors, (part, length), float32.

        Raises:
            UserError: if a file was removed, changed or damaged.
        """
        ...


class FileVectors:
    """Weight vectors in a file each, read one after the other: [`Vectors`].

    Args:
        paths (`Sequence[Path]`)
        read_one (`Callable`): a file's vector, (length,).
        length (`int`): of a vector.
    """

    def __init__(self, paths: Sequence[Path], read_one: Callable[[Path], Tensor], length: int):
        self.paths, self.read_one, self.length = paths, read_one, length

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """As [`Vectors.read`].

        Raises:
            UserError: also if a file holds other tensors.
        """
        for position, row in enumerate(rows.tolist()):
            yield np.array([position]), self.read_one(self.paths[row]).float()[None].numpy()


class StoredWeights:
    """Weight vectors that lie in files. Indexing chooses among them, and reads nothing.

    Args:
        column ([`Vectors`])
        rows (`Tensor`, *optional*): (checkpoints,), int64, which ones; all by default.
    """

    dtype = torch.float32

    def __init__(self, column: Vectors, rows: Tensor | None = None):
        self.column = column
        self.rows = torch.arange(len(column)) if rows is None else rows

    @property
    def shape(self) -> torch.Size:
        return torch.Size([*self.rows.shape, self.column.length])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor | slice) -> "StoredWeights":
        return StoredWeights(self.column, self.rows[index])

    def parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Positions (part,) and weights (part, num_params), a few megabytes at a time, in the order of the files.

        Raises:
            UserError: if a file was removed or changed since it was found, or is damaged.
        """
        for positions, weights in self.column.read(self.rows.reshape(-1).numpy()):
            yield torch.from_numpy(positions), torch.from_numpy(weights)

    def read(self) -> Tensor:
        """The weights, (checkpoints, num_params), float32.

        Raises:
            UserError: as [`parts`].
        """
        weights = torch.empty(self.rows.numel(), self.shape[-1], dtype=self.dtype)
        for positions, part in self.parts():
            weights[positions] = part
        return weights.reshape(self.shape)
