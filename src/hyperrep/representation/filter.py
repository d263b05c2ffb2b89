"""Which checkpoints of a zoo a representation learned from, as its configuration records it."""

import math
from dataclasses import dataclass

from huggingface_hub.dataclasses import strict

from ..errors import UserError
from ..files import construct
from ..zoo import Zoo, ZooSplit
from .modeling_hyperrep import HyperRepModel


@strict
@dataclass
class Filter:
    """Which checkpoints of a zoo a representation was trained on (`config.zoo`).

    Attributes:
        epochs (`list[int]`)
        weight_threshold (`float`): checkpoints with a weight beyond it, in absolute value, were dropped.
    """

    epochs: list[int]
    weight_threshold: float | int = math.inf

    @classmethod
    def of(cls, model: HyperRepModel, zoo: Zoo) -> "Filter":
        """A representation that does not say gets the last epoch of the training models, and all finite checkpoints.

        Raises:
            UserError: if the record is damaged.
        """
        record = model.config.zoo or {}
        known = {name: record[name] for name in ("epochs", "weight_threshold") if name in record}
        return construct(cls, {"epochs": [int(zoo["train"].epoch.max())]} | known, "config.json, zoo")

    def __post_init__(self):
        if not self.epochs or not self.weight_threshold > 0:
            raise UserError(f"epochs {self.epochs} within {self.weight_threshold} leave no checkpoint.")

    def rows(self, zoo: Zoo, split: str) -> ZooSplit:
        """A split as the representation's training took it."""
        return (
            zoo[split].select(self.epochs).within(self.weight_threshold, split, zoo.config.weight_layout().statistics)
        )


__all__ = ["Filter"]
