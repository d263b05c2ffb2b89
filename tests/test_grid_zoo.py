"""A zoo whose networks differ in their activation: it is trained on, and its samples claim none of the values."""

import dataclasses
import logging
from pathlib import Path

import pytest
import torch
from small_zoo import digits, settings
from tiny_zoo import TINY_SETTINGS

from hyperrep import HyperRepPipeline
from hyperrep.errors import UserError
from hyperrep.evaluation import read_results
from hyperrep.pipeline import fit_sampler
from hyperrep.population.loop import LoopEngine
from hyperrep.training import TrainingConfig, train
from hyperrep.zoo import build_zoo, get_protocol, load_zoo


SETTINGS = TINY_SETTINGS | {"epochs": [0, 1], "batch_size": 4, "num_train_epochs": 1}
GRID = {"hidden_act": ("tanh", "relu"), "dropout": (0.0, 0.5)}


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Path:
    protocol = dataclasses.replace(get_protocol("digits"), grid=GRID)
    output = tmp_path_factory.mktemp("grid") / "zoo"
    return build_zoo(settings(protocol=protocol, models=8, epochs=1), digits(protocol), LoopEngine(), output)


def configuration(**changes) -> TrainingConfig:
    return TrainingConfig.from_dict(SETTINGS | changes)


@pytest.fixture(scope="module")
def trained(grid, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("model") / "model"
    train(configuration(), grid, output)
    fit_sampler(output, grid)
    return output


def test_what_varies_is_no_part_of_the_network(grid):
    zoo = load_zoo(grid)
    assert not zoo.config.network.keys() & GRID.keys()
    assert zoo.config.network["initializer"] == "kaiming_uniform"
    with pytest.raises(UserError, match="differ in hidden_act"):
        zoo.config.network_config()


def test_it_is_trained_on_without_accuracies(grid, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        results = train(configuration(), grid, tmp_path / "model")
    assert "accuracies of reconstructed networks are left out" in caplog.text
    assert "differ in hidden_act" in caplog.text
    assert "accuracy" not in results["validation"]
    assert results["validation"]["r2"] is not None


def test_the_behavioural_loss_refuses_it(grid, tmp_path):
    with pytest.raises(UserError, match=r"behavioural loss .* differ in hidden_act"):
        train(configuration(behavior_weight=0.1, behavior_images=2), grid, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_sample_says_no_activation_until_it_is_told(trained, tmp_path):
    pipe = HyperRepPipeline.from_pretrained(trained)
    assert "hidden_act" not in pipe.model.config.network
    networks = pipe(2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match=r"differ in hidden_act.*--network hidden_act=relu"):
        networks.model(0)
    with pytest.raises(UserError, match="differ in hidden_act"):
        networks.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    told = pipe(2, generator=torch.Generator().manual_seed(0), network={"hidden_act": "relu"})
    assert torch.equal(told.weights, networks.weights)
    assert told.model(0).config.hidden_act == "relu"
    with pytest.raises(UserError, match="'rellu' is unknown"):
        pipe(2, network={"hidden_act": "rellu"}).model(0)


def test_what_the_networks_differ_in_is_read_off_them(hyperrep, trained, grid, tmp_path):
    """Activation and dropout are predicted; margins are left out, since a checkpoint does not say how to run it."""
    code, printed, err = hyperrep(f"evaluate properties {trained} --zoo {grid} --trees 2 --output {tmp_path / 'out'}")
    assert code == 0, err
    rows = read_results(tmp_path / "out" / "properties.jsonl")
    assert "margins" not in {row.method for row in rows}
    assert {row.variant for row in rows if row.what == "accuracy"} >= {"hidden_act, linear", "hidden_act, trees"}
    assert {row.variant for row in rows if row.what == "r2"} >= {"epoch, linear", "epoch, trees"}
    assert "hidden_act, linear" in printed
