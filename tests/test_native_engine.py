"""The C++ kernels: networks never feel their neighbours, gradients are those of autograd, mistakes are refused."""

import pytest
import torch
from native_helpers import LANES, bits, random_images
from populations import SMALL as NETWORK
from torch import Tensor

from hyperrep.networks import SmallCNNConfig, SmallCNNForImageClassification, initial_weights, num_params
from hyperrep.population import Evaluation, Population, Recipe, image_order
from hyperrep.population.loop import LoopEngine
from hyperrep.population.native import NativeEngine
from hyperrep.population.native import compile as native_compile
from hyperrep.population.native import engine as native_engine
from hyperrep.weights import WeightLayout


# --------------------------------------------------------------------------------------------------- neighbours


def train(engine: NativeEngine, recipe: Recipe, seeds: list[int], rates: Tensor) -> tuple[Population, Evaluation]:
    network = SmallCNNConfig(**NETWORK)
    images, labels = random_images(network)
    population = Population.start(network, recipe, initial_weights(network, seeds))
    population.learning_rates = rates
    for epoch in (1, 2):
        result = engine.train_epoch(population, images, labels, image_order(seeds, epoch, len(labels)))
    return population, result


def assert_same_bits(one: Population, other: Population, rows: slice = slice(None)) -> None:
    for name in ("weights", "first_moment", "second_moment"):
        assert torch.equal(bits(getattr(one, name)), bits(getattr(other, name)[rows])), name


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_network_is_the_same_to_the_bit_alone_in_any_group_and_with_any_threads(optimizer):
    recipe = Recipe(optimizer, weight_decay=0.01, batch_size=10)
    seeds = list(range(2 * LANES + 3))  # two full groups and a rest
    rates = torch.linspace(1e-4, 1e-2, len(seeds))
    together, result = train(NativeEngine(threads=1), recipe, seeds, rates)
    threaded, threaded_result = train(NativeEngine(threads=2), recipe, seeds, rates)
    assert_same_bits(threaded, together)
    assert torch.equal(threaded_result.loss, result.loss)

    for i in (0, LANES - 1, LANES, 2 * LANES + 2):
        alone, alone_result = train(NativeEngine(threads=2), recipe, [seeds[i]], rates[i : i + 1])
        assert_same_bits(alone, together, slice(i, i + 1))
        assert alone_result.loss[0] == result.loss[i]
        assert alone_result.accuracy[0] == result.accuracy[i]

    backwards, _ = train(NativeEngine(threads=2), recipe, seeds[::-1], rates.flip(0))
    backwards.weights = backwards.weights.flip(0)
    assert torch.equal(bits(backwards.weights), bits(together.weights))


def test_evaluation_is_the_same_to_the_bit_alone_in_any_group_and_with_any_threads():
    network = SmallCNNConfig(**NETWORK)
    images, labels = random_images(network)
    weights = initial_weights(network, list(range(2 * LANES + 3)))
    expected = NativeEngine(threads=1).evaluate(network, weights, images, labels, predictions=True)
    threaded = NativeEngine(threads=2).evaluate(network, weights, images, labels, predictions=True)
    for name in ("loss", "accuracy", "predictions"):
        assert torch.equal(getattr(threaded, name), getattr(expected, name))
    for i in (0, LANES, 2 * LANES + 2):
        alone = NativeEngine(threads=1).evaluate(network, weights[i : i + 1], images, labels, predictions=True)
        assert torch.equal(alone.predictions[0], expected.predictions[i])
        assert alone.loss[0] == expected.loss[i]


def test_without_predictions_there_are_none():
    network = SmallCNNConfig(**NETWORK)
    result = NativeEngine(threads=1).evaluate(network, initial_weights(network, [0]), *random_images(network))
    assert result.predictions is None


def test_a_network_that_diverged_stays_in_its_lane():
    network, seeds = SmallCNNConfig(**NETWORK), [1, 2, 3]
    images, labels = random_images(network)
    engine, recipe = NativeEngine(threads=1), Recipe("adam", learning_rate=1e-3)
    order = image_order(seeds, 1, len(labels))
    healthy = Population.start(network, recipe, initial_weights(network, seeds))
    expected = engine.train_epoch(healthy, images, labels, order)
    sick = Population.start(network, recipe, initial_weights(network, seeds))
    sick.weights[1, 0] = torch.nan
    sick.weights[1, -5:] = torch.inf
    result = engine.train_epoch(sick, images, labels, order)
    assert result.loss[1].isnan()
    assert sick.weights[1].isnan().any()
    for i in (0, 2):
        assert torch.equal(bits(sick.weights[i]), bits(healthy.weights[i]))
        assert result.loss[i] == expected.loss[i]


