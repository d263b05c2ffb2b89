"""Every engine trains the same networks, and the fastest that can is chosen."""

import itertools
import logging

import pytest
import torch
from populations import (
    BATCH_SIZE,
    DEEP,
    ENGINES,
    LEARNING_RATES,
    MLP,
    NUM_IMAGES,
    POOLS_OF_3,
    SEEDS,
    SMALL,
    WEIGHT_DECAYS,
    assert_follows,
    every_engine,
    have_compiler,
    random_images,
    train,
)
from torch import Tensor, nn
from torch.testing import assert_close

from hyperrep.errors import UserError
from hyperrep.networks import SmallCNNConfig, initial_weights
from hyperrep.population import (
    Population,
    Recipe,
    choose_engine,
    image_order,
)
from hyperrep.population.dropout import dropout_factors, dropout_keys
from hyperrep.population.loop import LoopEngine
from hyperrep.population.native import NativeEngine
from hyperrep.population.native import compile as native_compile
from hyperrep.population.vmap import VmapEngine
from hyperrep.weights import WeightLayout


# ------------------------------------------------------------------------------------------------ engines agree


def assert_engines_agree(network: SmallCNNConfig, recipe: Recipe) -> None:
    """Train with every engine, and compare with the loop."""
    expected, expected_results = train(LoopEngine(), network, recipe)
    distance = (expected.weights - initial_weights(network, SEEDS)).norm(dim=1)
    assert distance.min() > 1e-3  # all of them did train
    for engine in ENGINES[1:]:
        assert_follows(engine, network, recipe, expected, expected_results)


@pytest.mark.parametrize(
    ("activation", "optimizer"),
    itertools.product(["tanh", "relu", "gelu", "sigmoid"], ["adam", "adamw", "sgd"]),
)
def test_engines_agree_for_every_activation_and_optimizer(activation, optimizer):
    assert_engines_agree(SmallCNNConfig(**SMALL, hidden_act=activation), Recipe(optimizer, batch_size=BATCH_SIZE))


@pytest.mark.parametrize(
    "network",
    [
        pytest.param({}, id="poster, U(0, 1)"),
        pytest.param({"num_channels": 3, "initializer": "kaiming_uniform"}, id="poster, colour"),
        pytest.param(
            MLP,
            id="mlp",
        ),
        pytest.param(
            POOLS_OF_3,
            id="pools of 3, no hidden layer",
        ),
        pytest.param(
            {
                "image_size": 16,
                "num_channels": 2,
                "conv_channels": [7, 2],
                "conv_kernel_sizes": [7, 6],
                "pool_sizes": [1, 1],
                "hidden_sizes": [3],
                "num_labels": 2,
                "initializer": "kaiming_normal",
            },
            id="large kernels",
        ),
        pytest.param(
            DEEP,
            id="deep",
        ),
        pytest.param(SMALL | {"num_labels": 300}, id="300 classes"),
        pytest.param({"skips": [[0, 1, "conv"], [1, 2, "conv"], [2, 3, "conv"]]}, id="conv skips"),
        pytest.param(
            {
                "image_size": 12,
                "conv_channels": [3, 4, 3],
                "conv_kernel_sizes": [3, 2, 2],
                "pool_sizes": [2, 1, 1],
                "initializer": "kaiming_uniform",
                "skips": [[1, 3, "identity"]],
                "dropout": 0.4,
            },
            id="identity skip, dropout",
        ),
    ],
)
def test_engines_agree_for_every_architecture(network):
    for optimizer in ("adam", "adamw"):
        assert_engines_agree(SmallCNNConfig(**network), Recipe(optimizer, batch_size=BATCH_SIZE))


class OtherNetwork(nn.Module):
    """Nothing the small CNNs know: padding, strides, normalisation, a residual, a constant buffer."""

    def __init__(self, normalisation: nn.Module | None = None):
        super().__init__()
        # a bias before normalisation has no gradient but rounding, which Adam would magnify
        self.stem = nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False)
        self.norm = normalisation or nn.GroupNorm(2, 4)
        self.block = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 4)
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.stem(pixels)))
        hidden = hidden + self.scale * torch.relu(self.block(hidden))
        return self.head(hidden.mean((2, 3)))


