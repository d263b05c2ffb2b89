"""Populations that are trained on: their accuracy at every epoch, and how much they are alike before any."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from ..images import ImageData
from ..population import Recipe, choose_engine, train_population
from ..results import ResultRow
from .bench import Bench
from .experiment import Measured, measured
from .novelty import similarities
from .populations import Population
from .progress import Outcome, Progress


@dataclass(frozen=True)
class Training:
    """How populations are trained on.

    Args:
        network (`PreTrainedConfig`), recipe ([`Recipe`]), images ([`ImageData`])
        seeds (`range`): of the image orders, one a network.
        epochs (`int`)
    """

    network: PreTrainedConfig
    recipe: Recipe
    images: ImageData
    seeds: range
    epochs: int

    def settings(self) -> dict[str, Any]:
        """For result rows."""
        return {
            "fine_tuning_epochs": self.epochs,
            "order_seeds": [self.seeds[0], self.seeds[-1]],
            "recipe": json.loads(json.dumps(vars(self.recipe))),
        }

    def curve(self, bench: Bench, weights: Tensor, report: Callable[[int], object]) -> dict[int, Tensor]:
        """Test accuracies (networks,) at epochs 0, 1, ...; reports the model-epochs that are done."""
        accuracy = {}
        seeds, engine = self.seeds[: len(weights)], bench.engine
        if self.network != bench.network and engine.name not in ("vmap", "loop"):  # those take any network
            engine = choose_engine("auto", self.network)
        for result in train_population(
            self.network, self.recipe, self.images, seeds, self.epochs, engine, weights=weights
        ):
            accuracy[result.epoch] = result.test.accuracy
            report(len(self.seeds) if result.epoch else 0)  # fewer networks are done sooner
        return accuracy


def curves(
    bench: Bench,
    training: Training,
    populations: Sequence[Population],
    settings: dict[str, Any],
    progress: Progress | None = None,
    compare: bool = True,
) -> Iterator[tuple[Population, Outcome]]:
    """Train one population after the other.

    Args:
        bench ([`Bench`]), training ([`Training`]), populations (`list[Population]`)
        settings (`dict`): of the rows, beside those of training and population.
        progress ([`Progress`], *optional*)
        compare (`bool`, *optional*): also measure similarities to training networks and among themselves, on the
            zoo's own test images.

    Raises:
        UserError: as [`measured`] does.
    """

    def measure(weights: Tensor, report: Callable[[int], object]) -> Measured:
        found: Measured = {"test_accuracy": training.curve(bench, weights, report)}
        return found | (similarities(bench, bench.answers(weights)) if compare else {})

    made = settings | training.settings()
    yield from measured(populations, made, measure, len(training.seeds) * training.epochs, progress)


def curve_rows(
    trained: Iterable[tuple[Population, Outcome]], fields: dict[str, Any]
) -> tuple[list[ResultRow], dict[str, dict[int, list[float]]]]:
    """Result rows of populations that were trained, and the test accuracies (networks,) of each by epoch."""
    rows: list[ResultRow] = []
    samples = {}
    for population, outcome in trained:
        found = list(outcome.rows(method=population.method, variant=population.variant, **fields))
        rows += found
        accuracies = outcome.values["test_accuracy"]
        samples[found[0].population] = {int(epoch): values for epoch, values in accuracies.items()}
    return rows, samples
