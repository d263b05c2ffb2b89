"""The rows of a zoo that a hyper-representation learns from, and the order it sees them in."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from ..representation import HyperRepProcessor
from ..zoo import Zoo
from .streams import seed_of


ALIGNED_AT_ONCE = 64  # networks


@dataclass(frozen=True)
class TrainingData:
    """Weight vectors of the zoo's three splits, after the filter.

    Attributes:
        train, validation, test (`Tensor`): (checkpoints, num_params), float32.
        scores (`Tensor`): (train checkpoints,), validation accuracy of the training split.
        test_accuracy (`dict[str, Tensor]`): (checkpoints,), of each split.
        dropped (`dict[str, int]`): checkpoints left out of each split.
        digest (`str`): SHA-256 of all weights that are left, before they are aligned, row after row, of the training,
            the validation and the test split: two runs with the same digest saw the same weights. Where one split
            ends, and metrics, are no part of it.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    scores: Tensor
    test_accuracy: dict[str, Tensor]
    dropped: dict[str, int]
    digest: str

    @classmethod
    def from_zoo(cls, zoo: Zoo, epochs: list[int], weight_threshold: float) -> "TrainingData":
        """Checkpoints of `epochs` without NaN and without weights beyond `weight_threshold` in absolute value.

        Raises:
            UserError: if nothing is left of a split.
        """
        splits, test_accuracy, dropped, digest = {}, {}, {}, hashlib.sha256()
        statistics = zoo.config.weight_layout().statistics
        for name in ("train", "validation", "test"):
            rows = zoo[name].select(epochs=epochs)
            kept = rows.within(weight_threshold, name, statistics)
            splits[name] = kept.weights
            test_accuracy[name] = kept.metrics["test_accuracy"]
            if name == "train":
                scores = kept.metrics["validation_accuracy"]
            dropped[name] = len(rows) - len(kept)
            digest.update(splits[name].contiguous().numpy())
        return cls(
            **splits,
            scores=scores,
            test_accuracy=test_accuracy,
            dropped=dropped,
            digest=digest.hexdigest(),
        )

    @property
    def best(self) -> Tensor:
        """The training network of the highest validation accuracy, (num_params,)."""
        return self.train[self.scores.nan_to_num(-torch.inf).argmax()]  # NaN is not known

    def align(self, processor: HyperRepProcessor) -> None:
        """Put the networks' hidden units into the order that a model is to see. The tensors are changed: there may be
        no room for them twice."""
        for weights in (self.train, self.validation, self.test):
            for part in weights.split(ALIGNED_AT_ONCE):
                part.copy_(processor.align(part))


def epoch_order(num_rows: int, seed: int, epoch: int) -> Tensor:
    """Order of the training rows in one epoch, the same on every process."""
    return torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed_of("order", seed, epoch)))


__all__ = ["TrainingData", "epoch_order"]
