"""`hyperrep evaluate targeted`: what was asked for, and what was got."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import spearmanr

from hyperrep import load_zoo
from hyperrep.evaluation import read_results
from hyperrep.evaluation.bench import Bench
from hyperrep.evaluation.experiments.targeted import _around


def accuracies_are(found, monkeypatch) -> None:
    """Those of generated networks, whatever they are."""
    measured = Bench.tested

    def tested(self, weights, predictions=False):
        return replace(measured(self, weights, predictions), accuracy=found(weights))

    monkeypatch.setattr(Bench, "tested", tested)


def test_asked_and_got(hyperrep, representation, digits_zoo, tmp_path, monkeypatch):
    accuracies_are(lambda weights: weights.double().sum(1).sin().square(), monkeypatch)  # else they are all alike
    model = shutil.copytree(representation, tmp_path / "model")
    settings = "--num-models 1 --quantiles 4 --seed 3 --steps 2 --guidance 2"
    code, out, err = hyperrep(f"evaluate targeted {model} --zoo {digits_zoo} {settings}")
    assert code == 0, err
    assert "Rank correlation of asked and got" in out
    rows = read_results(model / "results" / "targeted.jsonl")
    agreements = [row for row in rows if row.what == "rank_correlation"]
    assert [(row.method, row.variant) for row in agreements] == [
        ("S_Flow", "all quantiles"),
        ("S_KDE", "joint all quantiles"),
        ("S_KDE", "independent all quantiles"),
    ]
    for agreement, kind in zip(agreements, ("", "joint ", "independent ")):
        of_this = [row for row in rows if row.method == agreement.method and row.variant.startswith(f"{kind}quantile")]
        tested = [row for row in of_this if row.what == "test_accuracy"]
        asked = [row.settings["quantile"] for row in tested]
        assert asked == agreement.settings["quantiles"] == pytest.approx([0.2, 0.4, 0.6, 0.8])
        assert [row.variant for row in tested] == [f"{kind}quantile {q}" for q in (0.2, 0.4, 0.6, 0.8)]
        assert all(0 <= row.mean <= 1 for row in tested)
        assert agreement.mean == pytest.approx(spearmanr(asked, [row.mean for row in tested]).statistic, abs=1e-6)
        assert agreement.n == 4
        assert "nearest_training_similarity" in {row.what for row in of_this}
    zoo = [row for row in rows if row.method == "zoo"]
    assert [row.variant for row in zoo] == ["training models", *(f"quantile {q}" for q in (0.2, 0.4, 0.6, 0.8))]
    assert {row.n for row in zoo[1:]} < set(range(1, zoo[0].n))
    training = load_zoo(digits_zoo)["train"].select([21, 22, 23, 24, 25])
    assert zoo[0].n == len(training)
    assert zoo[0].mean == pytest.approx(training.metrics["test_accuracy"].mean().item(), abs=1e-6)
    assert (model / "results" / "targeted.png").read_bytes()[:4] == b"\x89PNG"
    flows = [row.settings["sampling"] for row in rows if row.method == "S_Flow" and row.what == "test_accuracy"]
    assert [flow["quantile"] for flow in flows] == asked
    assert {(flow["guidance"], flow["temperature"]) for flow in flows} == {(2.0, 0.1)}


def test_the_rivals_are_drawn_from_networks_of_the_accuracy_asked_for():
    scores = torch.rand(100)
    scores[7] = torch.nan  # not known
    ordered = scores[scores.isfinite()].sort().values
    bench = SimpleNamespace(
        training=SimpleNamespace(metrics={"validation_accuracy": scores}),
        latents=scores.nan_to_num(9.0)[:, None].repeat(1, 3),
        model=SimpleNamespace(latent_places=torch.zeros(3, 2, dtype=torch.int64)),
    )
    assert torch.equal(_around(bench, 0.5, "joint").latents[:, 0].sort().values, ordered[45:54])
    assert torch.equal(_around(bench, 1.0, "joint").latents[:, 0].sort().values, ordered[94:])
    bench.training.metrics["validation_accuracy"] = scores = torch.tensor([0.1, 0.1, 0.9])  # few, and far away
    bench.latents = torch.rand(3, 3)
    assert torch.equal(_around(bench, 0.2, "joint").scores, scores[:2])


@pytest.mark.parametrize("options", ["--quantiles 1", "--num-models 0", "--seed -1", "--guidance -1"])
def test_mistakes(hyperrep, representation, digits_zoo, options):
    code, _, err = hyperrep(f"evaluate targeted {representation} --zoo {digits_zoo} --output new {options}")
    assert code == 2
    assert len(err.strip().splitlines()) == 1


def test_where_all_are_alike_there_is_no_correlation(hyperrep, representation, digits_zoo, monkeypatch, caplog):
    accuracies_are(lambda weights: torch.full((len(weights),), 0.1), monkeypatch)
    line = f"evaluate targeted {representation} --zoo {digits_zoo} --num-models 2 --quantiles 2 --steps 1 --output new"
    code, out, err = hyperrep(line)
    assert code == 0, err
    assert "there is no rank correlation" in caplog.text
    assert "Rank correlation" not in out
