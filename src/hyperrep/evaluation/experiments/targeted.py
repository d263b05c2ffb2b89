"""Does one get the accuracy that one asks for?"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from scipy.stats import spearmanr
from torch import Tensor

from ...results import Quantity, ResultRow
from ...samplers import KDESampler, Sampler, fit_to_known, settings_class
from ...samplers.flow import FlowSampler, quantiles_of
from ..bench import Bench
from ..experiment import Experiment, Measured, check_least, measured, setting
from ..novelty import similarities
from ..plots import plot_asked
from ..populations import Population, population_of
from ..progress import Progress


AROUND = 0.05  # of the training networks' accuracies, on each side of the one asked for
RIVALS = ("joint", "independent")  # kernel densities

logger = logging.getLogger(__name__)


@settings_class
class Targeted(Experiment):
    """The flow, fitted to all training networks and asked for quantiles of their accuracy: the tests of what it gives,
    before any training, and how the ranks of what was asked and what was got agree over all networks (Spearman).

    Beside it stand kernel densities over the training networks around each quantile, a twentieth of them on each side,
    and how similar each network is to the nearest training network and to its nearest sibling: who copies gets what is
    asked for. The zoo's rows are the test accuracies of those training networks, and of all.
    """

    name: ClassVar[str] = "targeted"
    title: ClassVar[str] = "Accuracy on request"
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "rank_correlation": Quantity("Rank correlation of asked and got", in_per_cent=False, of_all=True)
    }

    num_models: int = setting(20, "Networks for each quantile.")
    quantiles: int = setting(9, "How many, evenly spaced between 0 and 1.")
    guidance: float | int = setting(1.0, "Of the flow: how far it goes towards what is asked for.")
    temperature: float | int = setting(0.1, "Of the flow's noise: the less, the more alike networks are.")
    steps: int = setting(600, "Of the flow's training, at most.")
    seed: int = setting(0, "Of sampling.")

    def __post_init__(self) -> None:
        check_least(self, num_models=1, quantiles=2, seed=0)

    def rows(self, bench: Bench, progress: Progress | None = None) -> Iterator[ResultRow]:
        asked = [(i + 1) / (self.quantiles + 1) for i in range(self.quantiles)]
        yield from self._zoo(bench, asked)
        flow = self._flow(bench)
        drawn = {
            ("S_Flow", ""): [
                self._drawn(bench, "S_Flow", i, quantile, replace(flow, quantile=quantile).restored(flow.fitted()))
                for i, quantile in enumerate(asked)
            ]
        }
        for variant in RIVALS:
            drawn["S_KDE", variant] = [
                self._drawn(bench, "S_KDE", i, quantile, _around(bench, quantile, variant))
                for i, quantile in enumerate(asked)
            ]

        def measure(weights: Tensor, report: Callable[[int], object]) -> Measured:
            report(1)
            tested = bench.tested(weights, predictions=True)
            assert tested.predictions is not None
            return {"test_accuracy": {0: tested.accuracy}} | similarities(bench, tested.predictions)

        fields = bench.fields(self.name, self.seed)
        settings = fields["settings"] | {"num_models": self.num_models}
        populations = [population for several in drawn.values() for population in several]
        got: dict[str, list[float]] = {}
        for population, outcome in measured(populations, settings, measure, 1, progress, desc="testing"):
            got[population.name] = outcome.values["test_accuracy"]["0"]
            yield from outcome.rows(method=population.method, variant=population.variant, **fields)
        for (method, variant), several in drawn.items():
            accuracies = [accuracy for population in several for accuracy in got[population.name]]
            if len(set(accuracies)) < 2:
                logger.warning("%s: all networks have the same accuracy: there is no rank correlation.", method)
                continue
            agreement = spearmanr([quantile for quantile in asked for _ in range(self.num_models)], accuracies)
            made = settings | several[0].settings | {"quantiles": asked}
            fields |= {"method": method, "variant": f"{variant} all quantiles".strip(), "epoch": 0, "seconds": 0.0}
            fields["settings"] = made
            row = ResultRow.of(torch.tensor([float(agreement.statistic)]), what="rank_correlation", **fields)
            row.n = len(accuracies)
            yield row

    def _zoo(self, bench: Bench, asked: list[float]) -> Iterator[ResultRow]:
        """What the zoo has at each quantile, and altogether: test accuracies, where they are known."""
        fields = bench.fields(self.name, self.seed) | {"method": "zoo", "epoch": 0, "seconds": 0.0}
        circumstances, accuracy = fields["settings"], bench.training.metrics["test_accuracy"]
        parts = {"training models": torch.arange(len(accuracy))}
        parts |= {_kind("", quantile): _chosen(bench, quantile) for quantile in asked}
        for (variant, chosen), quantile in zip(parts.items(), [None, *asked]):
            known = accuracy[chosen][accuracy[chosen].isfinite()]
            if len(known):
                fields["settings"] = circumstances | ({} if quantile is None else {"quantile": quantile})
                yield ResultRow.of(known, what="test_accuracy", variant=variant, **fields)

    @classmethod
    def plot(cls, path: Path, rows: Sequence[ResultRow]) -> None:
        plot_asked(path, rows)

    def _flow(self, bench: Bench) -> FlowSampler:
        flow = fit_to_known(
            FlowSampler(top=None, guidance=self.guidance, temperature=self.temperature, steps=self.steps),
            bench.latents,
            bench.training.metrics["validation_accuracy"],
            bench.model.latent_places,
            bench.training.model_id,
        )
        assert isinstance(flow, FlowSampler)
        return flow

    def _drawn(self, bench: Bench, method: str, i: int, quantile: float, sampler: Sampler) -> Population:
        seed = self.seed + i
        kind = _kind(getattr(sampler, "variant", ""), quantile)
        made: dict[str, Any] = {"sampling_seed": seed, "quantile": quantile}
        return population_of(bench, method, kind, "latents", sampler, self.num_models, seed, made)


def _kind(variant: str, quantile: float) -> str:
    return f"{variant} quantile {quantile:.6g}".strip()


def _around(bench: Bench, quantile: float, variant: str) -> KDESampler:
    """A kernel density over those training networks whose accuracy is nearest in rank to what is asked for."""
    chosen, scores = _chosen(bench, quantile), bench.training.metrics["validation_accuracy"]
    return KDESampler(variant=variant, top=None).fit(bench.latents[chosen], scores[chosen], bench.model.latent_places)


def _chosen(bench: Bench, quantile: float) -> Tensor:
    """Rows of the training networks around a quantile of validation accuracy."""
    scores = bench.training.metrics["validation_accuracy"]
    known = torch.isfinite(scores).nonzero().flatten()
    away = (quantiles_of(scores[known]) - quantile).abs()
    return known[away <= away.min().clamp_min(AROUND)]
