"""The CUDA kernels, which a C++ compiler runs where there is no GPU, train the same networks as the loop."""

import pytest
import torch
from emulated_cuda import SHARED_MEMORY, EmulatedCudaEngine, compiled
from populations import (
    BATCH_SIZE,
    DEEP,
    MLP,
    POOLS_OF_3,
    SEEDS,
    SMALL,
    assert_follows,
    have_compiler,
    random_images,
    train,
)
from torch.testing import assert_close

from hyperrep.errors import UserError
from hyperrep.networks import SmallCNNConfig, initial_weights
from hyperrep.population import Recipe, choose_engine
from hyperrep.population.cuda import CudaUnavailable
from hyperrep.population.cuda.compile import compiled as compiled_for_gpu
from hyperrep.population.cuda.memory import fitting, shared_bytes
from hyperrep.population.differentiable import population_logits
from hyperrep.population.loop import LoopEngine


needs_compiler = pytest.mark.skipif(not have_compiler(), reason="no C++ compiler")
POSTER = (3, 1, 28, 8, 5, 2, 8, 12, 6, 5, 2, 6, 4, 4, 2, 1, 2, 36, 20, 20, 10)

NETWORKS = [
    pytest.param({}, id="poster, U(0, 1)"),
    pytest.param(
        {"num_channels": 3, "hidden_act": "gelu", "initializer": "kaiming_uniform"}, id="poster, colour, in two parts"
    ),
    pytest.param(SMALL | {"hidden_act": "sigmoid", "dropout": 0.4}, id="dropout"),
    pytest.param(SMALL | {"hidden_act": "gelu", "dropout": 0.4}, id="dropout, gelu", marks=pytest.mark.slow),
    pytest.param(SMALL | {"hidden_act": "relu", "num_labels": 300}, id="300 classes", marks=pytest.mark.slow),
    pytest.param(
        MLP,
        id="mlp",
    ),
    pytest.param(
        POOLS_OF_3,
        id="pools of 3, no hidden layer",
    ),
    pytest.param(
        DEEP,
        id="deep, maps of odd size",
        marks=pytest.mark.slow,
    ),
]


@needs_compiler
@pytest.mark.parametrize("network", NETWORKS)
def test_the_kernels_follow_the_loop(network):
    network, engine = SmallCNNConfig(**network), EmulatedCudaEngine()
    images, _ = random_images(network)
    # AdamW without dropout: where gradients are all rounding, its networks go their own ways with every engine
    for optimizer in ("sgd", "adam") if network.dropout else ("sgd", "adam", "adamw"):
        recipe = Recipe(optimizer, batch_size=BATCH_SIZE)
        expected, expected_results = train(LoopEngine(), network, recipe)
        assert_follows(engine, network, recipe, expected, expected_results, median=1e-4)
    logits = population_logits(network, expected.weights, images, LoopEngine())
    assert_close(engine.logits(network, expected.weights, images), logits, rtol=1e-4, atol=1e-4)


@needs_compiler
def test_a_network_is_the_same_in_any_company():
    network = SmallCNNConfig(**SMALL)
    together, _ = train(EmulatedCudaEngine(), network, Recipe(batch_size=BATCH_SIZE))
    alone, _ = train(EmulatedCudaEngine(), network, Recipe(batch_size=BATCH_SIZE), seeds=SEEDS[:1])
    assert torch.equal(together.weights[:1], alone.weights)


@needs_compiler
def test_what_is_not_a_number_stays_so():
    """A network that has diverged says so: no class wins by chance."""
    network = SmallCNNConfig(**SMALL)
    weights, (images, labels) = initial_weights(network, SEEDS), random_images(network)
    weights[1, 0] = torch.nan
    evaluation = EmulatedCudaEngine().evaluate(network, weights, images, labels, predictions=True)
    expected = LoopEngine().evaluate(network, weights, images, labels, predictions=True)
    assert evaluation.loss.isnan().tolist() == expected.loss.isnan().tolist() == [False, True, False, False, False]
    assert torch.equal(evaluation.predictions, expected.predictions)


@needs_compiler
@pytest.mark.parametrize("activation", range(4))
def test_shared_memory_is_laid_out_as_python_reckons(activation):
    for shape, images in ((POSTER, 10), (POSTER, 3), ((0, 2, 25, 9, 9, 4), 16), ((1, 2, 9, 5, 3, 1, 1, 245, 3), 7)):
        constants = fitting(shape, activation, 512, images, SHARED_MEMORY)
        assert constants is not None
        assert compiled(constants).hyperrep_shared_bytes() == shared_bytes(constants)


def test_a_batch_is_worked_on_in_few_equal_parts():
    whole = fitting(POSTER, 0, 512, 10, SHARED_MEMORY)
    half = fitting(POSTER, 0, 512, 10, SHARED_MEMORY // 2)
    assert whole is not None
    assert half is not None
    assert (whole.capacity, half.capacity) == (10, 5)
    assert shared_bytes(half) <= SHARED_MEMORY // 2
    assert fitting(POSTER, 0, 512, 10, 10_000) is None


def test_the_kernels_compile_for_a_gpu():
    """By the compiler that comes with PyTorch; needs no GPU."""
    if not torch.version.cuda:
        pytest.skip("PyTorch for the CPU comes without the compiler")
    constants = fitting(POSTER, 2, 512, 10, SHARED_MEMORY)
    assert constants is not None
    assert compiled_for_gpu(constants.source(), "sm_90").startswith(b"\x7fELF")
    with pytest.raises(CudaUnavailable, match="do not compile for sm_90"):
        compiled_for_gpu(constants.source().replace("SYNC();", "SYNC(", 1), "sm_90")


def test_what_it_does_not_cover_is_said():
    skips = SmallCNNConfig(skips=[[0, 1, "conv"]])
    wide = SmallCNNConfig(image_size=200, conv_channels=[], conv_kernel_sizes=[], pool_sizes=[], hidden_sizes=[900])
    for network, message in ((skips, "skips"), (wide, "shared memory"), (torch.nn.Linear(2, 2), "not a Linear")):
        with pytest.raises(UserError, match=message):
            EmulatedCudaEngine()._constants(network, 10)
        with pytest.raises(CudaUnavailable, match=message):
            EmulatedCudaEngine.for_network(network)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_cannot_be_had():
    with pytest.raises(UserError, match="CUDA engine cannot be used: there is no NVIDIA GPU"):
        choose_engine("cuda", SmallCNNConfig())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("network", NETWORKS[:4])
def test_a_gpu_follows_the_loop(network):
    network = SmallCNNConfig(**network)
    engine = choose_engine("auto", network)
    assert engine.name == "cuda"
    expected, _ = train(LoopEngine(), network, Recipe("sgd", batch_size=BATCH_SIZE))
    (first, _), (second, _) = (train(engine, network, Recipe("sgd", batch_size=BATCH_SIZE)) for _ in range(2))
    distance = (expected.weights - initial_weights(network, SEEDS)).norm(dim=1)
    assert ((first.weights - expected.weights).norm(dim=1) / distance).max() < 1e-3
    assert torch.equal(first.weights, second.weights)
