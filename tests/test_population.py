"""Training populations: what defines a network, whole trainings, and populations as differentiable functions."""

import numpy as np
import pytest
import torch
from populations import (
    BATCH_SIZE,
    EPOCHS,
    LEARNING_RATES,
    NUM_IMAGES,
    SEEDS,
    SMALL,
    WEIGHT_DECAYS,
    every_engine,
    random_images,
    train,
)
from torch import Tensor

from hyperrep.images import ImageData, ImageSplit
from hyperrep.networks import SmallCNNConfig, SmallCNNForImageClassification, initial_weights
from hyperrep.population import (
    Recipe,
    image_order,
    population_answers,
    population_cross_entropy,
    population_logits,
    train_population,
)
from hyperrep.population.dropout import dropout_keys
from hyperrep.population.loop import LoopEngine
from hyperrep.weights import WeightLayout


def textbook(network: SmallCNNConfig, recipe: Recipe, index: int) -> tuple[Tensor, list[tuple[float, float]]]:
    """One network trained the way anybody would write it: one model, one optimiser, three epochs."""
    images, labels = random_images(network)
    model = SmallCNNForImageClassification(network)
    layout = WeightLayout.of(model)
    model.load_state_dict(layout.unvectorize(initial_weights(network, [SEEDS[index]])[0]))
    learning_rate, weight_decay = LEARNING_RATES[index].item(), WEIGHT_DECAYS[index].item()
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), learning_rate, momentum=0.9, weight_decay=weight_decay)
    else:
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
        optimizer = kind(model.parameters(), learning_rate, weight_decay=weight_decay)
    history = []
    for epoch in range(1, EPOCHS + 1):
        order = image_order([SEEDS[index]], epoch, len(labels))[0]
        loss_sum, hits = 0.0, 0
        for batch in order.split(recipe.batch_size):
            output = model(images[batch], labels=labels[batch])
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
            loss_sum += output.loss.item() * len(batch)
            hits += (output.logits.argmax(1) == labels[batch]).sum().item()
        history.append((loss_sum / len(labels), hits / len(labels)))
    return layout.vectorize(model.state_dict()), history


# ---------------------------------------------------------------------------------------------- what defines a network


def test_image_order_depends_on_seed_and_epoch_alone():
    alone = image_order([5], 3, 100)
    together = image_order([2, 5, 9], 3, 100)
    assert torch.equal(alone[0], together[1])
    rows = torch.cat([together, image_order([5], 4, 100)])
    assert len(rows.unique(dim=0)) == 4  # another seed or epoch is another order
    assert torch.equal(rows.sort(dim=1).values, torch.arange(100).expand(4, -1))
    # seed 1 in epoch 2 is not seed 2 in epoch 1
    assert not torch.equal(image_order([1], 2, 100), image_order([2], 1, 100))


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_the_loop_is_the_textbook(optimizer):
    """Bit for bit, though the loop puts its optimiser away and takes it up again after every epoch."""
    network, recipe = SmallCNNConfig(**SMALL), Recipe(optimizer, batch_size=BATCH_SIZE)
    population, results = train(LoopEngine(), network, recipe)
    for index in range(len(SEEDS)):
        weights, history = textbook(network, recipe, index)
        assert torch.equal(population.weights[index], weights)
        for result, (loss, accuracy) in zip(results, history, strict=True):
            assert result.loss[index].item() == pytest.approx(loss)
            assert result.accuracy[index].item() == pytest.approx(accuracy)


# ------------------------------------------------------------------------------------------------ a whole training


def learnable_images(network: SmallCNNConfig) -> ImageData:
    """Four noisy patterns, one a class: a network of a hundred parameters learns them in a few epochs."""
    generator = torch.Generator().manual_seed(2)
    patterns = torch.randn(4, 1, network.image_size, network.image_size, generator=generator)

    def split(count: int) -> ImageSplit:
        labels = torch.randint(4, (count,), generator=generator)
        return ImageSplit(patterns[labels] + 0.3 * torch.randn(count, 1, 10, 10, generator=generator), labels)

    return ImageData("patterns", list("abcd"), split(120), split(30), split(40), "none")


