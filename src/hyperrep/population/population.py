"""What every engine shares: a population of networks in training, and the interface to train and evaluate it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..networks import Network, dropout_rate, hidden_units


OPTIMIZERS = ("adam", "adamw", "sgd")
ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8


@dataclass(frozen=True)
class Recipe:
    """How one network is trained.

    Args:
        optimizer (`str`, *optional*, defaults to `"adam"`): `adam` (weight decay added to the gradient, as
            `torch.optim.Adam`), `adamw` (decoupled) or `sgd` (with momentum).
        learning_rate (`float`, *optional*, defaults to 3e-4): constant over training.
        weight_decay (`float`, *optional*, defaults to 0.0)
        momentum (`float`, *optional*, defaults to 0.9): of `sgd`.
        batch_size (`int`, *optional*, defaults to 10): images a step; the last batch of an epoch may be smaller.
    """

    optimizer: str = "adam"
    learning_rate: float = 3e-4
    weight_decay: float = 0.0
    momentum: float = 0.9
    batch_size: int = 10

    def __post_init__(self):
        if self.optimizer not in OPTIMIZERS:
            raise UserError(f"optimizer {self.optimizer!r} is unknown; choose from {', '.join(OPTIMIZERS)}.")
        if not isinstance(self.batch_size, Integral) or self.batch_size < 1:
            raise UserError(f"batch_size is {self.batch_size!r}; it must be a whole number, at least 1.")
        for name in ("learning_rate", "weight_decay", "momentum"):
            if not 0 <= getattr(self, name) < math.inf:  # false for NaN, too
                raise UserError(f"{name} is {getattr(self, name)}; it must be a finite number, at least 0.")


@dataclass
class Population:
    """Networks of one architecture in training, one row a network.

    Attributes:
        network (`PreTrainedConfig` or `nn.Module`): their common architecture; the engines but the native one take any
            module that maps images to logits without dropout.
        recipe ([`Recipe`]): their common recipe.
        weights (`Tensor`): (models, num_params), float32. Running statistics of batch norms are among them, updated by
            every batch; they have no moments.
        first_moment (`Tensor`): (models, num_params), Adam's running mean of gradients, or SGD's momentum buffer.
        second_moment (`Tensor`): (models, num_params), Adam's running mean of squared gradients.
        steps (`int`): optimiser steps taken so far.
        learning_rates, weight_decays (`Tensor`, *optional*): (models,), instead of the recipe's.
        dropouts (`Tensor`, *optional*): (models,), instead of the network's.
        dropout_keys (`Tensor`, *optional*): (models,), decide what is dropped in the coming epoch, see
            [`~hyperrep.population.dropout.dropout_keys`]; needed where there is dropout.
    """

    network: Network
    recipe: Recipe
    weights: Tensor
    first_moment: Tensor
    second_moment: Tensor
    steps: int = 0
    learning_rates: Tensor | None = None
    weight_decays: Tensor | None = None
    dropouts: Tensor | None = None
    dropout_keys: Tensor | None = None

    @classmethod
    def start(cls, network: Network, recipe: Recipe, weights: Tensor) -> "Population":
        """A population before its first step, with a fresh optimiser; `weights` (models, num_params) is copied."""
        weights = weights.detach().to(torch.float32).clone().contiguous()
        return cls(network, recipe, weights, torch.zeros_like(weights), torch.zeros_like(weights))

    def __len__(self) -> int:
        return len(self.weights)

    def per_model(self, name: str) -> Tensor:
        """`learning_rate`, `weight_decay` or `dropout` of each model, (models,), float32."""
        values = getattr(self, f"{name}s")
        if values is None:
            own = dropout_rate(self.network) if name == "dropout" else getattr(self.recipe, name)
            values = torch.full((len(self),), own)
        return values.to(device=self.weights.device, dtype=torch.float32)

    def dropout(self) -> tuple[Tensor, Tensor] | None:
        """Keys (models,), int64, and rates (models,), float32; `None` where nothing is dropped.

        Raises:
            UserError: if there is dropout, but no keys, or no units that it acts on.
        """
        rates = self.per_model("dropout")
        if not rates.any():
            return None
        if not hidden_units(self.network):
            raise UserError("the networks say of no hidden units that they can be dropped; leave dropouts out.")
        if self.dropout_keys is None:
            raise UserError("the networks have dropout: set dropout_keys before every epoch.")
        return self.dropout_keys.to(self.weights.device), rates


@dataclass(frozen=True)
class Evaluation:
    """Loss and accuracy of every model of a population on one set of images.

    Attributes:
        loss (`Tensor`): (models,), mean cross-entropy in nats.
        accuracy (`Tensor`): (models,), share of images classified correctly, 0 to 1.
        predictions (`Tensor`, *optional*): (models, images), predicted class of each image, int32.
    """

    loss: Tensor
    accuracy: Tensor
    predictions: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence["Evaluation"]) -> "Evaluation":
        """Of the models of one part after the other."""
        predictions = [part.predictions for part in parts if part.predictions is not None]
        return cls(
            torch.cat([part.loss for part in parts]),
            torch.cat([part.accuracy for part in parts]),
            torch.cat(predictions) if predictions else None,
        )


class Engine(Protocol):
    """Trains and evaluates populations.

    Attributes:
        name (`str`)
        models_at_once (`int`): how many models keep it busy.
    """

    name: str
    models_at_once: int

    def train_epoch(self, population: Population, images: Tensor, labels: Tensor, order: Tensor) -> Evaluation:
        """Train every model for one epoch, changing `population` in place.

        Args:
            population ([`Population`])
            images (`Tensor`): (images, channels, height, width), float32.
            labels (`Tensor`): (images,), int64.
            order (`Tensor`): (models, images), int64: each model's image order; batches are consecutive slices.

        Raises:
            UserError: if these do not fit together.

        Returns:
            [`Evaluation`]: loss and accuracy averaged over the epoch, each batch as seen *before* its step.
        """
        ...

    def evaluate(
        self, network: Network, weights: Tensor, images: Tensor, labels: Tensor, predictions: bool = False
    ) -> Evaluation:
        """Evaluate weight vectors (models, num_params) on images; with `predictions`, return each image's class.

        Raises:
            UserError: if these do not fit together.
        """
        ...


def image_order(seeds: Sequence[int], epoch: int, num_images: int) -> Tensor:
    """Order in which each model sees the images in one epoch (1, 2, ...).

    Drawn from (seed, epoch) alone, so that training can be resumed at any epoch and in any grouping.

    Returns:
        `Tensor`: (len(seeds), num_images), int64.
    """
    rows = []
    for seed in seeds:
        state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
        rows.append(torch.randperm(num_images, generator=generator))
    return torch.stack(rows)
