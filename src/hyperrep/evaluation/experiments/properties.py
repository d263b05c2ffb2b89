"""What can be read off a network's latent, and off other features of its weights?"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...errors import UserError
from ...representation.batched import encode_rows
from ...results import Quantity, ResultRow
from ...samplers import settings_class
from ...tables import Table
from ...zoo import ZooSplit
from ..bench import Bench
from ..experiment import Experiment, Measured, check_least, measured, setting
from ..features import margins, spectra, weight_statistics
from ..plots import plot_properties
from ..populations import Population
from ..probes import PROBES, Parts, probe
from ..progress import Progress
from ..published import PUBLISHED_PROPERTIES


SPLITS = ("train", "validation", "test")
NUMBERS = ("test_accuracy", "generalization_gap")  # columns of the zoo


@settings_class
class Properties(Experiment):
    """Accuracy, epoch, generalisation gap and whatever a zoo's networks differ in, predicted from features of their
    weights: latents of the representation, raw weights, statistics of layers, spectra of weight matrices, and margins
    on training images.

    Linear probes and gradient-boosted trees are fitted to the zoo's training networks, chosen by its validation
    networks and scored on its test networks: R² (100 is perfect, 0 the mean) and Kendall's tau of numbers, accuracy of
    names.
    """

    name: ClassVar[str] = "properties"
    title: ClassVar[str] = "Properties"
    runs_networks: ClassVar[bool] = False
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "r2": Quantity("R² on test networks, %", of_all=True),
        "accuracy": Quantity("Accuracy on test networks, %", of_all=True),
        "kendall_tau": Quantity("Kendall's tau on test networks", in_per_cent=False, of_all=True),
    }

    epochs: str = setting("", "Of the zoo, separated by commas. Default: all that it holds.")
    margin_images: int = setting(500, "Training images on which margins are taken.")
    trees: int = setting(100, "Gradient-boosted trees, at most.")
    seed: int = setting(0, "Of the trees.")

    def __post_init__(self) -> None:
        check_least(self, margin_images=2, trees=1, seed=0)
        try:
            self.chosen = [int(epoch) for epoch in self.epochs.split(",")] if self.epochs else None
        except ValueError as error:
            raise UserError(f"epochs are {self.epochs!r}; write whole numbers, such as 5,10,25.") from error

    def rows(self, bench: Bench, progress: Progress | None = None) -> Iterator[ResultRow]:
        rows = {name: self._checkpoints(bench.zoo[name], name) for name in SPLITS}
        targets = _targets(rows)
        weights = torch.cat([split.weights for split in rows.values()])
        ends = np.cumsum([len(split) for split in rows.values()])[:-1]
        fields = bench.fields(self.name, self.seed)
        settings = fields["settings"] | {"epochs": sorted(set(rows["train"].epoch.tolist())), "trees": self.trees}
        settings |= {"margin_images": self.margin_images, "rows": [len(split) for split in rows.values()]}
        settings["protocol"] = bench.zoo.config.protocol["name"]

        def measure(features: Tensor, report: Callable[[int], object]) -> Measured:
            parts = Parts(*np.split(features.double().numpy(), ends)).scaled()
            found: Measured = {}
            for name, target in targets.items():
                for kind in PROBES:
                    for what, value in probe(kind, parts, target, self.seed, self.trees).items():
                        found[f"{what} of {name}, {kind}"] = {0: torch.tensor([value], dtype=torch.float64)}
                    report(1)
            return found

        populations = [
            Population(name, "", values, {"features": name}) for name, values in self._features(bench, weights)
        ]
        work = len(targets) * len(PROBES)
        for population, outcome in measured(populations, settings, measure, work, progress, "probes", numbers=1):
            for row in outcome.rows(method=population.method, variant="", **fields):
                what, _, variant = row.what.partition(" of ")
                yield replace(row, what=what, variant=variant, n=len(rows["test"]))

    def _checkpoints(self, split: ZooSplit, name: str) -> ZooSplit:
        """Those of the epochs asked for, without any that is not finite."""
        if self.chosen is not None:
            if missing := [epoch for epoch in self.chosen if epoch not in split.epoch]:
                raise UserError(f"epochs names {missing[0]}; the zoo's {name} split does not hold it.")
            split = split.select(self.chosen)
        return split.within(float("inf"), name)

    def _features(self, bench: Bench, weights: Tensor) -> Iterator[tuple[str, Tensor]]:
        layout = bench.zoo.config.weight_layout()
        yield "latents", encode_rows(bench.model, weights)
        yield "weights", weights
        yield "statistics", weight_statistics(weights, layout)
        yield "spectra", spectra(weights, layout)
        if not bench.zoo.config.factors().keys() & {"hidden_act"}:  # else a checkpoint does not say how to run it
            images = bench.images.train[: self.margin_images]
            yield "margins", margins(bench.network, weights, images, bench.engine)

    @classmethod
    def tables(cls, rows: Sequence[ResultRow]) -> list[Table]:
        tables = []
        for what, quantity in cls.quantities.items():
            found = [row for row in rows if row.what == what]
            features = list(dict.fromkeys(row.method for row in found))
            cells = {(row.variant, row.method): quantity.shown(row) for row in found}
            lines = [
                [variant, *(cells.get((variant, name), "") for name in features)]
                for variant in dict.fromkeys(row.variant for row in found)
            ]
            published = PUBLISHED_PROPERTIES.get(rows[0].settings.get("protocol", ""), {})
            published = {} if what == "kendall_tau" else published  # of which none were
            for name, numbers in published.items():
                if any(variant.startswith(f"{name},") for variant, *_ in lines):
                    known = dict(zip(("weights", "statistics", "latents"), numbers))
                    cells_of = ("" if (value := known.get(feature)) is None else str(value) for feature in features)
                    lines.append([f"{name}, linear, published", *cells_of])
            if found:
                tables.append((quantity.title, ["property, probe", *features], lines))
        return tables

    @classmethod
    def plot(cls, path: Path, rows: Sequence[ResultRow]) -> None:
        plot_properties(path, rows, cls.quantities)


def _targets(rows: Mapping[str, ZooSplit]) -> dict[str, Parts]:
    """What is predicted: numbers and names that are known of all checkpoints, and differ.

    Raises:
        UserError: if there are none.
    """
    columns: dict[str, list[Any]] = {
        name: [split.metrics[name].numpy() for split in rows.values()] for name in NUMBERS
    }
    columns["epoch"] = [split.epoch.numpy().astype(float) for split in rows.values()]
    for name in rows["train"].factors:
        columns[name] = [split.factors[name] for split in rows.values()]
    targets = {
        name: Parts(*parts)
        for name, parts in columns.items()
        if all(part.dtype.kind not in "f" or np.isfinite(part).all() for part in parts)
        and len(np.unique(parts[0])) > 1
        and (parts[0].dtype.kind not in "fiub" or len(np.unique(parts[2])) > 1)  # R² is against the mean
    }
    if not targets:
        raise UserError("the zoo's networks differ in nothing that is known of all of them: nothing can be predicted.")
    return targets
