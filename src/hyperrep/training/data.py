"""The rows of a zoo that a hyper-representation learns from, and the order it sees them in."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from ..representation.alignment import align
from ..zoo import Zoo
from .streams import seed_of


@dataclass(frozen=True)
class TrainingData:
    """Weight vectors of the zoo's three splits, after the filter.

    Attributes:
        train, validation, test (`Tensor`): (checkpoints, num_params), float32.
        scores (`Tensor`): (train checkpoints,), validation accuracy of the training split.
        test_accuracy (`dict[str, Tensor]`): (checkpoints,), of each split.
        reference (`Tensor`, *optional*): (num_params,), the training network that all were aligned to: the best one.
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
    reference: Tensor | None
    dropped: dict[str, int]
    digest: str

    @classmethod
    def from_zoo(cls, zoo: Zoo, epochs: list[int], weight_threshold: float, aligned: bool = False) -> "TrainingData":
        """Checkpoints of `epochs` without NaN and without weights beyond `weight_threshold` in absolute value.

        With `aligned`, the hidden units of every network are permuted to lie close to those of the best one.

        Raises:
            UserError: if nothing is left of a split.
        """
        splits, test_accuracy, dropped, digest = {}, {}, {}, hashlib.sha256()
        for name in ("train", "validation", "test"):
            rows = zoo[name].select(epochs=epochs)
            kept = rows.within(weight_threshold, name)
            splits[name] = kept.weights
            test_accuracy[name] = kept.metrics["test_accuracy"]
            if name == "train":
                scores = kept.metrics["validation_accuracy"]
            dropped[name] = len(rows) - len(kept)
            digest.update(splits[name].contiguous().numpy())
        reference = None
        if aligned:
            reference = splits["train"][scores.nan_to_num(-torch.inf).argmax()].clone()  # NaN is not known
            splits = {name: align(weights, reference, zoo.config.layout) for name, weights in splits.items()}
        return cls(
            **splits,
            scores=scores,
            test_accuracy=test_accuracy,
            reference=reference,
            dropped=dropped,
            digest=digest.hexdigest(),
        )


def epoch_order(num_rows: int, seed: int, epoch: int) -> Tensor:
    """Order of the training rows in one epoch, the same on every process."""
    return torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed_of("order", seed, epoch)))


__all__ = ["TrainingData", "epoch_order"]
