"""The door to the engines: whatever does not fit together is one sentence, and never a read beyond an array."""

import subprocess
import sys

import pytest
import torch
from populations import ENGINES, SMALL, every_engine, random_images
from torch import nn

from hyperrep.errors import UserError
from hyperrep.networks import SmallCNNConfig, initial_weights
from hyperrep.population import (
    Population,
    Recipe,
    choose_engine,
    image_order,
    population_cross_entropy,
    population_logits,
)
from hyperrep.population.dropout import dropout_keys
from hyperrep.population.native import NativeEngine
from hyperrep.population.vmap import VmapEngine


NETWORK = SmallCNNConfig(**SMALL, dropout=0.1, skips=[[0, 1, "conv"]])
SEEDS = [3, 1, 2]


def an_epoch() -> dict:
    """All that an epoch takes, by name; what is not an argument is an attribute of the population."""
    images, labels = random_images(NETWORK, 13)
    population = Population.start(NETWORK, Recipe(), initial_weights(NETWORK, SEEDS))
    return {
        **{name: getattr(population, name) for name in ("weights", "first_moment", "second_moment")},
        "learning_rates": torch.full((3,), 1e-3),
        "weight_decays": torch.zeros(3),
        "dropouts": torch.full((3,), 0.1),
        "dropout_keys": dropout_keys(SEEDS, 1),
        "images": images,
        "labels": labels,
        "order": image_order(SEEDS, 1, 13),
    }


def run_epoch(engine, values: dict, network=NETWORK) -> Population:
    values = dict(values)
    arguments = [values.pop(name) for name in ("images", "labels", "order")]
    population = Population(network, Recipe(), **values)
    engine.train_epoch(population, *arguments)
    return population


WRONG = {
    "weights too short": ("weights", lambda x: x[:, :-1], r"weights are \(3, \d+\); \(any, \d+\) is needed"),
    "fewer weights": ("weights", lambda x: x[:2], "first_moment are"),
    "no weights": ("weights", lambda x: x[:0], "there are no networks"),
    "one vector": ("weights", lambda x: x[0], "weights are"),
    "moment too short": ("first_moment", lambda x: x[:, 1:], "first_moment are"),
    "one moment for all": ("second_moment", lambda x: x[:1], "second_moment are"),
    "one rate for all": ("learning_rates", lambda x: x[:1], "learning_rates are"),
    "a rate too many": ("learning_rates", lambda x: torch.cat([x, x]), "learning_rates are"),
    "no number": ("learning_rates", lambda x: x * torch.nan, "learning_rates run from nan"),
    "infinite": ("weight_decays", lambda x: x + torch.inf, "weight_decays run from inf"),
    "negative": ("weight_decays", lambda x: x - 1, "weight_decays run from -1"),
    "all is dropped": ("dropouts", lambda x: x * 10, "dropouts run from 1"),
    "dropouts of two": ("dropouts", lambda x: x[:2], "dropouts are"),
    "keys of two": ("dropout_keys", lambda x: x[:2], "dropout_keys are"),
    "a key too large": ("dropout_keys", lambda x: x + 2**32, "dropout_keys run"),
    "images of another size": ("images", lambda x: x[..., 1:], r"images are \(13, 1, 10, 9\); \(any, 1, 10, 10\)"),
    "images without channels": ("images", lambda x: x[:, 0], "images are"),
    "bytes": ("images", lambda x: x.byte(), "floating-point numbers are needed"),
    "fewer images": ("images", lambda x: x[:12], "labels are"),
    "no images": ("images", lambda x: x[:0], "labels are"),
    "fewer labels": ("labels", lambda x: x[:12], "labels are"),
    "labels one-hot": ("labels", lambda x: nn.functional.one_hot(x), "labels are"),
    "labels as floats": ("labels", lambda x: x.float(), "whole numbers are needed"),
    "a class too many": ("labels", lambda x: x + 1, "to 4, but the network has 4 classes"),
    "a negative label": ("labels", lambda x: x - 1, "labels run from -1"),
    "order of two": ("order", lambda x: x[:2], "order are"),
    "one order for all": ("order", lambda x: x[0], "order are"),
    "order beyond the images": ("order", lambda x: x + 1, "order run from 1 to 13, but there are 13 images"),
    "a negative order": ("order", lambda x: x - 1, "order run from -1"),
    "an empty order": ("order", lambda x: x[:, :0], "order names no image"),
}


