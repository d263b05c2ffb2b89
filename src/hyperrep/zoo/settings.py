"""What decides every byte of a zoo, together with the images."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import UserError
from .protocol import Protocol


SPLITS = {"train": 0.70, "validation": 0.15, "test": 0.15}
SPLIT_SEED = 42
MIN_MODELS = 4  # so that each of the three splits has a model


@dataclass(frozen=True)
class ZooSettings:
    """What decides every byte of a zoo, together with the images.

    Args:
        protocol ([`Protocol`])
        models (`int`): how many; their seeds are `first_seed`, `first_seed + 1`, ...
        epochs (`int`): training epochs.
        keep_epochs (`tuple[int, ...]`, *optional*): which of the epochs 0, 1, ... are stored; all by default.
        first_seed (`int`, *optional*, defaults to 1): as the published zoos.
        test_epochs (`int`, *optional*): train the models of the test split so far instead, as the baselines need
            that hold samples against longer training (poster, rows B_T). Defaults to `epochs`.
    """

    protocol: Protocol
    models: int
    epochs: int
    keep_epochs: tuple[int, ...] = field(default=())
    first_seed: int = 1
    test_epochs: int | None = None

    def __post_init__(self):
        if self.models < MIN_MODELS:
            raise UserError(f"a zoo of {self.models} models cannot be split 70/15/15; ask for {MIN_MODELS} or more.")
        if self.epochs < 0:
            raise UserError(f"epochs is {self.epochs}; it must be 0 or more.")
        if self.test_epochs is None:
            object.__setattr__(self, "test_epochs", self.epochs)
        elif self.test_epochs < self.epochs:
            raise UserError(f"test_epochs is {self.test_epochs}; it must be {self.epochs}, the epochs, or more.")
        last = max(self.epochs_of(split) for split in SPLITS)
        kept = self.keep_epochs or tuple(range(last + 1))
        if outside := [epoch for epoch in kept if not 0 <= epoch <= last]:
            raise UserError(f"keep_epochs names {outside}, but training runs from epoch 0 to {last}.")
        if min(kept) > self.epochs:
            raise UserError(f"keep_epochs starts at {min(kept)}, but most models stop at epoch {self.epochs}.")
        object.__setattr__(self, "keep_epochs", tuple(sorted(set(kept))))

    @property
    def seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.models)

    def epochs_of(self, split: str) -> int:
        """How long the models of a split are trained."""
        return (self.test_epochs if split == "test" else None) or self.epochs

    def kept(self, epochs: int) -> list[int]:
        """The stored ones among the first `epochs`."""
        return [epoch for epoch in self.keep_epochs if epoch <= epochs]

    def model_epochs(self) -> int:
        """All the training there is to do."""
        return sum(len(models) * self.epochs_of(split) for split, models in split_models(self.models).items())


def split_models(num_models: int) -> dict[str, Tensor]:
    """Indices of the models in each split, 70/15/15, shuffled with seed 42 and sorted within a split."""
    order = torch.randperm(num_models, generator=torch.Generator().manual_seed(SPLIT_SEED))
    held_out = max(1, round(SPLITS["validation"] * num_models))
    sizes = [num_models - 2 * held_out, held_out, held_out]
    return {split: part.sort().values for split, part in zip(SPLITS, order.split(sizes), strict=True)}
