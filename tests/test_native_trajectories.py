"""Trajectories of the C++ kernels against float64, for every architecture, activation and width of vectors."""

import pytest
import torch
from native_helpers import LANES, random_images

from hyperrep.networks import SmallCNNConfig, initial_weights
from hyperrep.population import Population, Recipe, image_order
from hyperrep.population.dropout import dropout_keys
from hyperrep.population.loop import LoopEngine
from hyperrep.population.native import NativeEngine
from hyperrep.population.native import compile as native_compile


ARCHITECTURES = {
    "poster": {},
    "poster, colour": {"num_channels": 3},
    "mlp": {"image_size": 6, "conv_channels": [], "conv_kernel_sizes": [], "pool_sizes": [], "hidden_sizes": [17, 9]},
    "linear": {"image_size": 5, "conv_channels": [], "conv_kernel_sizes": [], "pool_sizes": [], "hidden_sizes": []},
    "left over, pool 3": {
        "image_size": 13,  # 13 -> 10 -> 3 -> 1: the first pool leaves a row and a column over
        "conv_channels": [3, 5],
        "conv_kernel_sizes": [4, 3],
        "pool_sizes": [3, 1],
    },
    "large kernel": {
        "image_size": 16,
        "conv_channels": [7, 2, 3],
        "conv_kernel_sizes": [8, 1, 3],
        "pool_sizes": [2, 1, 1],
        "hidden_sizes": [],
        "num_labels": 3,
    },
    "many channels": {
        "image_size": 15,
        "conv_channels": [9, 6],
        "conv_kernel_sizes": [3, 3],
        "pool_sizes": [2, 2],
    },
    "conv skips": {"skips": [[0, 1, "conv"], [1, 2, "conv"], [2, 3, "conv"]]},
    "identity skip": {  # the 4-conv network of the 2022 code, but for its missing biases
        "conv_channels": [8, 4, 6, 4],
        "conv_kernel_sizes": [5, 5, 4, 3],
        "pool_sizes": [2, 1, 1, 1],
        "hidden_sizes": [18],
        "skips": [[2, 4, "identity"]],
    },
    "all kinds of skips": {  # two that end at one map, two that start from one, one from the image
        "image_size": 12,
        "conv_channels": [2, 2, 2],
        "conv_kernel_sizes": [3, 2, 2],
        "pool_sizes": [2, 1, 1],
        "num_channels": 2,
        "skips": [[0, 2, "identity"], [1, 2, "conv"], [1, 3, "identity"], [2, 3, "conv"]],
    },
    "dropout": {"dropout": 0.3, "skips": [[1, 2, "conv"]]},
    "dropout, mlp": {
        "image_size": 6,
        "conv_channels": [],
        "conv_kernel_sizes": [],
        "pool_sizes": [],
        "hidden_sizes": [17, 9],
        "dropout": 0.5,
    },
}


def train_three_epochs(engine, network: SmallCNNConfig, recipe: Recipe, dtype=torch.float32) -> Population:
    seeds = range(5)
    images, labels = random_images(network, 23)
    images[..., : network.image_size // 3, :] = -0.5  # a constant background, whose windows tie
    population = Population.start(network, recipe, initial_weights(network, list(seeds)))
    for name in ("weights", "first_moment", "second_moment"):
        setattr(population, name, getattr(population, name).to(dtype))
    torch.set_default_dtype(dtype)
    try:
        for epoch in (1, 2, 3):
            population.dropout_keys = dropout_keys(seeds, epoch)
            engine.train_epoch(population, images.to(dtype), labels, image_order(seeds, epoch, len(labels)))
    finally:
        torch.set_default_dtype(torch.float32)
    return population


def assert_as_close_to_float64_as_the_loop(engine, network: SmallCNNConfig, recipe: Recipe) -> None:
    """Sums depend on their order and training amplifies the difference, so no fixed tolerance fits all networks. The
    measure is the same training in float64: the kernels may be four times as far from it as the loop in float32 is,
    which is just another order of summation, plus a few roundings for where both happen to be nearly exact. The median
    over networks, because one in a dozen meets a pooling window whose winner rounding decides."""
    native = train_three_epochs(engine, network, recipe)
    single = train_three_epochs(LoopEngine(), network, recipe)
    exact = train_three_epochs(LoopEngine(), network, recipe, torch.float64)
    assert (exact.weights - initial_weights(network, list(range(5)))).abs().amax(1).min() > 1e-3  # all did train
    for name in ("weights", "first_moment", "second_moment"):
        expected = getattr(exact, name)
        ours, theirs = ((getattr(p, name) - expected).norm(dim=1).median() for p in (native, single))
        assert ours <= 4 * theirs + 2e-6 * expected.norm(dim=1).median(), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu", "sigmoid"])
def test_trajectories_follow_float64(architecture, activation):
    network = SmallCNNConfig(
        **{"initializer": "kaiming_uniform", "hidden_act": activation} | ARCHITECTURES[architecture]
    )
    optimizer = {"tanh": "adam", "relu": "adamw", "gelu": "adam", "sigmoid": "sgd"}[activation]
    recipe = Recipe(optimizer, learning_rate=3e-3, weight_decay=0.01, batch_size=5)  # a last batch of three
    assert_as_close_to_float64_as_the_loop(NativeEngine(threads=1), network, recipe)


def test_saturated_trajectories_follow_float64():
    """U(0, 1) weights, as the published MNIST and SVHN zoos start."""
    recipe = Recipe("adam", learning_rate=3e-3, batch_size=5)
    assert_as_close_to_float64_as_the_loop(NativeEngine(threads=1), SmallCNNConfig(), recipe)


@pytest.mark.slow  # two compilations; make test-machines trains with narrow vectors, too
@pytest.mark.parametrize(("flags", "lanes"), [("-march=x86-64", 4), ("-march=haswell", 8)])
def test_the_same_source_serves_narrower_vectors(flags, lanes, monkeypatch, tmp_path):
    if native_compile.platform.machine() != "x86_64" or LANES < 8:
        pytest.skip("needs an x86 processor with AVX2")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HYPERREP_CXXFLAGS", flags)
    native_compile.load_library.cache_clear()
    try:
        engine = NativeEngine(threads=1)
    finally:
        native_compile.load_library.cache_clear()
    assert engine.lanes == lanes
    for activation, architecture in (("tanh", "poster"), ("gelu", "left over, pool 3"), ("sigmoid", "mlp")):
        network = SmallCNNConfig(
            **{"initializer": "kaiming_uniform", "hidden_act": activation} | ARCHITECTURES[architecture]
        )
        assert_as_close_to_float64_as_the_loop(engine, network, Recipe(learning_rate=3e-3, batch_size=5))
