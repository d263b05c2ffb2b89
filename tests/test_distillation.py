"""`hyperrep evaluate distillation`: one network from what a zoo knows."""

import pytest
import torch
from torch.testing import assert_close

from hyperrep import HyperRepModel, load_zoo
from hyperrep.errors import UserError
from hyperrep.evaluation import Bench, read_results
from hyperrep.evaluation.experiments.distillation import Distillation, mean_probabilities
from hyperrep.networks import new_module
from hyperrep.population import choose_engine
from hyperrep.weights import WeightLayout
from hyperrep.zoo import zoo_images


@pytest.fixture(scope="module")
def bench(representation, digits_zoo) -> Bench:
    zoo = load_zoo(digits_zoo)
    engine = choose_engine("auto", zoo.config.network_config())
    return Bench(HyperRepModel.from_pretrained(representation), zoo, zoo_images(zoo), engine, "model")


def test_students_learn_what_the_teachers_say(bench):
    experiment = Distillation(num_models=2, epochs=3)
    best = experiment._best(bench)
    scores = bench.training.metrics["validation_accuracy"][bench.training.epoch == 25]
    layout = WeightLayout.from_list(bench.model.config.layout)
    module = new_module(bench.network)
    module.load_state_dict(layout.unvectorize(best[0]))
    validation = bench.images.validation
    right = (module(validation.pixels).logits.argmax(-1) == validation.labels).float().mean().item()
    assert right == pytest.approx(scores.max().item())
    expected = module(bench.images.train.pixels).logits.softmax(-1).detach()
    assert_close(mean_probabilities(bench, best[:1]), expected, rtol=1e-4, atol=1e-5)

    # labels as answers, turned by one class: the students learn that, and not what is right
    turned = torch.nn.functional.one_hot((bench.images.train.labels + 1) % 10, 10).float()
    reported = []
    found = experiment._distilled(bench, best[:1].repeat(2, 1), turned, reported.append)
    assert list(found) == [0, 1, 2, 3]
    assert found[3].max() < found[0].min() - 0.1
    assert reported == [2, 2, 2]


def test_every_kind_of_network(hyperrep, representation, digits_zoo, tmp_path):
    out = tmp_path / "results"
    command = f"evaluate distillation {representation} --zoo {digits_zoo} --num-models 2 --epochs 1 --output {out}"
    code, _, err = hyperrep(command)
    assert code == 0, err
    found = {(row.population, row.epoch): row for row in read_results(out / "distillation.jsonl")}
    names = {"B_T", "best network", "average of the best, aligned", "decoded mean latent", "S_KDE30 independent"}
    names |= {"distilled from random", "distilled from the best"}
    assert {name for name, _ in found} >= names
    assert found["best network", 0].n == 1
    assert found["distilled from the best", 0].mean == pytest.approx(found["best network", 0].mean)
    assert found["distilled from random", 0].mean == pytest.approx(found["B_T", 0].mean)
    assert found["distilled from random", 1].settings["teachers"] >= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_models": 0}, "num_models is 0"),
        ({"epochs": -1}, "epochs is -1"),
        ({"top": 0}, "top"),
        ({"methods": ("kde-joined",)}, "'kde-joined' is unknown"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Distillation(**settings)