@every_engine
@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_together_is_refused(engine, case):
    name, change, said = WRONG[case]
    values = an_epoch()
    before = values["weights"].clone()
    with pytest.raises(UserError, match=said):
        run_epoch(engine, values | {name: change(values[name])})
    assert torch.equal(values["weights"], before)
    if name in ("weights", "images", "labels") and case != "fewer weights":  # evaluation comes through the same door
        values[name] = change(values[name])
        with pytest.raises(UserError):
            engine.evaluate(NETWORK, values["weights"], values["images"], values["labels"])


@every_engine
def test_networks_whose_attributes_were_set_to_what_cannot_be_are_refused(engine):
    for name, value in [
        ("skips", [[5, 9, "identity"]]),
        ("skips", [[1, 2, "identity"]]),
        ("image_size", 3),
        ("conv_channels", [3, 2, 2]),
        ("num_labels", 0),
    ]:
        network = SmallCNNConfig(**SMALL)
        setattr(network, name, value)
        with pytest.raises(UserError, match=r"the network cannot be|weights are"):
            run_epoch(engine, an_epoch(), network)


@every_engine
def test_outputs_and_losses_come_through_the_same_door(engine):
    images, _ = random_images(NETWORK, 13)
    weights, targets = initial_weights(NETWORK, SEEDS), torch.full((3, 13, 4), 0.25)
    population_cross_entropy(NETWORK, weights, images, targets, engine)
    for wrong in (targets[:1], targets[:, :12], targets[..., :3], targets[0], targets[..., 0]):
        with pytest.raises(UserError, match="targets are"):
            population_cross_entropy(NETWORK, weights, images, wrong, engine)
    for wrong_weights, wrong_images in [(weights[:, 1:], images), (weights, images[..., 1:]), (weights[0], images)]:
        with pytest.raises(UserError, match="is needed"):
            population_logits(NETWORK, wrong_weights, wrong_images, engine)


@pytest.mark.parametrize("engine", ENGINES[:2], ids=lambda engine: engine.name)
def test_other_modules_come_through_it_too(engine):
    network = nn.Sequential(nn.Flatten(), nn.Linear(100, 4))
    values = {name: value for name, value in an_epoch().items() if not name.startswith("dropout")}
    for name in ("weights", "first_moment", "second_moment"):
        values[name] = torch.zeros(3, 404)
    run_epoch(engine, values, network)
    for name in ("weights", "labels", "order"):
        with pytest.raises(UserError, match="is needed"):
            run_epoch(engine, values | {name: values[name][:, :5] if name == "weights" else values[name][:2]}, network)


def test_engines_need_a_thread_and_a_network():
    with pytest.raises(UserError, match="threads are 0"):
        NativeEngine(threads=0)
    with pytest.raises(UserError, match="models_per_chunk is 0"):  # which would never end
        VmapEngine(models_per_chunk=0)
    network = SmallCNNConfig(**SMALL)
    network.skips = [[5, 9, "conv"]]
    with pytest.raises(UserError, match="the network cannot be"):
        choose_engine("auto", network)


FUZZ = """
import random, torch
from test_checks import NETWORK, an_epoch, run_epoch
from hyperrep.errors import UserError
from hyperrep.population.native import NativeEngine, NativeUnavailable
from hyperrep.population.loop import LoopEngine
try:
    engine = NativeEngine(threads=1)
except NativeUnavailable:
    engine = LoopEngine()
random.seed(0)
ran = refused = 0
for trial in range(200):
    values = an_epoch()
    for name in random.sample(sorted(values), random.choice([1, 1, 2])):
        value = values[name]
        axis = random.randrange(value.ndim)
        size = random.choice([0, 1, value.shape[axis] - 1, value.shape[axis] + 1, 1000])
        values[name] = value.index_select(axis, torch.arange(size) % value.shape[axis])
        if random.random() < 0.2:
            values[name] = values[name].unsqueeze(0)
    try:
        run_epoch(engine, values)
        ran += 1
    except UserError:
        refused += 1
print(ran, refused)
"""


def test_random_wrong_lengths_never_crash():
    """In a process of its own, which a read beyond an array may kill."""
    outcome = subprocess.run(
        [sys.executable, "-c", FUZZ], capture_output=True, text=True, cwd=__file__.rpartition("/")[0]
    )
    assert outcome.returncode == 0, outcome.stderr
    ran, refused = map(int, outcome.stdout.split())
    assert refused > 150
    assert ran > 0  # an order of another length is one
