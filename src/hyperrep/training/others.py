"""Further zoos that one representation learns from, of whatever architectures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..representation import HyperRepConfig, HyperRepModel, HyperRepProcessor
from ..representation.adapting import with_processor
from ..zoo import Zoo
from .config import TrainingConfig
from .data import TrainingData
from .measures import evaluate_reconstruction


@dataclass(frozen=True)
class Examples:
    """Networks that windows are drawn from.

    Attributes:
        weights (`Tensor`): (networks, num_params), on the device.
        processor ([`HyperRepProcessor`]): of their architecture.
    """

    weights: Tensor
    processor: HyperRepProcessor

    @property
    def windows(self) -> int:
        """Of a network: as many as it takes to read it once."""
        return -(-self.processor.config.num_tokens // self.processor.config.window)

    def __len__(self) -> int:
        return len(self.weights) * self.windows


@dataclass(frozen=True)
class OtherZoo:
    """A zoo beside the first.

    Attributes:
        zoo ([`Zoo`])
        data ([`TrainingData`]): aligned by the processor.
        processor ([`HyperRepProcessor`]): fitted to its training split.
    """

    zoo: Zoo
    data: TrainingData
    processor: HyperRepProcessor

    @classmethod
    def of(
        cls, zoo: Zoo, config: TrainingConfig, model_config: Callable[[Zoo, TrainingData], HyperRepConfig]
    ) -> "OtherZoo":
        """Read, fit and align.

        Args:
            zoo ([`Zoo`])
            config ([`TrainingConfig`])
            model_config: makes that of its architecture.

        Raises:
            UserError: if networks are read as a whole, or are smaller than a window.
        """
        if config.model.get("token_size") is None:
            raise UserError(
                f"zoo {zoo.name} comes on top of another one; to learn from several, a representation has to read "
                "windows of tokens: set token_size, or take preset windows."
            )
        data = TrainingData.from_zoo(zoo, config.epochs, config.weight_threshold)
        its = model_config(zoo, data)
        processor = HyperRepProcessor(its).fit(data.train, data.best if config.align else None)
        data.align(processor)
        return cls(zoo, data, processor)

    def record(self) -> dict[str, Any]:
        """What the representation's configuration says of it."""
        about = {"name": self.zoo.name, "revision": self.zoo.revision}
        return {**about, "num_train": len(self.data.train), "sha256": self.data.digest}

    @torch.no_grad()
    def measures(self, model: HyperRepModel) -> dict[str, Any]:
        """How well held-out networks are reconstructed, by split, as [`evaluate_reconstruction`] says it."""
        view, mean = with_processor(model, self.processor), self.data.train.mean(dim=0)
        rows = {"validation": self.data.validation, "test": self.data.test}
        return {split: evaluate_reconstruction(view, weights, mean) for split, weights in rows.items()}


def check_windows(examples: Sequence[Examples], batch_size: int) -> None:
    """Whether windows of these networks can stand in one batch, and there are enough of them for one.

    Raises:
        UserError: if some networks are smaller than a window, and others not, or there are too few.
    """
    lengths = {min(part.processor.config.window, part.processor.config.num_tokens) for part in examples}
    if len(lengths) > 1:
        raise UserError(
            f"the smallest networks have {min(lengths)} tokens, fewer than a window; set window to {min(lengths)} or "
            "less."
        )
    if batch_size > (count := sum(map(len, examples))):
        raise UserError(f"batch_size {batch_size} exceeds the {count} windows of the training checkpoints.")


__all__ = ["Examples", "OtherZoo", "check_windows"]