def test_long_epochs_are_worked_on_in_pieces_with_the_same_result(monkeypatch):
    """Groups take turns on the threads; the cuts must fall between batches, and steps must count on."""
    recipe, seeds, rates = Recipe("adam", batch_size=4), [0, 1, 2], torch.full((3,), 1e-3)
    monkeypatch.setattr(native_engine, "SMALLEST_SLICE", 100)
    expected, expected_result = train(NativeEngine(threads=1), recipe, seeds, rates)
    monkeypatch.setattr(native_engine, "SMALLEST_SLICE", 8)  # two batches of four a call
    pieces, result = train(NativeEngine(threads=1), recipe, seeds, rates)
    assert_same_bits(pieces, expected)
    assert torch.equal(result.accuracy, expected_result.accuracy)
    network = SmallCNNConfig(**NETWORK)
    images, _ = random_images(network)
    in_pieces = NativeEngine(threads=1).logits(network, expected.weights, images)
    monkeypatch.undo()
    assert torch.equal(in_pieces, NativeEngine(threads=1).logits(network, expected.weights, images))


# ----------------------------------------------------------------------------------------------- gradients and ties


def autograd(network: SmallCNNConfig, vector: Tensor, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and gradient of one network by PyTorch, in float64."""
    model = SmallCNNForImageClassification(network).double()
    layout = WeightLayout.of(model)
    model.load_state_dict(layout.unvectorize(vector.double()))
    loss = torch.nn.functional.cross_entropy(model(images.double()).logits, targets.double())
    loss.backward()
    return loss.detach(), layout.vectorize({name: p.grad for name, p in model.named_parameters()})


def assert_gradient_equals_autograd(network: SmallCNNConfig, weights: Tensor, images: Tensor, atol: float = 1e-6):
    generator = torch.Generator().manual_seed(1)
    targets = torch.randn(len(weights), len(images), network.num_labels, generator=generator).mul(2).softmax(-1)
    loss, gradient = NativeEngine(threads=1).loss_and_gradient(network, weights, images, targets)
    assert gradient.abs().max() > 1e-3
    for i in range(len(weights)):
        expected_loss, expected = autograd(network, weights[i], images, targets[i])
        assert loss[i].item() == pytest.approx(expected_loss.item(), rel=1e-5)
        torch.testing.assert_close(gradient[i].double(), expected, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu", "sigmoid"])
def test_gradient_for_every_activation(activation):
    network = SmallCNNConfig(**NETWORK, hidden_act=activation)
    assert_gradient_equals_autograd(network, initial_weights(network, list(range(5))), random_images(network)[0])


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("pool_size", [1, 2, 3, 4])
def test_gradient_for_every_kernel_and_pool(kernel_size, pool_size):
    """Two convolutions, so that the input's gradient counts; sizes that windows and tiles do not divide."""
    network = SmallCNNConfig(
        num_channels=2,
        image_size=5 + 6 * pool_size + kernel_size,
        conv_channels=[3, 5],
        conv_kernel_sizes=[3, kernel_size],
        pool_sizes=[2, pool_size],
        hidden_sizes=[],
        num_labels=3,
        initializer="xavier_normal",
    )
    assert_gradient_equals_autograd(network, initial_weights(network, [0, 1]), random_images(network, 4)[0], atol=3e-6)


@pytest.mark.parametrize("pool_size", [2, 3])
def test_the_first_of_equals_wins_a_pool_as_in_pytorch(pool_size):
    """Ties are exact: pixels are 0 or 1 and a kernel is one weight, so rounding cannot break them. A second channel,
    which the weights do not see but their gradient does, tells the pixels apart."""
    network = SmallCNNConfig(
        num_channels=2,
        image_size=2 * pool_size,
        conv_channels=[3],
        conv_kernel_sizes=[1],
        pool_sizes=[pool_size],
        hidden_sizes=[],
        num_labels=2,
        hidden_act="relu",
        initializer="normal",
    )
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 2, (20, 2, 2 * pool_size, 2 * pool_size), generator=generator).float()
    images[:, 1] = torch.randn(images[:, 1].shape, generator=generator)
    layout = WeightLayout.of(SmallCNNForImageClassification(network))
    tensors = layout.unvectorize(initial_weights(network, [0]))
    tensors["convs.0.weight"][0, :, 0, 0, 0] = torch.tensor([2.0, -1.0, 0.5])  # -1: zeros and ones change roles
    tensors["convs.0.weight"][0, :, 1] = 0.0
    tensors["convs.0.bias"][:] = 1.5
    assert_gradient_equals_autograd(network, layout.vectorize(tensors), images)


