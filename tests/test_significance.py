"""Intervals and tests of tables."""

import pytest
import torch
from result_rows import FIELDS
from scipy.stats import mannwhitneyu

from hyperrep.evaluation.published import PUBLISHED, beside_published
from hyperrep.evaluation.significance import holm, mean_interval, with_significance
from hyperrep.results import ResultRow, result_tables


BEFORE = {
    "B_T": [0.08, 0.09, 0.10, 0.11, 0.12, 0.13, 0.14, 0.15],
    "B_KDE30 independent": [0.50, 0.51, 0.52, 0.53, 0.54, 0.55, 0.56, 0.57],
    "S_KDE30 independent": [0.80, 0.81, 0.82, 0.83, 0.84, 0.85, 0.86, 0.87],
    "S_U": [0.081, 0.091, 0.101, 0.111, 0.121, 0.131, 0.141, 0.151],
}


def rows(samples=BEFORE, epochs=(0,), **changes) -> list[ResultRow]:
    made = []
    for name, values in samples.items():
        method, _, variant = name.partition(" ")
        for epoch in epochs:
            fields = FIELDS | {"what": "test_accuracy", "method": method, "variant": variant, "epoch": epoch} | changes
            made.append(ResultRow.of(torch.tensor(values), **fields))
    return made


def test_holm_worked_by_hand():
    # sorted 0.01, 0.03, 0.04: times 3, 2, 1, and none below the one before it
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_an_interval_is_that_of_the_mean():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)).tolist()
    low, high = mean_interval(values, seed=0)
    half = 1.96 / 20  # standard error of 400 standard normal numbers
    mean = sum(values) / len(values)
    assert (mean - low, high - mean) == (pytest.approx(half, rel=0.1), pytest.approx(half, rel=0.1))
    assert mean_interval(values, seed=0) == [low, high]
    assert mean_interval([0.5, 0.5], seed=0) == [0.5, 0.5]
    assert mean_interval([0.5], seed=0) is None


def test_p_values_are_corrected_for_all_comparisons_of_the_table():
    samples = {name: {0: values, 1: values} for name, values in BEFORE.items()}
    found = with_significance(rows(epochs=(0, 1)), samples, seed=0)
    p = {(row.population, row.epoch): row.p_values for row in found}
    assert p["B_T", 0] is None
    assert p["B_KDE30 independent", 0] is None
    raw = mannwhitneyu(BEFORE["S_KDE30 independent"], BEFORE["B_T"]).pvalue  # all above: the smallest of eight
    assert p["S_KDE30 independent", 0]["B_T"] == pytest.approx(8 * raw)
    assert p["S_U", 1]["B_T"] > 0.5
    assert p["S_U", 1]["B_KDE30 independent"] < 0.05


def test_a_table_marks_what_differs_and_shows_the_intervals():
    samples = {name: {0: values} for name, values in BEFORE.items()}
    made = with_significance(rows(), samples, seed=0)
    (title, header, lines), (other_title, other_header, intervals) = result_tables(made)
    assert "† not as B_T, ‡ not as B_KDE30 independent (Mann-Whitney, Holm, p < 0.05)" in title
    cells = {" ".join(line[:2]).strip(): line[3] for line in lines}
    assert header[3] == "epoch 0"
    assert cells["S_KDE30 independent"] == "83.5 ± 2.3 †‡"
    assert cells["S_U"] == "11.6 ± 2.3 ‡"
    assert cells["B_T"] == "11.5 ± 2.3"
    assert "interval" in other_title
    assert other_header == ["networks", "epoch 0"]
    shown = dict(intervals)["S_KDE30 independent"]
    low, high = map(float, shown.split(" to "))
    assert 80.0 < low < 83.5 < high < 87.0


def test_without_the_rivals_nothing_is_tested():
    alone = {"S_U": BEFORE["S_U"]}
    (row,) = with_significance(rows(alone), {"S_U": {0: BEFORE["S_U"]}}, seed=0)
    assert row.p_values is None
    assert row.interval is not None


def test_the_rival_is_the_density_over_the_best_whatever_their_share():
    samples = {"B_T": BEFORE["B_T"], "B_KDE12.5 independent": BEFORE["B_KDE30 independent"]}
    samples |= {"B_KDE independent": BEFORE["S_U"], "B_KDE12.5 joint": BEFORE["S_U"], "S_U": BEFORE["S_U"]}
    found = with_significance(rows(samples), {name: {0: values} for name, values in samples.items()}, seed=0)
    p = {row.population: row.p_values for row in found}
    assert p["B_KDE12.5 independent"] is None
    assert p["S_U"].keys() == p["B_KDE independent"].keys() == {"B_T", "B_KDE12.5 independent"}


def test_published_numbers_stand_below_ours_where_they_are_of_the_same_images():
    settings = {"protocol": "svhn", "target_protocol": "mnist"}
    made = rows({"S_KDE30 independent": [0.1, 0.2]}, epochs=(0, 1), settings=settings)
    (_, header, lines), *_ = beside_published(result_tables(made), made)
    assert header == ["method", "variant", "n", "epoch 0", "epoch 1"]
    assert lines[-1] == ["S_KDE30", "published", "", "31.8 ± 5.6", "86.9 ± 1.4"]
    assert [line[0] for line in lines[1:]] == list(PUBLISHED["svhn", "mnist"])
    others = rows({"S_U": [0.1, 0.2]}, settings={"protocol": "digits", "target_protocol": "digits"})
    assert beside_published(result_tables(others), others) == result_tables(others)
