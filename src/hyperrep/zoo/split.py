"""Rows of a zoo as tensors."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .stored import StoredWeights


METRICS = (
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "test_loss",
    "test_accuracy",
    "generalization_gap",
)
PART = 2**21  # numbers looked at together
UNKNOWN_SEED = -1
COLUMNS = ("model_id", "seed", "epoch", "weights", "file", *METRICS)  # of every zoo


class ZooSplit:
    """Checkpoints, one row each.

    Args:
        weights (`Tensor` or [`StoredWeights`]): (checkpoints, num_params), float32.
        model_id, seed, epoch (`Tensor`): (checkpoints,), int64; a seed of -1 is not known.
        metrics (`dict[str, Tensor]`): (checkpoints,), float32; names in [`METRICS`], NaN where one is not known.
        factors (`dict[str, ndarray]`, *optional*): (checkpoints,), text or numbers: the generating factors of a grid
            zoo.

    All but `weights` are attributes of a loaded zoo at once. Its weights stay in its files until somebody asks for
    them: choose rows first ([`select`], [`within`], indexing), and only these are read.
    """

    def __init__(
        self,
        weights: Tensor | StoredWeights,
        model_id: Tensor,
        seed: Tensor,
        epoch: Tensor,
        metrics: dict[str, Tensor],
        factors: dict[str, np.ndarray] | None = None,
    ):
        self._weights = weights
        self.model_id, self.seed, self.epoch = model_id, seed, epoch
        self.metrics, self.factors = metrics, factors or {}

    @property
    def weights(self) -> Tensor:
        """(checkpoints, num_params), float32. What lay in files is read once, and kept as long as this object.

        Raises:
            UserError: if a file was removed or changed since it was found, or is damaged.
        """
        if isinstance(self._weights, StoredWeights):
            self._weights = self._weights.read()
        return self._weights

    @property
    def shape(self) -> torch.Size:
        """Of the weights; reads nothing."""
        return self._weights.shape

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; reads nothing."""
        return self._weights.dtype

    def __len__(self) -> int:
        return len(self._weights)

    def __repr__(self) -> str:
        factors = f", factors {', '.join(self.factors)}" if self.factors else ""
        epochs = sorted(set(self.epoch.tolist()))
        return (
            f"ZooSplit({len(self):,} checkpoints of {len(self.model_id.unique()):,} models at "
            f"{len(epochs)} epochs, weights {list(self.shape)}{factors})"
        )

    def __getitem__(self, index: Tensor | slice) -> "ZooSplit":
        """Rows by index, slice or boolean mask."""
        return ZooSplit(
            self._weights[index],
            self.model_id[index],
            self.seed[index],
            self.epoch[index],
            {name: values[index] for name, values in self.metrics.items()},
            {
                name: values[index.numpy() if isinstance(index, Tensor) else index]
                for name, values in self.factors.items()
            },
        )

    def column(self, name: str) -> Tensor:
        """A column of numbers, (checkpoints,): one of [`METRICS`], or a generating factor.

        Raises:
            UserError: if there is none of that name, or it holds texts.
        """
        if name in self.metrics:
            return self.metrics[name]
        numbers = [factor for factor, values in self.factors.items() if np.issubdtype(values.dtype, np.number)]
        if name not in numbers:
            raise UserError(f"the zoo has no column {name!r} of numbers; there are {', '.join([*METRICS, *numbers])}.")
        return torch.from_numpy(self.factors[name].astype(np.float32))

    def in_pieces(self, rows: int) -> list["ZooSplit"]:
        """The same checkpoints, at most `rows` in each piece."""
        return [self[start : start + rows] for start in range(0, len(self), rows)]

    def select(self, epochs: list[int]) -> "ZooSplit":
        """The checkpoints of these epochs.

        Raises:
            UserError: if the zoo holds none of one of them.
        """
        stored = sorted(set(self.epoch.tolist()))
        if missing := sorted(set(epochs) - set(stored)):
            raise UserError(f"epochs {missing} are not in the zoo; it holds {stored}.")
        return self[torch.isin(self.epoch, torch.tensor(epochs))]

    def within(self, weight_threshold: float, name: str = "given", statistics: Tensor | None = None) -> "ZooSplit":
        """The checkpoints that can be learned from: no NaN, and no weight beyond the threshold in absolute value.

        Args:
            weight_threshold (`float`): infinity keeps every finite checkpoint.
            name (`str`, *optional*): what the error calls them.
            statistics (`Tensor`, *optional*): (entries,), int64, where the vectors hold no weights but running
                statistics ([`~hyperrep.weights.WeightLayout.statistics`]): these need only be finite.

        Raises:
            UserError: if none is left.
        """
        largest = torch.empty(len(self))
        for positions, weights in self.parts():
            sizes = weights.abs()
            if statistics is not None and len(statistics):
                sizes[:, statistics] -= sizes[:, statistics]  # 0, but NaN of what is not finite
            largest[positions] = sizes.amax(dim=1).to(largest.dtype)
        kept = (largest <= weight_threshold) & torch.isfinite(largest)  # False for NaN, too
        if not kept.any():
            raise UserError(
                f"the filter drops all {len(self)} {name} checkpoints: each holds a NaN or a weight beyond "
                f"weight_threshold {weight_threshold}. Raise the threshold or choose other epochs."
            )
        return self[kept]

    def parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Positions (part,) and weights (part, num_params), so many that a copy does not matter."""
        if isinstance(self._weights, StoredWeights):
            yield from self._weights.parts()
        else:
            for rows in torch.arange(len(self)).split(max(1, PART // max(1, self.shape[1]))):
                yield rows, self._weights[rows[0] : rows[-1] + 1]
