"""Rows of a zoo as tensors."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError


METRICS = (
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "test_loss",
    "test_accuracy",
    "generalization_gap",
)
COLUMNS = ("model_id", "seed", "epoch", "weights", *METRICS)  # of every zoo


@dataclass(frozen=True, repr=False)
class ZooSplit:
    """Checkpoints, one row each.

    Attributes:
        weights (`Tensor`): (checkpoints, num_params), float32.
        model_id, seed, epoch (`Tensor`): (checkpoints,), int64.
        metrics (`dict[str, Tensor]`): (checkpoints,), float32; names in [`METRICS`].
        factors (`dict[str, ndarray]`): (checkpoints,), text or numbers: the generating factors of a grid zoo.
    """

    weights: Tensor
    model_id: Tensor
    seed: Tensor
    epoch: Tensor
    metrics: dict[str, Tensor]
    factors: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.weights)

    def __repr__(self) -> str:
        factors = f", factors {', '.join(self.factors)}" if self.factors else ""
        epochs = sorted(set(self.epoch.tolist()))
        return (
            f"ZooSplit({len(self):,} checkpoints of {len(self.model_id.unique()):,} models at "
            f"{len(epochs)} epochs, weights {list(self.weights.shape)}{factors})"
        )

    def __getitem__(self, index: Tensor | slice) -> "ZooSplit":
        """Rows by index, slice or boolean mask."""
        return ZooSplit(
            self.weights[index],
            self.model_id[index],
            self.seed[index],
            self.epoch[index],
            {name: values[index] for name, values in self.metrics.items()},
            {
                name: values[index.numpy() if isinstance(index, Tensor) else index]
                for name, values in self.factors.items()
            },
        )

    def select(self, epochs: list[int]) -> "ZooSplit":
        """The checkpoints of these epochs.

        Raises:
            UserError: if the zoo holds none of one of them.
        """
        stored = sorted(set(self.epoch.tolist()))
        if missing := sorted(set(epochs) - set(stored)):
            raise UserError(f"epochs {missing} are not in the zoo; it holds {stored}.")
        return self[torch.isin(self.epoch, torch.tensor(epochs))]

    def within(self, weight_threshold: float, name: str = "given") -> "ZooSplit":
        """The checkpoints that can be learned from: no NaN, and no weight beyond the threshold in absolute value.

        Args:
            weight_threshold (`float`): infinity keeps every finite checkpoint.
            name (`str`, *optional*): what the error calls them.

        Raises:
            UserError: if none is left.
        """
        largest = self.weights.abs().amax(dim=1)
        kept = (largest <= weight_threshold) & torch.isfinite(largest)  # False for NaN, too
        if not kept.any():
            raise UserError(
                f"the filter drops all {len(self)} {name} checkpoints: each holds a NaN or a weight beyond "
                f"weight_threshold {weight_threshold}. Raise the threshold or choose other epochs."
            )
        return self[kept]
