"""The poster's third table: do generated weights start networks of other architectures?"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from ...errors import UserError
from ...networks import initial_weights, layout_of, network_from
from ...results import ResultRow
from ...samplers import settings_class
from ...tables import Table
from ...weights import WeightLayout, transplant
from ..bench import Bench
from ..curves import Training, curve_rows, curves
from ..experiment import Experiment, check_least, order_seeds, setting
from ..populations import Population, check_memory, draw_populations, planned
from ..progress import Progress
from ..published import PUBLISHED_ARCHITECTURES, beside_published


METHODS = ("kde-independent", "noise-0.1")


@dataclass(frozen=True)
class Architecture:
    """Networks that differ from the zoo's.

    Args:
        changes (`dict`): arguments of the networks' configuration.
        in_order (`bool`), keep (`Collection[str]`): how weights get there, see [`~hyperrep.weights.transplant`].
    """

    changes: Mapping[str, Any]
    in_order: bool = False
    keep: Collection[str] = ()


_FOUR = {"conv_channels": [8, 4, 6, 4], "conv_kernel_sizes": [5, 5, 4, 3], "pool_sizes": [2, 1, 1, 1]}
_FOUR |= {"hidden_sizes": [18]}
# those convolutions have no biases in the paper's code: without them there are 2,464 parameters, as generated
_BIASES = ("convs.1.bias", "convs.2.bias", "convs.3.bias")
# those of the poster; of def_net.py in its code
PUBLISHED = {
    "3-conv + res-skip": Architecture({"skips": [[0, 1, "conv"], [1, 2, "conv"], [2, 3, "conv"]]}),
    "4-conv": Architecture(_FOUR, in_order=True, keep=_BIASES),
    "4-conv + identity skip": Architecture(_FOUR | {"skips": [[2, 4, "identity"]]}, in_order=True, keep=_BIASES),
}


@settings_class
class Architectures(Experiment):
    """Networks of other architectures than the zoo's, trained by its recipe from random weights and from those of
    networks drawn from a density over weights (B_...) or over latents (S_...).

    By default the poster's: the zoo's network with convolutions around its blocks, and networks of four convolutions,
    with a skip and without, into which weight vectors are cut in order.
    """

    name: ClassVar[str] = "architectures"
    title: ClassVar[str] = "Other architectures"

    network: str = setting("", 'Arguments that change the zoo\'s network, as JSON: {"hidden_sizes": [40]}.')
    num_models: int = setting(50, "Networks in each population.")
    epochs: int = setting(5, "Epochs of training.")
    top: float | int = setting(0.3, "Share of the best training models the densities are fitted to.")
    bandwidth: float | int = setting(0.002, "Of the kernel densities.")
    methods: tuple[str, ...] = setting(
        (), "Draw by these, such as kde-joint; may come several times. Default: independent KDE and noise of 0.1."
    )
    seed: int = setting(0, "Of sampling, of random networks, and of image orders.")

    def __post_init__(self) -> None:
        check_least(self, num_models=1, epochs=0)
        self.architectures = {"custom": Architecture(_changes(self.network))} if self.network else PUBLISHED
        self.order_seeds = order_seeds(self.seed, self.num_models)
        self.draws = planned(self.methods or METHODS, top=self.top, bandwidth=self.bandwidth)

    def rows(self, bench: Bench, progress: Progress | None = None) -> Iterator[ResultRow]:
        check_memory(bench, self.draws, self.num_models)
        networks = {name: _network(bench, how.changes, name) for name, how in self.architectures.items()}
        fields = bench.fields(self.name, self.seed)
        protocol = bench.zoo.config.protocol["name"]
        fields["settings"] |= {"protocol": protocol, "target_protocol": protocol}
        source = WeightLayout.from_list(bench.model.config.layout)
        drawn = list(draw_populations(bench, self.draws, self.num_models, self.seed))
        for name, network in networks.items():
            how, target = self.architectures[name], layout_of(network)
            initial = initial_weights(network, list(self.order_seeds))
            populations = [Population(name, "random", initial, {"sampling": {"method": "random"}})]
            for population in drawn:
                weights = transplant(population.weights, source, target, initial, how.in_order, how.keep)
                variant = f"{population.method} {population.variant}".strip()
                populations.append(Population(name, variant, weights, population.settings))
            settings = fields["settings"] | {"num_models": self.num_models, "sampling_seed": self.seed}
            settings |= {"architecture": dict(how.changes), "in_order": how.in_order, "keep": list(how.keep)}
            training = Training(network, bench.recipe, bench.images, self.order_seeds, self.epochs)
            trained = curves(bench, training, populations, settings, progress, compare=False)
            yield from curve_rows(trained, fields)[0]

    @classmethod
    def tables(cls, rows: Sequence[ResultRow]) -> list[Table]:
        return beside_published(super().tables(rows), rows, PUBLISHED_ARCHITECTURES)


def _changes(text: str) -> dict[str, Any]:
    try:
        changes = json.loads(text)
    except ValueError as error:
        raise UserError(f"network {text!r} is no JSON ({error}); write it as '{{\"hidden_sizes\": [40]}}'.") from error
    if not isinstance(changes, dict) or not changes:
        raise UserError(f"network {text!r} is no JSON object; write it as '{{\"hidden_sizes\": [40]}}'.")
    return changes


def _network(bench: Bench, changes: Mapping[str, Any], name: str) -> PreTrainedConfig:
    """The zoo's network with these changes.

    Raises:
        UserError: if it has no such arguments, or there can be no such network.
    """
    values = bench.network.to_dict()
    if unknown := [key for key in changes if key not in values]:
        kind = values["model_type"]
        raise UserError(f"architecture {name}: networks of type {kind!r} have no {unknown[0]!r}.")
    return network_from(values | dict(changes), f"architecture {name}")
