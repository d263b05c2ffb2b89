"""Small populations for the tests of engines."""

import pytest
import torch
from torch import Tensor

from hyperrep.networks import SmallCNNConfig, initial_weights
from hyperrep.population import (
    Population,
    Recipe,
    image_order,
)
from hyperrep.population.dropout import dropout_keys
from hyperrep.population.loop import LoopEngine
from hyperrep.population.native import NativeEngine, NativeUnavailable
from hyperrep.population.native import compile as native_compile
from hyperrep.population.vmap import VmapEngine


SMALL = {
    "image_size": 10,
    "conv_channels": [3, 2],
    "conv_kernel_sizes": [3, 2],
    "pool_sizes": [2, 1],
    "hidden_sizes": [6],
    "num_labels": 4,
    "initializer": "kaiming_uniform",
}
NUM_IMAGES, BATCH_SIZE, EPOCHS = 47, 10, 3  # the last batch of an epoch has 7 images
SEEDS = [4, 0, 17, 3, 8]
LEARNING_RATES = torch.tensor([1e-3, 3e-3, 1e-4, 1e-2, 1e-3])
WEIGHT_DECAYS = torch.tensor([0.1, 0.0, 0.3, 0.01, 0.1])


def have_compiler() -> bool:
    try:
        native_compile.load_library()
    except NativeUnavailable:
        return False
    return True


ENGINES = [
    LoopEngine(),
    VmapEngine(models_per_chunk=3),  # two chunks, the second one smaller
    *([NativeEngine(threads=1)] if have_compiler() else []),
]
every_engine = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)


def random_images(network: SmallCNNConfig, count: int = NUM_IMAGES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(count, network.num_channels, network.image_size, network.image_size, generator=generator)
    return pixels, torch.randint(network.num_labels, (count,), generator=generator)


def train(engine, network: SmallCNNConfig, recipe: Recipe, epochs: int = EPOCHS, seeds: list[int] = SEEDS):
    """Train a population with learning rates and weight decays of its own for each model."""
    images, labels = random_images(network)
    population = Population.start(network, recipe, initial_weights(network, seeds))
    population.learning_rates = LEARNING_RATES[: len(seeds)]
    population.weight_decays = WEIGHT_DECAYS[: len(seeds)]
    results = []
    for epoch in range(1, epochs + 1):
        population.dropout_keys = dropout_keys(seeds, epoch)
        results.append(engine.train_epoch(population, images, labels, image_order(seeds, epoch, len(labels))))
    return population, results
