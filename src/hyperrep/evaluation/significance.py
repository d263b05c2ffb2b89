"""How sure a table is: bootstrap intervals of means, and tests against the populations that samples have to beat."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import bootstrap, mannwhitneyu

from ..results import ResultRow
from ..tables import shown_epochs


CONFIDENCE, RESAMPLES = 0.95, 2_000
# of the paper: from scratch, and a density over the weights of the best, by whatever share they are
RIVALS = re.compile(r"B_T|B_KDE[\d.]+ independent")

Samples = Mapping[str, Mapping[int, Sequence[float]]]  # one number a network, by population and epoch


def with_significance(rows: Sequence[ResultRow], samples: Samples, seed: int) -> list[ResultRow]:
    """Result rows with intervals of their means, and what sets generated populations apart from the rivals.

    An interval is that of the percentile bootstrap (scipy.stats.bootstrap, 95 %, 2,000 resamples). P values are those
    of two-sided Mann-Whitney tests, corrected by Holm's method for all comparisons at the epochs that tables show.

    Args:
        rows (`list[ResultRow]`): those of test accuracy at these epochs are filled in.
        samples (`dict`): accuracies (networks,) by population (`S_KDE30 joint`) and epoch.
        seed (`int`): of the bootstrap.
    """
    epochs = shown_epochs(row.epoch for row in rows)
    rivals = [name for name in samples if RIVALS.fullmatch(name)]
    shown = [
        index
        for index, row in enumerate(rows)
        if row.what == "test_accuracy" and row.epoch in epochs and row.epoch in samples.get(row.population, ())
    ]
    tests = {
        (index, rival): float(mannwhitneyu(values, samples[rival][rows[index].epoch]).pvalue)
        for index in shown
        if rows[index].population not in rivals
        for rival in rivals
        if rows[index].epoch in samples.get(rival, ())
        for values in [samples[rows[index].population][rows[index].epoch]]
    }
    corrected = dict(zip(tests, holm(list(tests.values())), strict=True))
    filled = list(rows)
    for index in shown:
        row = rows[index]
        p_values = {rival: corrected[index, rival] for rival in rivals if (index, rival) in corrected}
        interval = mean_interval(samples[row.population][row.epoch], seed)
        filled[index] = replace(row, interval=interval, p_values=p_values or None)
    return filled


def mean_interval(values: Sequence[float], seed: int) -> list[float] | None:
    """Lower and upper bound of the mean; `None` for a single value."""
    if len(values) < 2:
        return None
    interval = bootstrap(
        (np.asarray(values, np.float64),),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return [float(interval.low), float(interval.high)]


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for the number of tests (Holm 1979): the k-th smallest of m times m - k + 1, none smaller
    than those before it."""
    order = np.argsort(p_values)
    corrected = np.empty(len(p_values))
    corrected[order] = np.maximum.accumulate(np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1))
    return np.minimum(corrected, 1.0).tolist()


__all__ = ["holm", "mean_interval", "with_significance"]
