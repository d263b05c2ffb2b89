"""`hyperrep evaluate novelty`: copies are told from networks that are new, and the good from the bad."""

import math
import shutil

import pytest
import torch
from torch.testing import assert_close

from hyperrep import HyperRepModel, load_zoo
from hyperrep.cards import write_model_card
from hyperrep.evaluation import Bench, read_results
from hyperrep.evaluation.novelty import error_similarity, expected_similarity
from hyperrep.evaluation.yardstick import Yardstick, last_of_each
from hyperrep.population import choose_engine
from hyperrep.weights.augmentation import permute
from hyperrep.zoo import zoo_images


@pytest.fixture(scope="module")
def bench(representation, digits_zoo) -> Bench:
    zoo = load_zoo(digits_zoo)
    engine = choose_engine("auto", zoo.config.network_config())
    return Bench(HyperRepModel.from_pretrained(representation), zoo, zoo_images(zoo), engine, "model")


def test_independent_errors_have_the_expected_similarity():
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(200_000, dtype=torch.int64)
    answers = (torch.rand(2, len(labels), generator=generator) < torch.tensor([[0.3], [0.6]])).long()
    first, second = answers[:1], answers[1:]
    assert_close(
        expected_similarity(first, second, labels), error_similarity(first, second, labels)[0], atol=5e-3, rtol=0
    )
    assert_close(expected_similarity(first, second, labels), torch.tensor([0.18 / 0.72]), atol=5e-3, rtol=0)
    right = labels[None]
    assert expected_similarity(right, right, labels).tolist() == [1.0]


def test_a_training_network_is_a_copy_whatever_the_order_of_its_units(bench):
    training = last_of_each(bench.training)
    assert training.model_id.tolist() == bench.training.model_id.unique().tolist()
    assert set(training.epoch.tolist()) == {25}
    layout = bench.zoo.config.weight_layout()
    shuffled = permute(training.weights, layout, torch.Generator().manual_seed(1))
    assert not torch.allclose(shuffled, training.weights)
    found = Yardstick(bench, 0.02).of(shuffled)
    assert found["distance_ratio"].max() < 1e-3
    assert_close(found["nearest_training_similarity"], torch.ones(len(training)))
    assert found["good_and_far_0.25"].sum() == 0
    assert found["data_copying"] < -2  # as low as it gets against three held-out networks
    assert found["dispersion"] == pytest.approx(1, abs=0.2)
    assert (found["excess_similarity"] > 0).all()
    assert (found["similarity_above_held_out"] > 0).all()


def test_the_usual_distance_is_that_to_another_network(bench):
    yardstick = Yardstick(bench, 0.02)
    last, everything = last_of_each(bench.training), bench.training
    canonical = bench.model.processor.align(last.weights)
    expected = []
    for weights, model in zip(canonical, last.model_id):
        others = yardstick.training[everything.model_id != model]
        expected.append(min(float((weights - other).norm()) for other in others))
    assert yardstick.usual_distance == pytest.approx(float(torch.tensor(expected).median()), rel=1e-4)
    found = yardstick.of(last_of_each(bench.held_out).weights)
    assert found["distance_ratio"].mean() == pytest.approx(1, abs=0.25)
    assert abs(float(found["data_copying"])) < 3


def test_one_network_that_is_good_and_far_is_counted_at_every_distance(bench):
    yardstick = Yardstick(bench, 1.0)  # whatever is no worse than everything is good
    far = torch.stack([bench.training.weights[0] + 100, bench.training.weights[0]])
    found = yardstick.of(far)
    for least in ("0.25", "0.5", "1", "2"):
        assert found[f"good_and_far_{least}"].tolist() == [1, 0]
    strict = Yardstick(bench, -1.0)
    assert strict.of(far)["good_and_far_0.25"].tolist() == [0, 0]
    assert strict.bar - yardstick.bar == pytest.approx(2)
    alone = yardstick.of(far[:1])
    assert "dispersion" not in alone
    assert "nearest_sample_similarity" not in alone


def test_from_the_command(hyperrep, representation, digits_zoo, tmp_path):
    model = shutil.copytree(representation, tmp_path / "model")
    code, _, err = hyperrep(f"sample {model} --num-models 2 --output samples")
    assert code == 0, err
    line = f"evaluate novelty {model} --zoo {digits_zoo} --num-models 3 --methods kde-joint"
    code, out, err = hyperrep(f"{line} --networks samples --networks {digits_zoo}")
    assert code == 0, err
    assert "Good networks at least 0.25 times the usual distance away" in " ".join(out.split())
    rows = read_results(model / "results" / "novelty.jsonl")
    found = {(row.what, row.method, row.variant, row.epoch): row for row in rows}
    counts = {(row.method, row.variant): row.n for row in rows}
    assert counts == {
        ("B_T", ""): 3,
        ("zoo", "held-out models"): 3,
        ("zoo", "best training models"): 3,
        ("B_KDE30", "joint"): 3,
        ("S_KDE30", "joint"): 3,
        ("S_stored", "independent"): 3,
        ("samples", ""): 2,
        ("cnn-zoo-digits", ""): 20,
    }
    assert found["distance_ratio", "zoo", "best training models", 0].mean < 1e-3
    assert found["distance_ratio", "B_KDE30", "joint", 0].mean < 0.5 < found["distance_ratio", "B_T", "", 0].mean
    assert found["test_accuracy", "B_T", "", 1].mean > found["test_accuracy", "B_T", "", 0].mean
    assert all(math.isfinite(row.settings["bar"]) and row.settings["usual_distance"] > 0 for row in rows)
    assert (model / "results" / "novelty.png").read_bytes()[:4] == b"\x89PNG"
    assert "New, good, and unlike each other" in write_model_card(model).read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--num-models 0", "num_models is 0"),
        ("--epochs -1", "epochs is -1"),
        ("--below-mean 2", "below_mean is 2"),
        ("--seed -1", "seed is -1"),
        ("--networks nowhere", "nowhere holds no networks"),
        ("--networks a/samples --networks b/samples", "are called samples, samples"),
    ],
)
def test_mistakes(hyperrep, representation, digits_zoo, options, said):
    code, _, err = hyperrep(f"evaluate novelty {representation} --zoo {digits_zoo} --output new {options}")
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
