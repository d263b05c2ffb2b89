"""`hyperrep evaluate targeted`: what was asked for, and what was got."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import spearmanr

from hyperrep.evaluation import read_results
from hyperrep.evaluation.bench import Bench


def test_asked_and_got(hyperrep, representation, digits_zoo, tmp_path, monkeypatch):
    def tested(self, weights):  # the fixture's decoder gives networks that all answer alike
        return SimpleNamespace(accuracy=weights.double().sum(1).sin().square())

    monkeypatch.setattr(Bench, "tested", tested)
    model = shutil.copytree(representation, tmp_path / "model")
    settings = "--num-models 1 --quantiles 4 --seed 3 --steps 2"
    code, out, err = hyperrep(f"evaluate targeted {model} --zoo {digits_zoo} {settings}")
    assert code == 0, err
    assert "Rank correlation of asked and got" in out
    *tested, agreement = read_results(model / "results" / "targeted.jsonl")
    asked = [row.settings["sampling"]["quantile"] for row in tested]
    assert asked == agreement.settings["quantiles"] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert [row.variant for row in tested] == ["quantile 0.2", "quantile 0.4", "quantile 0.6", "quantile 0.8"]
    assert all(0 <= row.mean <= 1 for row in tested)
    assert agreement.mean == pytest.approx(spearmanr(asked, [row.mean for row in tested]).statistic, abs=1e-6)
    assert (agreement.what, agreement.n) == ("rank_correlation", 4)


@pytest.mark.parametrize("options", ["--quantiles 1", "--num-models 0", "--seed -1", "--guidance -1"])
def test_mistakes(hyperrep, representation, digits_zoo, options):
    code, _, err = hyperrep(f"evaluate targeted {representation} --zoo {digits_zoo} --output new {options}")
    assert code == 2
    assert len(err.strip().splitlines()) == 1


def test_where_all_are_alike_there_is_no_correlation(hyperrep, representation, digits_zoo, monkeypatch, caplog):
    monkeypatch.setattr(
        Bench, "tested", lambda self, weights: SimpleNamespace(accuracy=torch.full((len(weights),), 0.1))
    )
    line = f"evaluate targeted {representation} --zoo {digits_zoo} --num-models 2 --quantiles 2 --steps 1 --output new"
    code, out, err = hyperrep(line)
    assert code == 0, err
    assert "there is no rank correlation" in caplog.text
    assert "Rank correlation" not in out