@pytest.mark.parametrize("pool_size", [2, 3])
def test_nan_wins_a_pool_as_in_pytorch(pool_size):
    """One bad pixel, at the end of a window, must show in the outputs instead of vanishing in a maximum."""
    network = SmallCNNConfig(**NETWORK | {"conv_kernel_sizes": [1, 2], "pool_sizes": [pool_size, 1]})
    images, _ = random_images(network, 3)
    images[1, 0, pool_size - 1, pool_size - 1] = torch.nan
    weights = initial_weights(network, [0])
    logits = NativeEngine(threads=1).logits(network, weights, images)[0]
    assert logits.isnan().any(dim=1).tolist() == [False, True, False]


@pytest.mark.parametrize("value", [0.0, 1.0, -0.4242])
@pytest.mark.parametrize("network", [{}, NETWORK | {"hidden_act": "relu"}], ids=["poster", "small"])
def test_constant_images_train_as_in_the_loop(value, network):
    """Borders of digits are constant: every pooling window is then a tie. A tie broken differently would give the
    first layer another gradient only if the pixels differed, so weights must follow the loop."""
    network = SmallCNNConfig(**network)
    images = torch.full((20, 1, network.image_size, network.image_size), value)
    labels = torch.arange(20) % network.num_labels
    results = []
    for engine in (LoopEngine(), NativeEngine(threads=1)):
        population = Population.start(network, Recipe("sgd", learning_rate=1e-2), initial_weights(network, [0, 1]))
        evaluation = engine.train_epoch(population, images, labels, image_order([0, 1], 1, 20))
        results.append((population.weights, evaluation.loss))
    torch.testing.assert_close(*(weights for weights, _ in results), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(*(loss for _, loss in results), rtol=1e-5, atol=1e-5)


def test_large_logits_do_not_overflow_the_loss():
    network = SmallCNNConfig(**NETWORK)
    images, labels = random_images(network)
    weights = initial_weights(network, [0, 1]) * 1e4
    targets = torch.nn.functional.one_hot(labels, 4).float().expand(2, -1, -1)
    loss, gradient = NativeEngine(threads=1).loss_and_gradient(network, weights, images, targets)
    expected = LoopEngine().evaluate(network, weights, images, labels).loss
    assert expected.min() > 1000
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
    assert gradient.isfinite().all()


# ----------------------------------------------------------------------------------------------------------- arguments


SKIPS = {
    "image_size": 12,
    "conv_channels": [2, 2, 2],
    "conv_kernel_sizes": [3, 2, 2],
    "pool_sizes": [2, 1, 1],
    "num_channels": 2,
    "skips": [[0, 2, "identity"], [1, 2, "conv"], [1, 3, "identity"], [2, 3, "conv"]],
}


def test_the_kernels_read_as_many_parameters_as_the_network_has():
    """Counted once for the door to the engines, once by the kernels, and once from the model itself."""
    library = native_compile.load_library()
    for architecture in ({}, NETWORK, {"conv_channels": [], "conv_kernel_sizes": [], "pool_sizes": []}, SKIPS):
        network = SmallCNNConfig(**architecture)
        expected = WeightLayout.of(SmallCNNForImageClassification(network)).num_params
        assert num_params(network) == expected
        assert native_engine._call(library.hyperrep_parameters, native_engine._describe(network)) == expected


def test_any_layout_and_type_of_numbers_is_taken():
    network, recipe, seeds = SmallCNNConfig(**NETWORK), Recipe(), [0, 1, 2]
    images, labels = random_images(network)
    order = image_order(seeds, 1, len(labels))
    plain, strided = (Population.start(network, recipe, initial_weights(network, seeds)) for _ in range(2))
    strided.weights = strided.weights.T.contiguous().T
    NativeEngine(threads=1).train_epoch(plain, images, labels, order)
    NativeEngine(threads=1).train_epoch(strided, images.double(), labels.int(), order.T.contiguous().T)
    assert torch.equal(plain.weights, strided.weights)


def test_interrupted_training_leaves_the_population_as_it_was(monkeypatch):
    monkeypatch.setattr(native_engine, "SMALLEST_SLICE", 8)
    network, recipe = SmallCNNConfig(**NETWORK), Recipe()
    images, labels = random_images(network)
    population = Population.start(network, recipe, initial_weights(network, [0]))
    before, engine = population.weights.clone(), NativeEngine(threads=1)
    slices, train_slice = [], engine.library.hyperrep_train

    class Interrupted:
        def __getattr__(self, name):
            return getattr(native_compile.load_library(), name)

        def hyperrep_train(self, *arguments):
            if slices:
                raise KeyboardInterrupt
            slices.append(train_slice(*arguments))

    monkeypatch.setattr(engine, "library", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        engine.train_epoch(population, images, labels, image_order([0], 1, len(labels)))
    assert torch.equal(population.weights, before)
    assert population.steps == 0