@pytest.mark.parametrize(
    "normalisation",
    [None, nn.BatchNorm2d(4, track_running_stats=False), nn.BatchNorm2d(4, momentum=0.2)],
    ids=["group norm", "batch statistics", "running statistics"],
)
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_any_module_can_be_a_population(optimizer, normalisation):
    """The stacked engine trains it as the loop does, each network with statistics of its own."""
    torch.manual_seed(0)
    networks = [OtherNetwork(normalisation) for _ in range(3)]
    layout = WeightLayout.of(networks[0])
    start = torch.stack([layout.vectorize(network.state_dict()) for network in networks]).detach()
    images, labels = random_images(SmallCNNConfig(**SMALL))
    trained = []
    for engine in (LoopEngine(), VmapEngine(models_per_chunk=2)):
        recipe = Recipe(optimizer, weight_decay=1e-2, batch_size=BATCH_SIZE)
        population = Population.start(networks[0], recipe, start)
        for epoch in (1, 2):
            engine.train_epoch(population, images, labels, image_order(SEEDS[:3], epoch, len(labels)))
        trained.append(population.weights)
        assert not population.first_moment[:, layout.statistics].any()
        if normalisation is None or len(layout.statistics):  # batch statistics depend on how evaluation is batched
            result = engine.evaluate(networks[0], trained[0], images, labels, predictions=True)
            torch.testing.assert_close(result.accuracy, (result.predictions == labels).float().mean(1))
    distance = (trained[0] - start).norm(dim=1)
    assert distance.min() > 1e-3
    error = (trained[0] - trained[1]).norm(dim=1) / distance
    assert error.max() < (1e-4 if optimizer == "sgd" else 3e-2)
    assert choose_engine("auto", networks[0]).name == "vmap"


def test_running_statistics_are_those_of_batches():
    """What a batch norm remembers follows its formula, and is what evaluation normalises by."""
    network = OtherNetwork(nn.BatchNorm2d(4, momentum=0.2))
    layout = WeightLayout.of(network)
    assert [name for name, _ in layout.tensors][1:5] == [
        *("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    ]
    start = layout.vectorize(network.state_dict())[None].detach()
    images, labels = random_images(SmallCNNConfig(**SMALL))
    for engine in (LoopEngine(), VmapEngine()):
        population = Population.start(network, Recipe("sgd", 0.0, batch_size=len(images)), start)
        engine.train_epoch(population, images, labels, image_order([0], 1, len(labels)))
        seen = layout.unvectorize(population.weights[0])
        maps = network.stem(images).detach()
        torch.testing.assert_close(seen["norm.running_mean"], 0.2 * maps.mean((0, 2, 3)))
        torch.testing.assert_close(seen["norm.running_var"], 0.8 + 0.2 * maps.var((0, 2, 3)))
        network.load_state_dict(seen, strict=False)
        expected = nn.functional.cross_entropy(network.eval()(images), labels)
        torch.testing.assert_close(engine.evaluate(network, population.weights, images, labels).loss[0], expected)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (nn.BatchNorm2d(4, momentum=None), "module 'norm' keeps running statistics with momentum None"),
        (nn.Dropout(0.5), r"module 'norm' drops activations with p=0\.5; set it to 0"),
    ],
)
def test_modules_with_endless_memory_or_randomness_are_refused(part, message):
    network = OtherNetwork(part)
    images, labels = random_images(SmallCNNConfig(**SMALL))
    weights = WeightLayout.of(network).vectorize(network.state_dict())[None].detach()
    for engine in ENGINES[:2]:
        with pytest.raises(UserError, match=message):
            engine.evaluate(network, weights, images, labels)


def test_dropout_drops_its_share_and_keeps_the_mean():
    keys, rates = dropout_keys([1, 2, 3], 1), torch.tensor([0.0, 0.2, 0.5])
    factors = dropout_factors(keys, rates, torch.arange(200), units=300)
    dropped = (factors == 0).float()
    torch.testing.assert_close(dropped.mean(dim=(1, 2)), rates, atol=0.01, rtol=0)
    torch.testing.assert_close(factors.mean(dim=(1, 2)), torch.ones(3), atol=0.02, rtol=0)
    # no unit and no image is dropped more often than chance, and neighbours are independent
    for share in (dropped[2].mean(0), dropped[2].mean(1)):
        assert (share - 0.5).abs().max() < 0.2
    assert torch.corrcoef(dropped[2])[0, 1:].abs().max() < 0.3
    assert torch.corrcoef(dropped[2].T)[0, 1:].abs().max() < 0.35


