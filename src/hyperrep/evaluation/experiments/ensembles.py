"""Do generated networks make good ensembles?"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from ...errors import UserError
from ...population import train_population
from ...population.differentiable import population_logits
from ...results import Quantity, ResultRow
from ...samplers import settings_class
from ..bench import Bench
from ..ensemble import ensemble_measures
from ..experiment import Experiment, Measured, check_least, measured, order_seeds, setting
from ..plots import plot_ensembles
from ..populations import Population, check_memory, draw_populations, of_the_zoo, planned
from ..progress import Progress
from ..yardstick import best_rows


METHODS = ("kde-independent", "kde-joint", "noise")


@settings_class
class Ensembles(Experiment):
    """Ensembles of networks drawn from densities over latents (S_...) or weights (B_...), of training networks (B_F),
    and of copies of the best one, which training in other image orders takes apart (B_1); before training, and after
    epochs by the zoo's recipe.

    Members vote, or their probabilities are averaged. The spread is that of ensembles drawn at random from the same
    networks. Disagreement is the share of test images on which two members give different classes.
    """

    name: ClassVar[str] = "ensembles"
    title: ClassVar[str] = "Ensembles"
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "vote_accuracy": Quantity("Test accuracy of the majority vote, % (mean ± std over n ensembles)"),
        "mean_accuracy": Quantity("Test accuracy of the mean probability, %"),
        "negative_log_likelihood": Quantity(
            "Negative log-likelihood of the mean probability, nats", in_per_cent=False
        ),
        "calibration_error": Quantity("Expected calibration error of the mean probability, %"),
        "disagreement": Quantity("Disagreement of two members, %"),
    }

    sizes: str = setting("2,5,10,20,50", "Members of the ensembles, separated by commas.")
    draws: int = setting(10, "Ensembles of each size, drawn from as many networks as the largest has members.")
    epochs: int = setting(1, "Epochs of training.")
    top: float | int = setting(0.3, "Share of the best training models the densities are fitted to.")
    bandwidth: float | int = setting(0.002, "Of the kernel densities.")
    methods: tuple[str, ...] = setting(
        (), "Draw by these, such as kde-joint; may come several times. Default: kernel densities and noise."
    )
    seed: int = setting(0, "Of sampling, of image orders, and of the choice of members.")

    def __post_init__(self) -> None:
        check_least(self, draws=1, epochs=0)
        try:
            self.members = sorted({int(size) for size in self.sizes.split(",")})
        except ValueError as error:
            raise UserError(f"sizes are {self.sizes!r}; write whole numbers, such as 2,5,10.") from error
        if self.members[0] < 1:
            raise UserError(f"sizes are {self.sizes}; an ensemble has at least 1 member.")
        self.order_seeds = order_seeds(self.seed, self.members[-1])
        self.draws_of = planned(self.methods or METHODS, top=self.top, bandwidth=self.bandwidth)

    def rows(self, bench: Bench, progress: Progress | None = None) -> Iterator[ResultRow]:
        largest = self.members[-1]
        check_memory(bench, self.draws_of, largest)
        fields = bench.fields(self.name, self.seed)
        settings = fields["settings"] | {"sizes": self.members, "draws": self.draws, "epochs": self.epochs}
        settings |= {"sampling_seed": self.seed, "order_seeds": [self.order_seeds[0], self.order_seeds[-1]]}

        def measure(weights: Tensor, report: Callable[[int], object]) -> Measured:
            found: Measured = {}
            for result in train_population(
                bench.network,
                bench.recipe,
                bench.images,
                self.order_seeds[: len(weights)],
                self.epochs,
                bench.engine,
                weights=weights,
            ):
                if result.epoch in (0, self.epochs):
                    for what, values in self._measured(bench, result.weights).items():
                        found.setdefault(what, {})[result.epoch] = values
                report(largest if result.epoch else 0)
            return found

        best = bench.training.weights[best_rows(bench.training)[0]]
        populations = [
            of_the_zoo(bench, largest),
            Population("B_1", "", best.repeat(largest, 1), {"space": "weights"}),
            *draw_populations(bench, self.draws_of, largest, self.seed),
        ]
        work = largest * self.epochs
        for population, outcome in measured(
            populations, settings, measure, work, progress, "ensembles", numbers=self.draws
        ):
            for row in outcome.rows(method=population.method, variant=population.variant, **fields):
                what, _, size = row.what.rpartition(" of ")
                variant = f"{population.variant} of {size}".strip()
                yield replace(row, what=what, variant=variant, settings=row.settings | {"members": int(size)})

    def _measured(self, bench: Bench, weights: Tensor) -> dict[str, Tensor]:
        """Of each measure and size, a number for every ensemble, (draws,)."""
        test = bench.images.test
        probabilities = population_logits(bench.network, weights, test.pixels, bench.engine).softmax(-1)
        found: dict[str, list[float]] = {}
        generator = torch.Generator().manual_seed(self.seed)
        for size in self.members:
            for _ in range(self.draws):
                chosen = torch.randperm(len(weights), generator=generator)[:size]
                for what, value in ensemble_measures(probabilities[chosen], test.labels).items():
                    found.setdefault(f"{what} of {size}", []).append(value)
        return {what: torch.tensor(values, dtype=torch.float64) for what, values in found.items()}

    @classmethod
    def plot(cls, path: Path, rows: Sequence[ResultRow]) -> None:
        plot_ensembles(path, rows, cls.quantities)
