"""The native engine against PyTorch, and against itself in other groups.

Float32 sums depend on their order, and training amplifies the difference, so no fixed tolerance fits every
architecture. The measure here is exact arithmetic: the plain loop in float64. The native engine may be SLACK times as
far from it as the plain loop in float32 is, which is itself one particular order of summation.
"""

import ctypes
import math

import numpy as np
import pytest
import torch

from hyperrep.networks import SmallCNNConfig, initial_weights
from hyperrep.population import Population, Recipe, image_order
from hyperrep.population.loop import LoopEngine
from hyperrep.population.native import NativeEngine, NativeUnavailable
from hyperrep.population.native import compile as native_compile


try:
    ENGINE = NativeEngine()
except NativeUnavailable as reason:
    pytest.skip(f"no native engine here: {reason}", allow_module_level=True)

SLACK = 4
FLOOR = 2e-6  # relative to the largest number compared: a dozen roundings, where both happen to be nearly exact

ARCHITECTURES = {
    "poster": {},
    "poster-colour": {"num_channels": 3},
    "mlp": {"image_size": 6, "conv_channels": [], "conv_kernel_sizes": [], "pool_sizes": [], "hidden_sizes": [17, 9]},
    "linear": {"image_size": 5, "conv_channels": [], "conv_kernel_sizes": [], "pool_sizes": [], "hidden_sizes": []},
    # 13 -> 10 -> 3 (one row and column left over) -> 1
    "pool-3": {"image_size": 13, "conv_channels": [3, 5], "conv_kernel_sizes": [4, 3], "pool_sizes": [3, 1]},
    # 16 -> 9 -> 4 (left over) -> 4 -> 2 -> 2
    "large-kernel": {
        "image_size": 16,
        "conv_channels": [7, 2, 3],
        "conv_kernel_sizes": [8, 1, 3],
        "pool_sizes": [2, 1, 1],
        "hidden_sizes": [],
        "num_labels": 3,
    },
    # 15 -> 13 -> 6 (left over) -> 4 -> 2
    "three-by-three": {"image_size": 15, "conv_channels": [5, 6], "conv_kernel_sizes": [3, 3], "pool_sizes": [2, 2]},
    "no-pool": {"image_size": 9, "conv_channels": [4, 3], "conv_kernel_sizes": [5, 2], "pool_sizes": [1, 1]},
    "no-pool-even": {"image_size": 14, "conv_channels": [3, 9], "conv_kernel_sizes": [3, 2], "pool_sizes": [1, 4]},
}


def network(name: str = "poster", **changes) -> SmallCNNConfig:
    return SmallCNNConfig(**{"initializer": "kaiming_uniform", **ARCHITECTURES[name], **changes})


def data(config: SmallCNNConfig, count: int, seed: int = 0):
    """Random images with a constant background, whose convolutions tie within a pooling window."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, config.num_channels, config.image_size, config.image_size, generator=generator)
    images[..., : config.image_size // 3, :] = -0.5
    return images, torch.randint(0, config.num_labels, (count,), generator=generator)


def population(config: SmallCNNConfig, recipe: Recipe, models: int, dtype=torch.float32) -> Population:
    start = Population.start(config, recipe, initial_weights(config, list(range(models))))
    start.weights, start.first_moment, start.second_moment = (
        tensor.to(dtype) for tensor in (start.weights, start.first_moment, start.second_moment)
    )
    return start


def train(engine, config, recipe, models=3, epochs=1, count=23, dtype=torch.float32, per_model=None):
    """A population after some epochs, and its last epoch's evaluation."""
    images, labels = data(config, count)
    trained = population(config, recipe, models, dtype)
    for name, values in (per_model or {}).items():
        setattr(trained, name, values)
    torch.set_default_dtype(dtype)
    try:
        for epoch in range(1, epochs + 1):
            result = engine.train_epoch(trained, images.to(dtype), labels, image_order(range(models), epoch, count))
    finally:
        torch.set_default_dtype(torch.float32)
    return trained, result


def assert_as_close_as_torch(name, native, single, exact):
    scale = exact.abs().max().clamp_min(1e-30)
    ours, theirs = ((value.double() - exact).abs().max() / scale for value in (native, single))
    assert ours <= SLACK * theirs + FLOOR, f"{name}: {ours:.1e} from exact arithmetic, torch's float32 {theirs:.1e}"


def assert_follows_loop(config, recipe, **options):
    native, native_result = train(ENGINE, config, recipe, **options)
    single, single_result = train(LoopEngine(), config, recipe, **options)
    exact, exact_result = train(LoopEngine(), config, recipe, dtype=torch.float64, **options)
    for name in ("weights", "first_moment", "second_moment"):
        assert_as_close_as_torch(name, *(getattr(p, name) for p in (native, single, exact)))
    assert_as_close_as_torch("loss", *(result.loss.double() for result in (native_result, single_result, exact_result)))
    assert native.steps == exact.steps
    torch.testing.assert_close(native_result.accuracy, exact_result.accuracy.float())
    start = population(config, recipe, len(native)).weights
    assert (exact.weights - start).abs().max() > 1e-4  # something was learned


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu", "sigmoid"])
def test_gradient(name, activation):
    # one step of gradient descent at rate 1: the change of the weights is the gradient, and so is the buffer
    recipe = Recipe(optimizer="sgd", learning_rate=1.0, batch_size=23)
    assert_follows_loop(network(name, hidden_act=activation), recipe)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_trajectory(name, optimizer):
    recipe = Recipe(optimizer=optimizer, learning_rate=3e-3, weight_decay=0.01, batch_size=5)  # a last batch of 3
    assert_follows_loop(network(name), recipe, epochs=3)


