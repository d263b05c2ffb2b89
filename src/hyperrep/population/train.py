"""Train a population over epochs, the untrained networks first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..images import ImageData
from ..networks import SmallCNNConfig, initial_weights
from .population import Engine, Evaluation, Population, Recipe, image_order


@dataclass(frozen=True)
class EpochResult:
    """A population after an epoch.

    Attributes:
        epoch (`int`): 0 is the population before training.
        weights (`Tensor`): (models, num_params), a copy.
        train ([`Evaluation`]): the running mean over the epoch's batches; at epoch 0 an ordinary evaluation.
        validation, test ([`Evaluation`]): after the epoch.
    """

    epoch: int
    weights: Tensor
    train: Evaluation
    validation: Evaluation
    test: Evaluation

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
    network: SmallCNNConfig,
    recipe: Recipe,
    images: ImageData,
    seeds: Sequence[int],
    epochs: int,
    engine: Engine,
    weights: Tensor | None = None,
) -> Iterator[EpochResult]:
    """Train one network a seed, and yield the population at epochs 0, 1, ..., `epochs`.

    Args:
        network ([`SmallCNNConfig`]): their architecture.
        recipe ([`Recipe`]): how they are trained.
        images ([`ImageData`]): trained on `train`; evaluated on `validation` and `test` after every epoch.
        seeds (`Sequence[int]`): one a network; decides initial weights and image order.
        epochs (`int`): passes over the training images.
        engine ([`Engine`])
        weights (`Tensor`, *optional*): (models, num_params), to start from instead of random weights (fine-tuning).
    """
    if weights is None:
        weights = initial_weights(network, list(seeds))
    population = Population.start(network, recipe, weights)
    for epoch in range(epochs + 1):
        if epoch == 0:
            train = engine.evaluate(network, population.weights, images.train.pixels, images.train.labels)
        else:
            order = image_order(seeds, epoch, len(images.train))
            train = engine.train_epoch(population, images.train.pixels, images.train.labels, order)
        validation, test = (
            engine.evaluate(network, population.weights, split.pixels, split.labels)
            for split in (images.validation, images.test)
        )
        yield EpochResult(epoch, population.weights.clone(), train, validation, test)