@every_engine
def test_train_population_yields_every_epoch_the_untrained_first(engine):
    network, seeds = SmallCNNConfig(**SMALL), [1, 2]
    images = learnable_images(network)
    recipe = Recipe("adam", learning_rate=5e-3)
    results = list(train_population(network, recipe, images, seeds, epochs=6, engine=engine))
    assert [result.epoch for result in results] == list(range(7))
    assert torch.equal(results[0].weights, initial_weights(network, seeds))
    assert not torch.equal(results[5].weights, results[6].weights)  # copies, not one tensor seven times

    reference = LoopEngine()
    untrained = reference.evaluate(network, results[0].weights, images.train.pixels, images.train.labels)
    torch.testing.assert_close(results[0].train.loss, untrained.loss, rtol=1e-5, atol=1e-5)
    for result in results:
        test = reference.evaluate(network, result.weights, images.test.pixels, images.test.labels)
        validation = reference.evaluate(network, result.weights, images.validation.pixels, images.validation.labels)
        metrics = result.metrics()
        torch.testing.assert_close(metrics["test_loss"], test.loss, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(metrics["test_accuracy"], test.accuracy)
        torch.testing.assert_close(metrics["validation_loss"], validation.loss, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(metrics["validation_accuracy"], validation.accuracy)
        gap = metrics["train_accuracy"] - metrics["test_accuracy"]
        torch.testing.assert_close(metrics["generalization_gap"], gap)
    assert (results[6].test.accuracy > 0.9).all()
    assert (results[6].train.loss < results[1].train.loss).all()
    # seen before each step, the training loss of an epoch lies above that of the weights it ends with
    after = reference.evaluate(network, results[1].weights, images.train.pixels, images.train.labels)
    assert (results[1].train.loss > after.loss).all()


def test_train_population_can_start_from_given_weights():
    network = SmallCNNConfig(**SMALL)
    images = learnable_images(network)
    weights = initial_weights(network, [100, 101])
    results = list(train_population(network, Recipe(), images, [1, 2], 1, LoopEngine(), weights=weights))
    assert torch.equal(results[0].weights, weights)
    assert torch.equal(weights, initial_weights(network, [100, 101]))  # and leaves them alone


# ---------------------------------------------------------------------------------------- differentiable populations


def answers_one_by_one(network: SmallCNNConfig, weights: Tensor, images: Tensor) -> Tensor:
    """Outputs (models, images, classes), by torch alone; differentiable."""
    model = SmallCNNForImageClassification(network).eval()
    layout = WeightLayout.of(model)
    tensors = (layout.unvectorize(vector) for vector in weights)
    return torch.stack([torch.func.functional_call(model, own, (images,)).logits for own in tensors])


@every_engine
def test_population_logits_are_the_networks_outputs(engine):
    network = SmallCNNConfig(**SMALL)
    images, _ = random_images(network)
    weights = initial_weights(network, SEEDS)
    logits = population_logits(network, weights.clone().requires_grad_(), images, engine)
    assert logits.shape == (len(SEEDS), NUM_IMAGES, 4)
    assert not logits.requires_grad
    torch.testing.assert_close(logits, answers_one_by_one(network, weights, images).detach(), rtol=1e-5, atol=1e-5)


@every_engine
@pytest.mark.parametrize("network", [SMALL, SMALL | {"hidden_act": "gelu"}, {}], ids=["tanh", "gelu", "poster"])
def test_population_cross_entropy_has_the_gradient_of_autograd(engine, network):
    network = SmallCNNConfig(**network)
    images, labels = random_images(network)
    weights = initial_weights(network, SEEDS)
    generator = torch.Generator().manual_seed(3)
    soft = torch.randn(len(SEEDS), NUM_IMAGES, network.num_labels, generator=generator).mul(2).softmax(-1)
    hard = torch.nn.functional.one_hot(labels, network.num_labels).float().expand_as(soft)
    upstream = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0])  # what comes from above differs by model
    model = SmallCNNForImageClassification(network)
    layout = WeightLayout.of(model)
    for targets in (soft, hard):
        leaf = weights.clone().requires_grad_()
        loss = population_cross_entropy(network, leaf, images, targets, engine)
        (loss * upstream).sum().backward()
        for i in range(len(SEEDS)):
            model.load_state_dict(layout.unvectorize(weights[i]))
            model.zero_grad()
            expected = torch.nn.functional.cross_entropy(model(images).logits, targets[i])
            expected.backward()
            gradient = layout.vectorize({name: p.grad for name, p in model.named_parameters()})
            torch.testing.assert_close(loss[i], expected, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(leaf.grad[i], upstream[i] * gradient, rtol=1e-4, atol=1e-5)


@every_engine
def test_any_loss_of_a_populations_answers_has_the_gradient_of_autograd(engine):
    network = SmallCNNConfig(**SMALL)
    images, _ = random_images(network)
    weights = initial_weights(network, SEEDS)

    def loss_of(answers):  # of all networks together, and no cross-entropy
        vote = answers.softmax(-1).mean(0)
        return 30 * (answers[1:] - answers[:-1]).square().mean() + vote.square().sum()

    leaf = weights.clone().requires_grad_()
    loss = loss_of(population_answers(network, leaf, images, engine))
    loss.backward()
    vectors = weights.clone().requires_grad_()
    expected = loss_of(answers_one_by_one(network, vectors, images))
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(leaf.grad, vectors.grad, rtol=1e-4, atol=1e-5)


def test_the_orders_of_images_and_the_keys_of_dropout_are_drawn_with_different_numbers(monkeypatch):
    """Sequences are padded with zeros: [seed, epoch] is [seed, epoch, 0]. The keys' third number is none."""

    def state(numbers):
        drawn.append(tuple(numbers))
        return sequence(numbers)

    drawn, sequence = [], np.random.SeedSequence
    monkeypatch.setattr(np.random, "SeedSequence", state)
    seeds, epochs = [0, 1, 2, 2**32 - 1], [0, 1, 2, 50]
    for epoch in epochs:
        image_order(seeds, epoch, 2)
        dropout_keys(seeds, epoch)
    states = {tuple(sequence(numbers).generate_state(4)) for numbers in drawn}
    assert len(states) == len(drawn) == 2 * len(seeds) * len(epochs)