def test_saturated_trajectory():
    # U(0, 1) weights: deep in tanh's saturation
    assert_follows_loop(network(initializer="uniform"), Recipe(learning_rate=3e-3), epochs=3)


def test_learning_rate_and_weight_decay_per_model():
    per_model = {"learning_rates": torch.tensor([1e-3, 1e-2, 0.0]), "weight_decays": torch.tensor([0.0, 0.5, 0.1])}
    for optimizer in ("adam", "adamw", "sgd"):
        recipe = Recipe(optimizer=optimizer, batch_size=8)
        assert_follows_loop(network("three-by-three"), recipe, epochs=2, per_model=per_model)


def test_model_is_the_same_alone_in_any_group_and_on_any_number_of_threads():
    config, recipe, models = network(), Recipe(learning_rate=3e-3), ENGINE.lanes * 2 + 3
    images, labels = data(config, 47)
    order = image_order(range(models), 1, 47)

    def run(chosen, threads):
        trained = population(config, recipe, models)
        trained.weights, trained.first_moment, trained.second_moment = (
            tensor[chosen] for tensor in (trained.weights, trained.first_moment, trained.second_moment)
        )
        engine = NativeEngine(threads)
        result = engine.train_epoch(trained, images, labels, order[chosen])
        evaluation = engine.evaluate(config, trained.weights, images, labels, predictions=True)
        return [trained.weights, trained.second_moment, result.loss, evaluation.loss, evaluation.predictions]

    together = run(list(range(models)), threads=1)
    for chosen, threads in (
        (list(range(models)), 2),
        ([0], 1),
        ([models - 1], 2),
        ([5, 30, 2, 7, 1], 1),
        (list(reversed(range(models))), 3),
    ):
        for alone, expected in zip(run(chosen, threads), together):
            assert torch.equal(alone, expected[chosen])


def test_epoch_in_several_calls_goes_on_where_it_stopped():
    # moments and step count carry over: two epochs of 20 images are one of 40
    config, recipe = network("three-by-three"), Recipe(batch_size=5)
    images, labels = data(config, 20)
    order = image_order(range(4), 1, 20)
    halves, whole = population(config, recipe, 4), population(config, recipe, 4)
    for _ in range(2):
        ENGINE.train_epoch(halves, images, labels, order)
    ENGINE.train_epoch(whole, images, labels, torch.cat([order, order], dim=1))
    assert halves.steps == whole.steps == 8
    assert torch.equal(halves.weights, whole.weights)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_evaluate(name):
    config = network(name, initializer="uniform" if name == "poster" else "kaiming_uniform")
    images, labels = data(config, 301)
    weights = initial_weights(config, list(range(ENGINE.lanes + 1)))
    native = ENGINE.evaluate(config, weights, images, labels, predictions=True)
    loop = LoopEngine().evaluate(config, weights, images, labels, predictions=True)
    torch.testing.assert_close(native.loss, loop.loss, rtol=1e-5, atol=1e-6)
    # saturated networks give many images nearly the same logits: rounding may decide between two classes
    assert (native.predictions == loop.predictions).float().mean() > 0.99
    assert torch.equal(native.accuracy, (native.predictions == labels).float().mean(1))
    assert ENGINE.evaluate(config, weights, images, labels).predictions is None


def test_broken_model_keeps_to_its_lane():
    config, recipe = network(), Recipe()
    images, labels = data(config, 20)
    healthy, broken = population(config, recipe, 4), population(config, recipe, 4)
    broken.weights[1, 7] = torch.nan  # one convolution's weight: the maximum of a window with NaN is NaN
    broken.weights[2, -1] = torch.inf
    results = [ENGINE.train_epoch(p, images, labels, image_order(range(4), 1, 20)) for p in (healthy, broken)]
    assert broken.weights[1].isnan().any()
    assert results[1].loss[1].isnan() and not results[1].loss[2].isfinite()
    for model in (0, 3):
        assert torch.equal(broken.weights[model], healthy.weights[model])
        assert torch.equal(results[0].loss[model], results[1].loss[model])


def test_non_contiguous_and_double_inputs():
    config, recipe = network("three-by-three"), Recipe()
    images, labels = data(config, 20)
    order = image_order(range(3), 1, 20)
    plain, strided = population(config, recipe, 3), population(config, recipe, 3)
    strided.weights = strided.weights.T.contiguous().T
    ENGINE.train_epoch(plain, images, labels, order)
    ENGINE.train_epoch(strided, images.double(), labels.int(), order.T.contiguous().T)
    assert torch.equal(plain.weights, strided.weights)


