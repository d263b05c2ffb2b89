"""The poster's first table: do generated networks start better, and train better, than random ones?"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

from ...errors import UserError
from ...results import ResultRow
from ...samplers import settings_class
from ...tables import Table
from ..bench import Bench
from ..curves import Training, curve_rows, curves
from ..experiment import Experiment, order_seeds, setting
from ..populations import check_memory, draw_populations, of_the_zoo, planned
from ..progress import Progress
from ..published import beside_published
from ..references import best_of_the_zoo, reconstructions, scratch_accuracies, trained_from_scratch
from ..significance import with_significance


@settings_class
class Finetune(Experiment):
    """Networks trained from scratch (B_T, the zoo's test split), training networks trained on (B_F), and networks
    drawn from a density over weights (B_...) or over latents (S_...; a number is the share of the best training
    networks in per cent, S_stored the sampler that ships with the representation), at every epoch of training by the
    zoo's own recipe, with a fresh optimiser.

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
        protocol = bench.zoo.config.protocol["name"]
        fields["settings"] |= {"protocol": protocol, "target_protocol": protocol}
        rows = [
            *trained_from_scratch(bench.zoo, fields),
            *reconstructions(bench, fields),
            *best_of_the_zoo(bench, self.top, fields),
        ]
        training = Training(bench.network, bench.recipe, bench.images, self.order_seeds, self.epochs)
        settings = fields["settings"] | {"num_models": self.num_models, "sampling_seed": self.seed}
        drawn = [
            of_the_zoo(bench, self.num_models),
            *draw_populations(bench, self.draws, self.num_models, self.seed),
        ]
        found, samples = curve_rows(curves(bench, training, drawn, settings, progress), fields)
        yield from with_significance(rows + found, {"B_T": scratch_accuracies(bench.zoo)} | samples, self.seed)

    @classmethod
    def tables(cls, rows: Sequence[ResultRow]) -> list[Table]:
        return beside_published(super().tables(rows), rows)
