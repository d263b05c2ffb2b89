"""Train a population over epochs, the untrained networks first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor
from transformers import PreTrainedConfig

from ..images import ImageData, ImageSplit
from ..networks import initial_weights
from .dropout import dropout_keys
from .population import Engine, Evaluation, Population, Recipe, image_order


@dataclass(frozen=True)
class EpochResult:
    """A population after an epoch. Its evaluations are made when they are first asked for.

    Attributes:
        epoch (`int`): 0 is the population before training.
        network (`PreTrainedConfig`), images ([`ImageData`]), engine ([`Engine`]): what it is evaluated with.
        weights (`Tensor`): (models, num_params), a copy.
        running ([`Evaluation`], *optional*): the mean over the epoch's batches, each as seen before its step.
    """

    epoch: int
    network: PreTrainedConfig
    images: ImageData
    engine: Engine
    weights: Tensor
    running: Evaluation | None = None

    @cached_property
    def train(self) -> Evaluation:
        """The running mean over the epoch's batches; at epoch 0 an ordinary evaluation."""
        return self.running or self._evaluate(self.images.train)

    @cached_property
    def validation(self) -> Evaluation:
        return self._evaluate(self.images.validation)

    @cached_property
    def test(self) -> Evaluation:
        return self._evaluate(self.images.test)

    def _evaluate(self, split: ImageSplit) -> Evaluation:
        return self.engine.evaluate(self.network, self.weights, split.pixels, split.labels)

    def metrics(self) -> dict[str, Tensor]:
        """The zoo's metric columns, each (models,)."""
        columns = {
            f"{split}_{quantity}": getattr(getattr(self, split), quantity)
            for split in ("train", "validation", "test")
            for quantity in ("loss", "accuracy")
        }
        columns["generalization_gap"] = self.train.accuracy - self.test.accuracy
        return columns


def train_population(
    network: PreTrainedConfig,
    recipe: Recipe,
    images: ImageData,
    seeds: Sequence[int],
    epochs: int,
    engine: Engine,
    weights: Tensor | None = None,
    learning_rates: Tensor | None = None,
    weight_decays: Tensor | None = None,
    dropouts: Tensor | None = None,
) -> Iterator[EpochResult]:
    """Train one network a seed, and yield the population at epochs 0, 1, ..., `epochs`.

    Args:
        network (`PreTrainedConfig`): their architecture.
        recipe ([`Recipe`]): how they are trained.
        images ([`ImageData`]): trained on `train`, evaluated on all three.
        seeds (`Sequence[int]`): one a network; decides initial weights and image order.
        epochs (`int`): passes over the training images.
        engine ([`Engine`])
        weights (`Tensor`, *optional*): (models, num_params), to start from instead of random weights (fine-tuning).
        learning_rates, weight_decays, dropouts (`Tensor`, *optional*): (models,), instead of the recipe's and the
            network's.
    """
    if weights is None:
        weights = initial_weights(network, list(seeds))
    population = Population.start(network, recipe, weights)
    population.learning_rates, population.weight_decays = learning_rates, weight_decays
    population.dropouts = dropouts
    yield from train_on(network, population, images, seeds, range(epochs + 1), engine)


def train_on(
    network: PreTrainedConfig,
    population: Population,
    images: ImageData,
    seeds: Sequence[int],
    epochs: range,
    engine: Engine,
) -> Iterator[EpochResult]:
    """Train a population, which changes in place, and yield it at each of `epochs`; at 0 it is as it was given.

    One that stands where another stood after an epoch (weights, moments, steps) ends as that one would have: give it
    the epochs that come next.
    """
    for epoch in epochs:
        running = None
        if epoch > 0:
            order = image_order(seeds, epoch, len(images.train))
            population.dropout_keys = dropout_keys(seeds, epoch)
            running = engine.train_epoch(population, images.train.pixels, images.train.labels, order)
        yield EpochResult(epoch, network, images, engine, population.weights.clone(), running)