def test_loss_and_gradient_with_soft_targets():
    config = network("three-by-three", hidden_act="gelu")
    images, _ = data(config, 12)
    weights = initial_weights(config, list(range(ENGINE.lanes + 2)))
    targets = torch.rand(len(weights), 12, 10, generator=torch.Generator().manual_seed(3)).softmax(-1)
    loss, gradient = ENGINE.loss_and_gradient(config, weights, images, targets)

    from hyperrep.population.vmap import stacked_logits

    exact = weights.double().requires_grad_()
    logits = stacked_logits(config, shared_images=True)(exact, images.double())
    expected = -(targets * logits.log_softmax(-1)).sum(-1).mean(1)
    expected.sum().backward()
    torch.testing.assert_close(loss, expected.detach().float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, exact.grad.float(), rtol=1e-3, atol=1e-5 * gradient.abs().max().item())


# ---------------------------------------------------------------------------------------- functions and compilation

FUNCTIONS = {"exp": (0, np.exp), "tanh": (1, np.tanh), "erf": (2, np.vectorize(math.erf))}


def apply(name: str, x: np.ndarray) -> np.ndarray:
    x = np.ascontiguousarray(np.resize(x, -(-len(x) // ENGINE.lanes) * ENGINE.lanes), np.float32)
    ENGINE.library.hyperrep_function(FUNCTIONS[name][0], ctypes.c_void_p(x.ctypes.data), len(x) // ENGINE.lanes)
    return x


def error_in_ulps(name: str, x: np.ndarray) -> float:
    x = x.astype(np.float32)
    exact = FUNCTIONS[name][1](x.astype(np.float64))
    ulp = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    return float((np.abs(apply(name, x)[: len(x)] - exact) / ulp).max())


def test_accuracy_of_functions():
    generator = np.random.default_rng(0)
    signs = generator.choice([-1, 1], 200_000)
    every_size = signs * np.exp(generator.uniform(-80, 80, 200_000))  # all magnitudes float32 has
    assert error_in_ulps("tanh", every_size) < 2.5
    assert error_in_ulps("tanh", np.linspace(-12, 12, 200_001)) < 2.5
    assert error_in_ulps("erf", np.concatenate([every_size, np.linspace(-6, 6, 50_001)])) < 3
    assert error_in_ulps("exp", np.linspace(-87, 88, 200_001)) < 2


def test_saturation_of_tanh():
    # what a saturated network learns through is 1 - tanh^2: exact where tanh differs from 1, and nothing where not
    assert (apply("tanh", np.linspace(9.1, 1e4, 1000)) == 1.0).all()
    x = np.linspace(4, 8.5, 10_001).astype(np.float32)
    exact = np.tanh(x.astype(np.float64)).astype(np.float32)
    bias = np.mean((apply("tanh", x)[: len(x)] - exact) / np.spacing(np.float32(0.5)))
    assert abs(bias) < 0.1


def test_special_values():
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-30, -1e-30], np.float32)
    tanh, erf, exp = (apply(name, x)[: len(x)] for name in ("tanh", "erf", "exp"))
    for y in (tanh, erf):
        np.testing.assert_array_equal(y[[0, 1, 2, 3]], [0, 0, 1, -1])
        assert np.signbit(y[1])
    np.testing.assert_allclose(tanh[5:], x[5:])
    assert np.isnan([tanh[4], erf[4], exp[4]]).all()


@pytest.mark.parametrize("flags", ["-march=x86-64", "-march=haswell"])
def test_fewer_lanes(flags, monkeypatch, tmp_path):
    """The same source without AVX-512, and without AVX."""
    if native_compile.platform.machine() != "x86_64" or ENGINE.lanes < 8:
        pytest.skip("needs an x86 processor with AVX2")
    monkeypatch.setenv("CXXFLAGS", flags)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native_compile.load_library.cache_clear()
    try:
        narrow = NativeEngine()
    finally:
        native_compile.load_library.cache_clear()
    assert narrow.lanes == {"-march=x86-64": 4, "-march=haswell": 8}[flags]
    for name in ("poster", "pool-3", "mlp"):
        config, recipe = network(name, hidden_act="gelu" if name == "mlp" else "tanh"), Recipe(learning_rate=3e-3)
        (native, _), (single, _), (exact, _) = (
            train(engine, config, recipe, models=9, epochs=2, dtype=dtype)
            for engine, dtype in ((narrow, torch.float32), (LoopEngine(), torch.float32), (LoopEngine(), torch.float64))
        )
        assert_as_close_as_torch("weights", native.weights, single.weights, exact.weights)


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr(native_compile.shutil, "which", lambda name: None)
    native_compile.load_library.cache_clear()
    try:
        with pytest.raises(NativeUnavailable, match=r"no C\+\+ compiler"):
            NativeEngine()
    finally:
        native_compile.load_library.cache_clear()


def test_outside_the_family():
    config = network()
    config.hidden_act = "silu"
    with pytest.raises(NativeUnavailable, match="silu"):
        NativeEngine.for_network(config)