def test_dropout_depends_on_seed_epoch_image_and_unit_alone():
    rates = torch.tensor([0.5])
    whole = dropout_factors(dropout_keys([7], 2), rates, torch.arange(20), units=30)
    part = dropout_factors(dropout_keys([7], 2), rates, torch.arange(8, 12), units=30)
    assert torch.equal(whole[:, 8:12], part)
    for seed, epoch in [(7, 3), (8, 2), (2, 7)]:
        other = dropout_factors(dropout_keys([seed], epoch), rates, torch.arange(20), units=30)
        assert 0.3 < (other != whole).float().mean() < 0.7


@every_engine
def test_models_may_differ_in_dropout(engine):
    """Each as in a population of its own rate; and a rate of zero is no dropout at all."""
    network, recipe = SmallCNNConfig(**SMALL), Recipe("adam", batch_size=BATCH_SIZE)
    images, labels = random_images(network)
    rates = [0.0, 0.2, 0.5]

    def trained(dropouts: list[float], seeds: list[int]) -> Tensor:
        population = Population.start(network, recipe, initial_weights(network, seeds))
        population.dropouts = torch.tensor(dropouts)
        population.dropout_keys = dropout_keys(seeds, 1)
        engine.train_epoch(population, images, labels, image_order(seeds, 1, len(labels)))
        return population.weights

    together = trained(rates, SEEDS[:3])
    for i, rate in enumerate(rates):
        torch.testing.assert_close(together[i : i + 1], trained([rate], SEEDS[i : i + 1]), rtol=0, atol=5e-5)
    plain = Population.start(network, recipe, initial_weights(network, SEEDS[:1]))
    engine.train_epoch(plain, images, labels, image_order(SEEDS[:1], 1, len(labels)))
    torch.testing.assert_close(together[:1], plain.weights, rtol=0, atol=5e-5)


@every_engine
def test_dropout_needs_keys(engine):
    network = SmallCNNConfig(**SMALL, dropout=0.5)
    images, labels = random_images(network)
    population = Population.start(network, Recipe(), initial_weights(network, [1]))
    with pytest.raises(UserError, match="set dropout_keys before every epoch"):
        engine.train_epoch(population, images, labels, image_order([1], 1, len(labels)))


@every_engine
def test_a_batch_may_be_larger_than_the_epoch_or_one_image(engine):
    network = SmallCNNConfig(**SMALL)
    for batch_size, steps in [(100, 1), (1, NUM_IMAGES)]:
        recipe = Recipe("adam", batch_size=batch_size)
        population, _ = train(engine, network, recipe, epochs=1)
        expected, _ = train(LoopEngine(), network, recipe, epochs=1)
        assert population.steps == steps
        torch.testing.assert_close(population.weights, expected.weights, rtol=0, atol=5e-5)


@every_engine
def test_training_goes_on_from_a_stored_state(engine):
    """Weights, both moments and the step count are the whole state."""
    network, recipe = SmallCNNConfig(**SMALL), Recipe("adam", batch_size=BATCH_SIZE)
    images, labels = random_images(network)
    straight, _ = train(engine, network, recipe, epochs=3)
    first, _ = train(engine, network, recipe, epochs=2)
    state = (first.weights.clone(), first.first_moment.clone(), first.second_moment.clone(), first.steps)
    resumed = Population(network, recipe, *state, LEARNING_RATES, WEIGHT_DECAYS)
    engine.train_epoch(resumed, images, labels, image_order(SEEDS, 3, len(labels)))
    assert torch.equal(resumed.weights, straight.weights)
    assert torch.equal(resumed.second_moment, straight.second_moment)


@every_engine
def test_a_model_is_trained_the_same_with_other_companions(engine):
    network, recipe = SmallCNNConfig(**SMALL), Recipe("adam", batch_size=BATCH_SIZE)
    together, _ = train(engine, network, recipe)
    alone, _ = train(engine, network, recipe, seeds=SEEDS[:1])
    # stacked matrix products may sum in another order; the loop and the native engine do not even do that
    tolerance = 5e-5 if engine.name == "vmap" else 0
    assert (together.weights[:1] - alone.weights).abs().max() <= tolerance


