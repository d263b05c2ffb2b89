"""What decides every byte of a zoo, together with the images."""

import re
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import UserError
from ..files.reading import plain
from .protocol import Protocol


SPLITS = {"train": 0.70, "validation": 0.15, "test": 0.15}
SPLIT_SEED = 42
MIN_MODELS = 4  # so that each of the three splits has a model
MAX_MODELS = 1_000_000
MAX_EPOCHS = 2**15 - 1  # what the columns hold
MAX_SEED = 2**31 - 1


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

    Raises:
        UserError: if one of them is no whole number, or out of range.
    """

    protocol: Protocol
    models: int
    epochs: int
    keep_epochs: tuple[int, ...] = field(default=())
    first_seed: int = 1
    test_epochs: int | None = None

    def __post_init__(self):
        for name in ("models", "epochs", "first_seed", "test_epochs", "keep_epochs"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        for name in ("models", "epochs", "first_seed", "test_epochs"):
            if type(value := getattr(self, name)) is not int and (name != "test_epochs" or value is not None):
                raise UserError(f"{name} is {value!r}; it must be a whole number.")
        if self.models < MIN_MODELS:
            raise UserError(f"a zoo of {self.models} models cannot be split 70/15/15; ask for {MIN_MODELS} or more.")
        if self.models > MAX_MODELS:
            raise UserError(f"models is {self.models}; a zoo has {MAX_MODELS:,} at most.")
        if not 0 <= self.epochs <= MAX_EPOCHS:
            raise UserError(f"epochs is {self.epochs}; it must be 0 or more, and {MAX_EPOCHS:,} at most.")
        if not 0 <= self.first_seed <= MAX_SEED - self.models:
            raise UserError(
                f"first_seed is {self.first_seed}; the seeds of {self.models} models must lie in 0 to {MAX_SEED:,}."
            )
        if self.test_epochs is None:
            object.__setattr__(self, "test_epochs", self.epochs)
        elif not self.epochs <= self.test_epochs <= MAX_EPOCHS:
            raise UserError(
                f"test_epochs is {self.test_epochs}; it must be {self.epochs}, the epochs, or more, and "
                f"{MAX_EPOCHS:,} at most."
            )
        last = max(self.epochs_of(split) for split in SPLITS)
        kept = self.keep_epochs or tuple(range(last + 1))
        if outside := [epoch for epoch in kept if type(epoch) is not int or not 0 <= epoch <= last]:
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


def parse_epochs(text: str) -> tuple[int, ...]:
    """`"0,1,5,21-25"` as epochs.

    Raises:
        UserError: if it is anything else.
    """
    epochs: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([0-9]{1,5})(?:-([0-9]{1,5}))?\s*", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last:
            raise UserError(f"epochs {text!r} are not a list such as 0,1,5,21-25.")
        epochs.extend(range(first, last + 1))
    return tuple(epochs)


def split_models(num_models: int) -> dict[str, Tensor]:
    """Indices of the models in each split, 70/15/15, shuffled with seed 42 and sorted within a split."""
    order = torch.randperm(num_models, generator=torch.Generator().manual_seed(SPLIT_SEED))
    held_out = max(1, round(SPLITS["validation"] * num_models))
    sizes = [num_models - 2 * held_out, held_out, held_out]
    return {split: part.sort().values for split, part in zip(SPLITS, order.split(sizes), strict=True)}
