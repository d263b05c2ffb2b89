"""Weights that lie in files until they are needed."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..files import ParquetVectors


class StoredWeights:
    """Rows of a zoo's column of weights. Indexing chooses among them, and reads nothing.

    Args:
        column ([`~hyperrep.files.ParquetVectors`])
        rows (`Tensor`, *optional*): (checkpoints,), int64, which ones; all by default.
    """

    dtype = torch.float32

    def __init__(self, column: ParquetVectors, rows: Tensor | None = None):
        self.column = column
        self.rows = torch.arange(len(column)) if rows is None else rows

    @property
    def shape(self) -> torch.Size:
        return torch.Size([*self.rows.shape, self.column.field.type.list_size])

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
