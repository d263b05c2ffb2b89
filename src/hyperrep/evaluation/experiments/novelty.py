"""Are generated networks new, good, and unlike each other, all at once?"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from ...errors import UserError
from ...networks import initial_weights
from ...population import train_population
from ...results import Quantity, ResultRow
from ...samplers import settings_class
from ..bench import Bench
from ..experiment import Experiment, Measured, check_least, measured, order_seeds, setting
from ..plots import plot_novelty
from ..populations import Population, check_memory, draw_populations, from_folder, planned
from ..progress import Progress
from ..yardstick import FARNESS, Yardstick, best_rows, last_of_each


@settings_class
class Novelty(Experiment):
    """Accuracy next to novelty and diversity, before training and after epochs by the zoo's own recipe: of networks
    drawn from every density, of the zoo's held-out networks and its best training networks (copies), and of networks
    trained from scratch (B_T).

    Distances are those of weights whose hidden units are aligned, in units of the median distance of a training
    network to the nearest other one. Two networks are as similar as the sets of test images they get wrong. Data
    copying (C_T) says by how many standard deviations networks lie nearer to training networks than held-out ones do
    (below 0) or farther. Dispersion is total variance over that of the training networks; directions are participation
    ratios of covariances, over that of as many of these.
    """

    name: ClassVar[str] = "novelty"
    title: ClassVar[str] = "New, good, and unlike each other"
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "distance_ratio": Quantity("Distance to the nearest training network, of the zoo's own (1 = usual)", False),
        **{
            f"good_and_far_{least:g}": Quantity(
                f"Good networks at least {least:g} times the usual distance away, %", of_all=True
            )
            for least in FARNESS
        },
        "excess_similarity": Quantity("Similarity to the nearest training network beyond that of independent errors"),
        "similarity_above_held_out": Quantity("The same beyond that of held-out networks of the same accuracy"),
        "dispersion": Quantity("Dispersion of weights (1 = that of the zoo)", in_per_cent=False, of_all=True),
        "directions": Quantity(
            "Directions that weights vary in (1 = as many as the zoo's)", in_per_cent=False, of_all=True
        ),
        "data_copying": Quantity("Data copying C_T (below 0 = copies)", in_per_cent=False, of_all=True),
    }

    num_models: int = setting(100, "Networks in each generated population.")
    epochs: int = setting(1, "Epochs of training.")
    below_mean: float | int = setting(0.02, "Networks are good down to so far below the training networks' accuracy.")
    top: float | int = setting(0.3, "Share of the best training models the densities are fitted to.")
    bandwidth: float | int = setting(0.002, "Of the kernel densities.")
    methods: tuple[str, ...] = setting(
        (), "Draw by these, such as kde, kde-joint or flow; may come several times. Default: all that fit in seconds."
    )
    networks: tuple[str, ...] = setting((), "Folder of networks to measure, too: generated ones, or a zoo.")
    seed: int = setting(0, "Of sampling and image orders.")

    def __post_init__(self) -> None:
        check_least(self, num_models=1, epochs=0)
        if not -1 <= self.below_mean <= 1:
            raise UserError(f"below_mean is {self.below_mean}; it must lie between -1 and 1.")
        order_seeds(self.seed, self.num_models)  # refuses a seed out of range
        names = [Path(folder).resolve().name for folder in self.networks]
        if len(set(names)) < len(names):
            raise UserError(f"folders of networks are called {', '.join(names)}; each needs a name of its own.")
        self.draws = planned(self.methods, top=self.top, bandwidth=self.bandwidth)

    def rows(self, bench: Bench, progress: Progress | None = None) -> Iterator[ResultRow]:
        check_memory(bench, self.draws, self.num_models)
        given = [from_folder(bench, folder) for folder in self.networks]
        yardstick = Yardstick(bench, self.below_mean)

        def measure(weights: Tensor, report: Callable[[int], object]) -> Measured:
            found: Measured = {}
            seeds = order_seeds(self.seed, len(weights))
            for result in train_population(
                bench.network, bench.recipe, bench.images, seeds, self.epochs, bench.engine, weights=weights
            ):
                for what, values in yardstick.of(result.weights).items():
                    found.setdefault(what, {})[result.epoch] = values
                report(self.num_models if result.epoch else 0)
            return found

        fields = bench.fields(self.name, self.seed)
        settings = fields["settings"] | {
            "num_models": self.num_models,
            "epochs": self.epochs,
            "sampling_seed": self.seed,
            "bar": yardstick.bar,
            "usual_distance": yardstick.usual_distance,
            "recipe": json.loads(json.dumps(bench.zoo.config.protocol["recipe"])),
        }
        drawn = draw_populations(bench, self.draws, self.num_models, self.seed)
        populations = [*self._references(bench), *drawn, *given]
        for population, outcome in measured(populations, settings, measure, self.num_models * self.epochs, progress):
            yield from outcome.rows(method=population.method, variant=population.variant, **fields)

    def _references(self, bench: Bench) -> Iterator[Population]:
        """Networks that nobody generated."""
        scratch = initial_weights(bench.network, list(order_seeds(self.seed, self.num_models)))
        yield Population("B_T", "", scratch, {})
        if len(bench.held_out):
            yield Population("zoo", "held-out models", last_of_each(bench.held_out).weights[: self.num_models], {})
        best = bench.training[best_rows(bench.training)[: self.num_models]]
        yield Population("zoo", "best training models", best.weights, {})

    @classmethod
    def plot(cls, path: Path, rows: Sequence[ResultRow]) -> None:
        plot_novelty(path, rows)
