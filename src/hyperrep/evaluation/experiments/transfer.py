"""The poster's second table: do generated networks transfer to other images?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from transformers import PreTrainedConfig

from ...errors import UserError
from ...images import ImageData, load_images
from ...networks import initial_weights
from ...results import ResultRow
from ...samplers import settings_class
from ...tables import Table
from ...zoo import Protocol, Zoo, get_protocol, load_zoo, zoo_images
from ..bench import Bench
from ..curves import Training, curve_rows, curves
from ..experiment import Experiment, check_least, order_seeds, setting
from ..populations import Population, check_memory, draw_populations, of_the_zoo, planned
from ..progress import Progress
from ..published import beside_published
from ..references import scratch_accuracies, trained_from_scratch
from ..significance import with_significance


METHODS = ("kde-independent", "kde-joint", "noise")


@settings_class
class Transfer(Experiment):
    """The zoo's training networks (B_F) and networks drawn from a density over weights (B_...) or over latents
    (S_...), trained on other images of the same shape, by the recipe of the zoos of these images and with a fresh
    optimiser, against networks trained from scratch there (B_T; the test split of a zoo, where one is given).
    """

    name: ClassVar[str] = "transfer"
    title: ClassVar[str] = "Transfer"

    target: str = setting("", "Protocol of the other images, such as mnist, or the folder or Hub id of a zoo of them.")
    target_images: str | None = setting(None, "Where the other images are. Default: as protocol or zoo name them.")
    num_models: int = setting(50, "Networks in each population.")
    epochs: int = setting(25, "Epochs of training on the other images.")
    top: float | int = setting(0.3, "Share of the best training models the densities are fitted to.")
    bandwidth: float | int = setting(0.002, "Of the kernel densities.")
    methods: tuple[str, ...] = setting(
        (), "Draw by these, such as kde-joint; may come several times. Default: kernel densities and noise."
    )
    seed: int = setting(0, "Of sampling, of networks from scratch, and of image orders.")

    def __post_init__(self) -> None:
        check_least(self, num_models=1, epochs=0)
        if not self.target:
            raise UserError("target is missing: name the protocol of the other images (--target mnist), or a zoo.")
        self.order_seeds = order_seeds(self.seed, self.num_models)
        self.draws = planned(self.methods or METHODS, top=self.top, bandwidth=self.bandwidth)

    def rows(self, bench: Bench, progress: Progress | None = None) -> Iterator[ResultRow]:
        check_memory(bench, self.draws, self.num_models)
        protocol, images, zoo = self._target()
        ours, theirs = (f"{len(of.classes)} classes of {_shape(of)}" for of in (bench.images, images))
        if ours != theirs:
            raise UserError(f"the zoo's networks tell apart {ours}, {images.name} has {theirs}.")
        fields = bench.fields(self.name, self.seed) | {"target": images.name}
        fields["settings"] |= {
            "protocol": bench.zoo.config.protocol["name"],
            "target_protocol": protocol.name,
            "target_fingerprint": images.fingerprint,
        }
        settings = fields["settings"] | {"num_models": self.num_models, "sampling_seed": self.seed}
        drawn = [
            of_the_zoo(bench, self.num_models),
            *draw_populations(bench, self.draws, self.num_models, self.seed),
        ]
        rows: list[ResultRow] = []
        samples: dict[str, dict[int, list[float]]] = {}
        groups = [(bench.network, drawn)]
        if zoo is None:
            groups.insert(0, (network := protocol.network_config(images.classes), [self._scratch(network)]))
        else:
            rows += trained_from_scratch(zoo, fields)
            samples["B_T"] = scratch_accuracies(zoo)
        for network, populations in groups:
            training = Training(network, protocol.recipe, images, self.order_seeds, self.epochs)
            trained = curves(bench, training, populations, settings, progress, compare=False)
            found, accuracies = curve_rows(trained, fields)
            rows += found
            samples |= accuracies
        yield from with_significance(rows, samples, self.seed)

    def _scratch(self, network: PreTrainedConfig) -> Population:
        """B_T, where there is no zoo that has it: networks of the other images' protocol."""
        weights = initial_weights(network, list(self.order_seeds))
        made = {"space": "weights", "initial_seeds": [self.order_seeds[0], self.order_seeds[-1]]}
        return Population("B_T", "", weights, made)

    def _target(self) -> tuple[Protocol, ImageData, Zoo | None]:
        """Protocol and images that the networks are trained on, and the zoo that was.

        Raises:
            UserError: if there is no such protocol or zoo, or its images cannot be found.
        """
        if "/" in self.target or Path(self.target).is_dir():
            zoo = load_zoo(self.target)
            return Protocol.from_dict(zoo.config.protocol), zoo_images(zoo, self.target_images), zoo
        protocol = get_protocol(self.target)
        images = load_images(self.target_images or protocol.images, protocol.processor(), protocol.validation_fraction)
        return protocol, images, None

    @classmethod
    def tables(cls, rows: Sequence[ResultRow]) -> list[Table]:
        return beside_published(super().tables(rows), rows)


def _shape(images: ImageData) -> str:
    return " x ".join(map(str, images.test.pixels.shape[1:]))
