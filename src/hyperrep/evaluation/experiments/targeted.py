"""Does one get the accuracy that one asks for?"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from scipy.stats import spearmanr
from torch import Tensor

from ...errors import UserError
from ...results import Quantity, ResultRow
from ...samplers import fit_to_known, settings_class
from ...samplers.flow import FlowSampler
from ..bench import Bench
from ..experiment import Experiment, Measured, measured, setting
from ..populations import population_of
from ..progress import Progress


logger = logging.getLogger(__name__)


@settings_class
class Targeted(Experiment):
    """The flow, fitted to all training networks and asked for quantiles of their accuracy: the tests of what it gives,
    before any training, and how the ranks of what was asked and what was got agree over all networks (Spearman).
    """

    name: ClassVar[str] = "targeted"
    title: ClassVar[str] = "Accuracy on request"
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "rank_correlation": Quantity("Rank correlation of asked and got", in_per_cent=False, of_all=True)
    }

    num_models: int = setting(20, "Networks for each quantile.")
    quantiles: int = setting(9, "How many, evenly spaced between 0 and 1.")
    guidance: float | int = setting(1.0, "Of the flow.")
    steps: int = setting(600, "Of the flow's training, at most.")
    seed: int = setting(0, "Of sampling.")

    def __post_init__(self) -> None:
        for name, least in (("num_models", 1), ("quantiles", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; it must be {least} or more.")

    def rows(self, bench: Bench, progress: Progress | None = None) -> Iterator[ResultRow]:
        fields = bench.fields(self.name, self.seed)
        scores = bench.training.metrics["validation_accuracy"]
        flow = fit_to_known(
            FlowSampler(top=None, guidance=self.guidance, steps=self.steps),
            bench.latents,
            scores,
            bench.model.latent_places,
            bench.training.model_id,
        )
        assert isinstance(flow, FlowSampler)
        asked = [(i + 1) / (self.quantiles + 1) for i in range(self.quantiles)]
        drawn = [
            population_of(
                bench,
                "S_Flow",
                f"quantile {quantile:.6g}",
                "latents",
                replace(flow, quantile=quantile).restored(flow.fitted()),
                self.num_models,
                self.seed + i,
                {"sampling_seed": self.seed + i},
            )
            for i, quantile in enumerate(asked)
        ]

        def measure(weights: Tensor, report: Callable[[int], object]) -> Measured:
            report(1)
            return {"test_accuracy": {0: bench.tested(weights).accuracy}}

        got: list[float] = []
        seconds = 0.0
        settings = fields["settings"] | {"num_models": self.num_models}
        for population, outcome in measured(drawn, settings, measure, 1, progress, desc="testing"):
            got += outcome.values["test_accuracy"]["0"]
            seconds += outcome.seconds
            yield from outcome.rows(method=population.method, variant=population.variant, **fields)
        if len(set(got)) < 2:
            logger.warning("all networks have the same accuracy: there is no rank correlation.")
            return
        agreement = spearmanr([quantile for quantile in asked for _ in range(self.num_models)], got).statistic
        fields |= {"method": "S_Flow", "variant": "all quantiles", "epoch": 0, "seconds": seconds}
        fields["settings"] = settings | {"quantiles": asked, "guidance": self.guidance}
        row = ResultRow.of(torch.tensor([float(agreement)]), what="rank_correlation", **fields)
        row.n = len(got)
        yield row
