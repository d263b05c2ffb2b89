"""Features of weights, probes of properties, and `hyperrep evaluate properties`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from torch.testing import assert_close

from hyperrep.errors import UserError
from hyperrep.evaluation import read_results
from hyperrep.evaluation.experiments.properties import Properties
from hyperrep.evaluation.features import margins, power_law_exponent, spectra, weight_statistics
from hyperrep.evaluation.probes import PENALTIES, Parts, probe
from hyperrep.images import ImageSplit
from hyperrep.networks import SmallCNNConfig, initial_weights, layout_of
from hyperrep.population.loop import LoopEngine


NETWORK = SmallCNNConfig(initializer="kaiming_uniform")
LAYOUT = layout_of(NETWORK)
WEIGHTS = initial_weights(NETWORK, [1, 2, 3])


def test_statistics_are_those_of_every_tensor():
    found = weight_statistics(WEIGHTS, LAYOUT)
    assert found.shape == (3, 70)
    first = LAYOUT.unvectorize(WEIGHTS)["convs.0.weight"][1].flatten().double().numpy()
    expected = [first.mean(), first.var(), *np.percentile(first, [1, 25, 50, 75, 99])]
    assert_close(found[1, :7].double(), torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_spectra_do_not_change_with_the_order_of_units():
    found = spectra(WEIGHTS, LAYOUT)
    assert found.shape == (3, 20)
    matrix = LAYOUT.unvectorize(WEIGHTS)["linears.0.weight"][0].double()
    values = torch.linalg.svdvals(matrix)
    assert_close(found[0, 12].double(), values[0].log(), rtol=1e-5, atol=1e-6)
    assert_close(found[0, 14].double(), matrix.square().sum() / values[0] ** 2, rtol=1e-5, atol=1e-6)
    assert 1 <= found[:, 14].min() <= found[:, 14].max() <= 20  # stable rank
    shuffled = dict(LAYOUT.unvectorize(WEIGHTS[0]))
    shuffled["linears.0.weight"] = shuffled["linears.0.weight"].flip(0)
    assert_close(spectra(LAYOUT.vectorize(shuffled)[None], LAYOUT)[0], found[0], rtol=1e-4, atol=1e-5)


def test_the_exponent_of_a_power_law_is_found():
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(2, 4000, generator=generator, dtype=torch.float64)
    alpha = torch.tensor([[2.5], [4.0]], dtype=torch.float64)
    drawn = (1 - uniform) ** (-1 / (alpha - 1))
    assert_close(power_law_exponent(drawn[:, :400]), alpha[:, 0], rtol=0.25, atol=0)
    assert power_law_exponent(torch.ones(3, 2, dtype=torch.float64)).tolist() == [1.0] * 3  # too few


def test_margins_are_those_of_the_outputs():
    images = torch.randn(40, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 10
    found = margins(NETWORK, WEIGHTS, ImageSplit(images, labels), LoopEngine())
    assert found.shape == (3, 5)
    assert (found.diff(dim=1) >= 0).all()
    # from a network that always gives class 3: right, by the same margin, on a tenth of the images
    certain = torch.zeros(1, LAYOUT.num_params)
    certain[0, -10 + 3] = 1.0
    lower, first, median, third, _ = margins(NETWORK, certain, ImageSplit(images, labels), LoopEngine())[0].tolist()
    deviation = torch.tensor([1.0] + [0.0] * 9).repeat(40).std()
    assert lower == first == median == third == pytest.approx(-1 / deviation.item())


@pytest.mark.parametrize("width", [30, 100], ids=["fewer features than rows", "more"])
def test_the_ridge_is_that_of_scikit_learn(width):
    rng = np.random.default_rng(0)
    features = Parts(*(rng.normal(size=(size, width)) for size in (80, 40, 50))).scaled()
    weights = rng.normal(size=width)
    target = Parts(*(part @ weights + rng.normal(size=len(part)) for part in vars(features).values()))
    best = max(
        (Ridge(alpha=penalty).fit(features.train, target.train) for penalty in PENALTIES),
        key=lambda fitted: r2_score(target.validation, fitted.predict(features.validation)),
    )
    expected = r2_score(target.test, best.predict(features.test))
    found = probe("linear", features, target, 0, 10)
    assert found["r2"] == pytest.approx(expected, abs=1e-6)
    assert 0.2 < found["kendall_tau"] <= 1
    assert (len(PENALTIES), PENALTIES[0], PENALTIES[-1]) == (17, 1e3, pytest.approx(1e-5))


def test_trees_find_what_is_not_linear():
    rng = np.random.default_rng(0)
    features = Parts(*(rng.normal(size=(size, 3)) for size in (400, 100, 200)))
    target = Parts(*(np.abs(part[:, 0]) for part in (features.train, features.validation, features.test)))
    assert probe("trees", features, target, 0, 100)["r2"] > 0.9
    assert probe("linear", features, target, 0, 100)["r2"] < 0.2
    names = Parts(*(np.where(part > 0.7, "far", "near") for part in vars(target).values()))
    assert probe("trees", features, names, 0, 100)["accuracy"] > 0.95
    assert probe("linear", features, names, 0, 100)["accuracy"] < 0.8


def test_properties_of_a_zoo(hyperrep, representation, digits_zoo, tmp_path):
    out = tmp_path / "results"
    command = f"evaluate properties {representation} --zoo {digits_zoo} --trees 5 --margin-images 20 --output {out}"
    code, printed, err = hyperrep(command)
    assert code == 0, err
    rows = read_results(out / "properties.jsonl")
    assert {row.method for row in rows} == {"latents", "weights", "statistics", "spectra", "margins"}
    assert {row.variant for row in rows if row.what == "r2"} >= {"test_accuracy, linear", "epoch, trees"}
    assert {row.what for row in rows} == {"r2", "kendall_tau"}
    found = {(row.what, row.method, row.variant): row.mean for row in rows}
    assert found["kendall_tau", "statistics", "epoch, linear"] > 0.5  # weights grow
    assert "R² on test networks" in printed
    code, _, err = hyperrep(f"{command}-2 --epochs 7")
    assert code == 2
    assert "epochs names 7" in err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": "1,x"}, "epochs are '1,x'"),
        ({"trees": 0}, "trees is 0"),
        ({"margin_images": 1}, "margin_images is 1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Properties(**settings)


def test_published_shares_of_variance_stand_beside_ours_and_not_beside_tau():
    rows = read_results(Path(__file__).parent.parent / "model_cards/hyperrep-mnist/results/properties.jsonl")
    published = {
        title: [line for line in lines if line[0].endswith("published")] for title, _, lines in Properties.tables(rows)
    }
    assert published["Kendall's tau on test networks"] == []
    assert published["R² on test networks, %"][0] == ["test_accuracy, linear, published", "97.3", "", "97.7", "", ""]
    assert len(published["R² on test networks, %"]) == 3
