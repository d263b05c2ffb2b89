"""The poster's first table: do generated networks start better, and train better, than random ones?"""

import json
from collections.abc import Callable, Iterator
from typing import ClassVar

from torch import Tensor

from ...errors import UserError
from ...population import train_population
from ...results import ResultRow
from ...samplers import settings_class
from ..bench import Bench
from ..experiment import Experiment, Measured, measured, order_seeds, setting
from ..novelty import similarities
from ..populations import check_memory, draw_populations, planned
from ..progress import Progress
from ..references import best_of_the_zoo, reconstructions, trained_from_scratch


@settings_class
class Finetune(Experiment):
    """Networks trained from scratch (B_T, the zoo's test split), drawn from a density over weights (B_...) or over
    latents (S_...; a number is the share of the best training networks in per cent, S_stored the sampler that ships
    with the representation), at every epoch of training by the zoo's own recipe.

    Beside them stand the zoo itself, its reconstructions, and, before any training, how similar each network is to
    the nearest training network and to its nearest sibling, by the test images they get wrong.
    """

    name: ClassVar[str] = "finetune"
    title: ClassVar[str] = "Fine-tuning"

    num_models: int = setting(50, "Networks in each generated population.")
    epochs: int = setting(25, "Fine-tuning epochs.")
    top: float | int = setting(0.3, "Share of the best training models the densities are fitted to.")
    bandwidth: float | int = setting(0.002, "Of the kernel densities.")
    methods: tuple[str, ...] = setting(
        (), "Draw by these, such as kde, kde-joint or flow; may come several times. Default: all that fit in seconds."
    )
    seed: int = setting(0, "Of sampling and image orders.")

    def __post_init__(self) -> None:
        if self.num_models < 1:
            raise UserError(f"num_models is {self.num_models}; it must be at least 1.")
        if self.epochs < 0:
            raise UserError(f"epochs is {self.epochs}; it must be 0 or more.")
        self.order_seeds = order_seeds(self.seed, self.num_models)
        self.draws = planned(self.methods, top=self.top, bandwidth=self.bandwidth)

    def rows(self, bench: Bench, progress: Progress | None = None) -> Iterator[ResultRow]:
        check_memory(bench, self.draws, self.num_models)
        fields = bench.fields(self.name, self.seed)
        yield from trained_from_scratch(bench, fields)
        yield from reconstructions(bench, fields)
        yield from best_of_the_zoo(bench, self.top, fields)

        def measure(weights: Tensor, report: Callable[[int], object]) -> Measured:
            accuracy = {}
            for result in train_population(
                bench.network, bench.recipe, bench.images, self.order_seeds, self.epochs, bench.engine, weights=weights
            ):
                accuracy[result.epoch] = result.test.accuracy
                report(len(weights) if result.epoch else 0)
            return {"test_accuracy": accuracy} | similarities(bench, bench.answers(weights))

        settings = fields["settings"] | {
            "num_models": self.num_models,
            "fine_tuning_epochs": self.epochs,
            "sampling_seed": self.seed,
            "order_seeds": [self.order_seeds[0], self.order_seeds[-1]],
            "recipe": json.loads(json.dumps(bench.zoo.config.protocol["recipe"])),
        }
        drawn = list(draw_populations(bench, self.draws, self.num_models, self.seed))
        for population, outcome in measured(drawn, settings, measure, self.num_models * self.epochs, progress):
            yield from outcome.rows(method=population.method, variant=population.variant, **fields)
