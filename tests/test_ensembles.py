"""`hyperrep evaluate ensembles`, and what it measures."""

import math

import pytest
import torch
from torch.testing import assert_close

from hyperrep.errors import UserError
from hyperrep.evaluation import read_results
from hyperrep.evaluation.ensemble import calibration_error, ensemble_measures
from hyperrep.evaluation.experiments.ensembles import Ensembles


def test_an_ensemble_worked_by_hand():
    # three members, two images of classes 0 and 1
    probabilities = torch.tensor([[[0.9, 0.1], [0.6, 0.4]], [[0.4, 0.6], [0.7, 0.3]], [[0.6, 0.4], [0.1, 0.9]]])
    found = ensemble_measures(probabilities, torch.tensor([0, 1]))
    assert found["vote_accuracy"] == 0.5  # 0, 0
    # means: 0.633 for class 0; 0.533 for class 1
    assert found["mean_accuracy"] == 1.0
    likelihood = -(math.log(1.9 / 3) + math.log(1.6 / 3)) / 2
    assert found["negative_log_likelihood"] == pytest.approx(likelihood, rel=1e-6)
    assert found["disagreement"] == pytest.approx(2 / 3)  # of three pairs, two differ, on both images
    assert found["calibration_error"] == pytest.approx(((1 - 1.9 / 3) + (1 - 1.6 / 3)) / 2, rel=1e-6)


def test_disagreement_is_that_of_all_pairs():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(5, 200, 4, generator=generator)
    classes = probabilities.argmax(-1)
    pairs = [(classes[i] != classes[j]).double().mean() for i in range(5) for j in range(i)]
    found = ensemble_measures(probabilities, torch.zeros(200, dtype=torch.int64))["disagreement"]
    assert found == pytest.approx(float(sum(pairs) / len(pairs)))
    alone = ensemble_measures(probabilities[:1], classes[0])
    assert (alone["disagreement"], alone["vote_accuracy"]) == (0.0, 1.0)


def test_who_is_as_often_right_as_confident_is_calibrated():
    generator = torch.Generator().manual_seed(0)
    confidence = 0.5 + 0.5 * torch.rand(100_000, generator=generator)
    probabilities = torch.stack([confidence, 1 - confidence], dim=1)
    labels = (torch.rand(100_000, generator=generator) > confidence).long()
    assert calibration_error(probabilities, labels) < 0.01
    sure = torch.tensor([[1.0, 0.0]]).repeat(100_000, 1)  # always sure, and wrong a quarter of the time
    assert_close(calibration_error(sure, labels), labels.double().mean().item())


def test_ensembles_of_every_population(hyperrep, representation, digits_zoo, tmp_path):
    out = tmp_path / "results"
    settings = "--sizes 1,3,2 --draws 4 --epochs 1 --methods kde-joint"
    code, printed, err = hyperrep(f"evaluate ensembles {representation} --zoo {digits_zoo} {settings} --output {out}")
    assert code == 0, err
    rows = read_results(out / "ensembles.jsonl")
    found = {(row.what, row.method, row.variant, row.epoch): row for row in rows}
    assert {row.method for row in rows} == {"B_F", "B_1", "B_KDE30", "S_KDE30", "S_stored"}
    assert {row.settings["members"] for row in rows} == {1, 2, 3}
    assert {row.n for row in rows} == {4}
    # copies of one network agree until they are trained in different orders
    assert found["disagreement", "B_1", "of 3", 0].mean == 0
    assert found["negative_log_likelihood", "B_1", "of 1", 0].std == pytest.approx(0, abs=1e-9)
    assert found["negative_log_likelihood", "B_1", "of 1", 1].std > 1e-6
    assert found["disagreement", "B_F", "of 3", 0].mean > 0
    assert found["mean_accuracy", "B_1", "of 3", 0].mean == pytest.approx(
        found["vote_accuracy", "B_1", "of 1", 0].mean
    )
    # of three networks, all ensembles of three are the same
    assert found["mean_accuracy", "B_F", "of 3", 0].std == pytest.approx(0, abs=1e-9)
    assert (out / "ensembles.png").read_bytes()[:4] == b"\x89PNG"
    assert "Expected calibration error" in printed


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": "2,x"}, "sizes are '2,x'"),
        ({"sizes": ""}, "sizes are ''"),
        ({"sizes": "0,2"}, "at least 1 member"),
        ({"draws": 0}, "draws is 0"),
        ({"epochs": -1}, "epochs is -1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Ensembles(**settings)