def test_chunks_that_do_not_fit_the_memory_are_halved(monkeypatch):
    network, recipe = SmallCNNConfig(**SMALL), Recipe("sgd", batch_size=BATCH_SIZE)
    images, labels = random_images(network)
    expected, expected_results = train(VmapEngine(), network, recipe)
    sizes = []
    in_full = VmapEngine._train_chunk

    def within_memory(engine, population, chunk, *args):
        sizes.append(len(chunk))
        part = in_full(engine, population, chunk, *args) if len(chunk) <= 2 else None
        if part is None:
            raise torch.OutOfMemoryError
        return part

    monkeypatch.setattr(VmapEngine, "_train_chunk", within_memory)
    engine = VmapEngine()
    population, results = train(engine, network, recipe)
    assert sizes[:4] == [5, 2, 2, 1]  # of five networks
    assert engine.models_per_chunk == 2
    assert_close(population.weights, expected.weights, atol=1e-5, rtol=1e-5)
    assert_close(results[-1].loss, expected_results[-1].loss)
    evaluation = engine.evaluate(network, population.weights, images, labels, predictions=True)
    assert evaluation.predictions.shape == (5, len(labels))


def test_one_network_that_does_not_fit_is_an_error(monkeypatch):
    def no_memory(*args):
        raise torch.OutOfMemoryError("of this much there is none")

    monkeypatch.setattr(VmapEngine, "_train_chunk", no_memory)
    with pytest.raises(torch.OutOfMemoryError, match="there is none"):
        train(VmapEngine(), SmallCNNConfig(**SMALL), Recipe(batch_size=BATCH_SIZE))


def test_a_population_starts_from_a_copy_with_a_fresh_optimiser():
    weights = torch.ones(2, 3, dtype=torch.float64)
    population = Population.start(SmallCNNConfig(), Recipe(learning_rate=0.5), weights)
    population.weights += 1
    assert (weights == 1).all()
    assert population.weights.dtype == torch.float32
    assert population.steps == 0
    assert not population.first_moment.any()
    assert not population.second_moment.any()
    assert population.per_model("learning_rate").tolist() == [0.5, 0.5]
    population.weight_decays = torch.tensor([0.1, 0.2])
    assert population.per_model("weight_decay").tolist() == pytest.approx([0.1, 0.2])


def test_recipes_are_checked():
    with pytest.raises(UserError, match="'rmsprop' is unknown; choose from adam, adamw, sgd"):
        Recipe("rmsprop")
    with pytest.raises(UserError, match="batch_size is 0"):
        Recipe(batch_size=0)


# ---------------------------------------------------------------------------------------------- choice of engine


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setattr(native_compile, "COMPILERS", ("no-such-compiler",))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    native_compile.load_library.cache_clear()
    yield
    native_compile.load_library.cache_clear()


def test_without_a_compiler_auto_falls_back_to_vmap_and_says_so(no_compiler, caplog):
    with caplog.at_level(logging.WARNING):
        engine = choose_engine("auto", SmallCNNConfig())
    assert type(engine) is VmapEngine
    assert "falling back to the vmap engine" in caplog.text
    assert "no C++ compiler was found" in caplog.text


def test_without_a_compiler_native_by_name_is_an_error(no_compiler):
    with pytest.raises(UserError, match=r"native engine cannot be used: no C\+\+ compiler was found"):
        choose_engine("native", SmallCNNConfig())


def test_a_compiler_that_fails_is_no_compiler(no_compiler, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("CXX", "false")  # finds the program, which then refuses every source
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert type(choose_engine("auto", SmallCNNConfig())) is VmapEngine
    assert "failed on engine.cpp" in caplog.text
    assert list(tmp_path.rglob("*.so")) == []


def test_a_network_the_kernels_do_not_cover_goes_to_vmap(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = SmallCNNConfig(image_size=120, pool_sizes=[17, 1, 1])
    with caplog.at_level(logging.WARNING):
        assert type(choose_engine("auto", config)) is VmapEngine
    assert "are not covered" in caplog.text
    with pytest.raises(UserError, match="are not covered"):
        choose_engine("native", config)


def test_engines_by_name():
    assert type(choose_engine("loop", SmallCNNConfig())) is LoopEngine
    assert type(choose_engine("vmap", SmallCNNConfig())) is VmapEngine
    with pytest.raises(UserError, match="'jax' is unknown; choose from auto, cuda, native, vmap, loop"):
        choose_engine("jax", SmallCNNConfig())


@pytest.mark.skipif(not have_compiler(), reason="no C++ compiler")
def test_auto_is_native_where_there_is_a_compiler(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert type(choose_engine("auto", SmallCNNConfig())) is NativeEngine
