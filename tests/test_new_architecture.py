"""An architecture of somebody else's, defined here in a few lines, goes the whole way of the package."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from small_zoo import stacked_zoo
from tiny_zoo import TINY_SETTINGS
from torch import Tensor, nn
from training_runs import one_thread  # noqa: F401
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.activations import ACT2FN
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from hyperrep import HyperRepPipeline, KDESampler
from hyperrep.errors import UserError
from hyperrep.evaluation import Bench, Finetune
from hyperrep.images import load_images
from hyperrep.networks import (
    SmallCNNConfig,
    dropout_rate,
    has_layout,
    initial_weights,
    input_shape,
    layout_of,
    network_from,
    new_module,
    num_classes,
    num_params,
    processor_from,
)
from hyperrep.population import (
    Population,
    Recipe,
    choose_engine,
    image_order,
    population_cross_entropy,
    train_population,
)
from hyperrep.population.loop import LoopEngine
from hyperrep.population.vmap import VmapEngine
from hyperrep.representation import HyperRepModel
from hyperrep.training import TrainingConfig, train
from hyperrep.training.data import TrainingData
from hyperrep.weights import WeightLayout
from hyperrep.zoo import Protocol, load_zoo, zoo_images


# ------------------------------------------------------------------------------------- all that an architecture takes


class ToyConfig(PreTrainedConfig):
    model_type = "toy_mlp_of_a_test"

    num_channels: int = 1
    image_size: int = 6
    hidden_size: int = 5
    hidden_act: str = "relu"
    num_hidden_layers: int = 1


class ToyForImageClassification(PreTrainedModel):
    config_class = ToyConfig
    main_input_name = "pixel_values"

    def __init__(self, config: ToyConfig):
        super().__init__(config)
        widths = [config.num_channels * config.image_size**2] + [config.hidden_size] * config.num_hidden_layers
        self.layers = nn.ModuleList(nn.Linear(widths[i], widths[i + 1]) for i in range(len(widths) - 1))
        self.classifier = nn.Linear(widths[-1], config.num_labels)
        self.register_buffer("scale", torch.tensor(2.0))  # no weight, and no part of the layout
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.2)
            nn.init.constant_(module.bias, 0.125)

    def forward(self, pixel_values: Tensor, **kwargs) -> ImageClassifierOutputWithNoAttention:
        hidden = self.scale * pixel_values.flatten(1)
        for layer in self.layers:
            hidden = ACT2FN[self.config.hidden_act](layer(hidden))
        return ImageClassifierOutputWithNoAttention(logits=self.classifier(hidden))


class DroppingConfig(ToyConfig):
    model_type = "toy_mlp_of_a_test_that_drops"

    dropout: float = 0.5

    @property
    def hidden_units(self) -> list[int]:
        return [self.hidden_size]


class DroppingForImageClassification(ToyForImageClassification):
    config_class = DroppingConfig

    def forward(self, pixel_values: Tensor, dropout_factors: Tensor | None = None, **kwargs):
        hidden = torch.relu(self.layers[0](pixel_values.flatten(1)))
        hidden = hidden if dropout_factors is None else hidden * dropout_factors
        return ImageClassifierOutputWithNoAttention(logits=self.classifier(hidden))


for config, model in ((ToyConfig, ToyForImageClassification), (DroppingConfig, DroppingForImageClassification)):
    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModelForImageClassification.register(config, model, exist_ok=True)


PROTOCOL = Protocol(
    "toy",
    "Toy",
    images="digits",
    network={"model_type": ToyConfig.model_type, "hidden_act": "tanh"},
    image_processor={"image_size": 6, "image_mean": [0.3], "image_std": [0.35]},
    recipe=Recipe("adam", learning_rate=1e-2, batch_size=10),
    epochs=2,
    validation_fraction=0.2,
)
NETWORK = ToyConfig(num_labels=10)
SEEDS = [3, 1, 4]


@pytest.fixture(scope="module")
def images():
    return load_images("digits", PROTOCOL.processor(), PROTOCOL.validation_fraction, max_images=60)


@pytest.fixture(scope="module")
def zoo(images, tmp_path_factory) -> Path:
    return stacked_zoo(PROTOCOL, images, tmp_path_factory.mktemp("zoo") / "toy")


@pytest.fixture(scope="module")
def representation(zoo, tmp_path_factory) -> Path:
    """Trained with all that runs networks or asks for their symmetry."""
    changes = {"num_train_epochs": 1, "behavior_weight": 0.1, "shuffled_weight": 0.1, "behavior_images": 2}
    output = tmp_path_factory.mktemp("model") / "toy"
    results = train(TrainingConfig.from_dict(TINY_SETTINGS | changes | {"align": True}), zoo, output)
    assert 0 <= results["validation"]["accuracy"]["reconstruction"]["mean"] <= 1
    return output


def test_what_it_is_stands_in_its_configuration():
    assert input_shape(NETWORK) == (1, 6, 6)
    assert input_shape(ToyConfig(image_size=[4, 8], num_channels=3)) == (3, 4, 8)
    assert num_classes(NETWORK) == 10
    assert num_params(NETWORK) == 36 * 5 + 5 + 5 * 10 + 10
    names = [name for name, _ in layout_of(NETWORK).tensors]
    assert names == ["layers.0.weight", "layers.0.bias", "classifier.weight", "classifier.bias"]
    assert isinstance(new_module(NETWORK), ToyForImageClassification)
    with pytest.raises(UserError, match="ToyConfig has num_channels 1 and image_size None"):
        input_shape(ToyConfig(image_size=None))
    with pytest.raises(UserError, match=r"ToyConfig has dropout 0\.5, but no hidden_units"):
        dropout_rate(ToyConfig(dropout=0.5))


def test_initial_weights_come_from_the_seed_alone_by_the_models_own_rule():
    torch.manual_seed(7)
    state = torch.get_rng_state()
    weights = initial_weights(NETWORK, SEEDS)
    new_module(NETWORK)
    assert torch.equal(torch.get_rng_state(), state)
    assert weights.shape == (3, num_params(NETWORK))
    assert weights.dtype == torch.float32
    torch.manual_seed(8)
    assert torch.equal(initial_weights(NETWORK, SEEDS[::-1]), weights.flip(0))
    assert len(weights.unique(dim=0)) == 3
    tensors = layout_of(NETWORK).unvectorize(weights)
    assert (tensors["layers.0.bias"] == 0.125).all()
    assert tensors["layers.0.weight"].std().item() == pytest.approx(0.2, rel=0.15)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_loop_and_vmap_train_the_same_networks(images, optimizer):
    recipe, start = Recipe(optimizer, learning_rate=1e-2), initial_weights(NETWORK, SEEDS)
    found = {}
    for engine in (LoopEngine(), VmapEngine(models_per_chunk=2)):
        population = Population.start(NETWORK, recipe, start)
        order = image_order(SEEDS, 1, len(images.train))
        training = engine.train_epoch(population, images.train.pixels, images.train.labels, order)
        tested = engine.evaluate(NETWORK, population.weights, images.test.pixels, images.test.labels)
        found[engine.name] = (population.weights, training.loss, tested.loss)
    assert (found["loop"][0] - start).norm(dim=1).min() > 0.05
    torch.testing.assert_close(found["vmap"], found["loop"], rtol=1e-4, atol=1e-5)


def test_loop_and_vmap_drop_the_same_units(images):
    recipe, trained = Recipe("sgd", learning_rate=1e-2), {}
    for rate in (0.5, 0.0):
        network = DroppingConfig(num_labels=10, dropout=rate)
        for engine in (LoopEngine(), VmapEngine()):
            *_, last = train_population(network, recipe, images, SEEDS, 1, engine)
            trained[rate, engine.name] = last.weights
    for rate in (0.5, 0.0):
        torch.testing.assert_close(trained[rate, "vmap"], trained[rate, "loop"], rtol=1e-4, atol=1e-5)
    assert (trained[0.5, "loop"] - trained[0.0, "loop"]).norm(dim=1).min() > 0.01
    with pytest.raises(UserError, match="leave dropouts out"):
        list(train_population(NETWORK, recipe, images, SEEDS, 1, LoopEngine(), dropouts=torch.full((3,), 0.5)))


def test_its_loss_is_differentiable_by_its_weights(images):
    weights = initial_weights(NETWORK, SEEDS).requires_grad_()
    labels = images.train.labels
    targets = nn.functional.one_hot(labels, 10).float().expand(3, -1, -1)
    losses = population_cross_entropy(NETWORK, weights, images.train.pixels, targets, VmapEngine())
    losses.sum().backward()
    model = ToyForImageClassification(NETWORK)
    model.load_state_dict(layout_of(NETWORK).unvectorize(weights[1].detach()), strict=False)
    loss = nn.functional.cross_entropy(model(images.train.pixels).logits, labels)
    loss.backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    torch.testing.assert_close((losses[1], weights.grad[1]), (loss, expected))


def test_auto_falls_back_to_vmap_and_native_says_why(caplog):
    assert choose_engine("auto", NETWORK).name == "vmap"
    with pytest.raises(UserError, match="trains small CNNs, not a ToyConfig; take vmap"):
        choose_engine("native", NETWORK)


def test_a_zoo_of_it_is_built_and_loaded(zoo, images):
    loaded = load_zoo(zoo)
    assert loaded.config.network["model_type"] == ToyConfig.model_type
    network = loaded.config.network_config()
    assert isinstance(network, ToyConfig)
    assert network.hidden_act == "tanh"
    rows = loaded["train"]
    untrained = rows[rows.epoch == 0]
    assert torch.equal(untrained.weights, initial_weights(network, untrained.seed.tolist()))
    tested = LoopEngine().evaluate(network, rows.weights, images.test.pixels, images.test.labels)
    torch.testing.assert_close(rows.metrics["test_loss"], tested.loss, rtol=1e-4, atol=1e-5)
    card = (zoo / "README.md").read_text()
    assert "| network | toy_mlp_of_a_test: num_channels 1, image_size 6, hidden_size 5, hidden_act tanh" in card
    assert "| initial weights | as its model initialises itself |" in card
    assert "None" not in card


def test_generated_networks_are_those_that_the_auto_classes_load(representation, zoo, images, tmp_path):
    model = HyperRepModel.from_pretrained(representation)
    data = TrainingData.from_zoo(load_zoo(zoo), [1, 2], weight_threshold=5.0)
    scores = torch.linspace(0, 1, len(data.train))
    sampler = KDESampler().fit(model.encode(data.train).detach(), scores)
    networks = HyperRepPipeline(model, sampler)(2, generator=torch.Generator().manual_seed(0))
    networks.save_pretrained(tmp_path / "out")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "out" / "model-00001")
    assert isinstance(loaded, ToyForImageClassification)
    assert torch.equal(WeightLayout.of(loaded).vectorize(loaded.state_dict()), networks.weights[1])
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out" / "model-00001")
    assert processor.to_dict() == PROTOCOL.processor().to_dict()
    logits = loaded(images.test.pixels).logits
    torch.testing.assert_close(logits, networks.model(1)(images.test.pixels).logits)
    for size in (6, "wide", 10**30):
        other = dataclasses.replace(networks, network=networks.network | {"hidden_size": size})
        with pytest.raises(UserError, match="another layout than their weights"):
            other.model(0)


def test_generated_networks_are_fine_tuned(representation, zoo):
    loaded, model = load_zoo(zoo), HyperRepModel.from_pretrained(representation)
    engine = choose_engine("vmap", loaded.config.network_config())
    bench = Bench(model, loaded, zoo_images(loaded), engine, "toy")
    rows = list(Finetune(num_models=2, epochs=1, methods=("kde-joint", "uniform")).rows(bench))
    found = {(row.method, row.epoch) for row in rows if row.what == "test_accuracy"}
    assert {("S_KDE30", 0), ("S_KDE30", 1), ("S_U", 1), ("B_KDE30", 1), ("reconstructed", 0)} <= found


# ----------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ({"model_type": "toy_mlp_that_is_not"}, "model_type 'toy_mlp_that_is_not', for which no image classification"),
        ({"model_type": "bert"}, "model_type 'bert', for which no image classification"),  # known, but for texts
        ({"model_type": ["small_cnn"]}, r"model_type \['small_cnn'\]"),
        ({}, "model_type None"),
        ({"model_type": "small_cnn", "hidden_act": "rellu"}, "network: hidden_act 'rellu' is unknown"),
        ({"model_type": ToyConfig.model_type, "num_labels": 10**9}, "num_labels 1000000000"),
    ],
)
def test_networks_that_cannot_be_named(network, said):
    with pytest.raises(UserError, match=said) as caught:
        network_from(network)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400


def test_code_that_comes_with_a_configuration_is_not_named_in_it():
    remote = {"AutoConfig": "evil.Config", "AutoModelForImageClassification": "evil.Model"}
    config = network_from({"model_type": ToyConfig.model_type, "auto_map": remote})
    assert not hasattr(config, "auto_map")
    assert isinstance(new_module(config), ToyForImageClassification)
    processor = processor_from({"auto_map": {"AutoImageProcessor": "evil.Processor"}})
    assert "auto_map" not in processor.to_dict()


def test_a_factor_that_the_architecture_does_not_know_is_no_column(images):
    protocol = dataclasses.replace(PROTOCOL, grid={"initializer": ("uniform", "normal")})
    with pytest.raises(UserError, match="toy_mlp_of_a_test' has no 'initializer'"):
        protocol.network_config(images.classes, {"initializer": "normal", "optimizer": "sgd"})
    known = dataclasses.replace(PROTOCOL, grid={"hidden_act": ("relu", "tanh")})
    assert known.network_config(images.classes, {"hidden_act": "relu"}).hidden_act == "relu"


def test_a_network_of_far_more_tensors_than_a_layout_is_not_built(monkeypatch):
    layout, built = layout_of(NETWORK), []
    monkeypatch.setattr(nn.Linear, "reset_parameters", lambda self: built.append(self))
    assert has_layout(NETWORK, layout)
    assert not has_layout(ToyConfig(num_labels=10, hidden_size=6), layout)
    assert not has_layout(ToyConfig(num_labels=10, num_hidden_layers=10**4), layout)
    assert not has_layout(SmallCNNConfig(hidden_sizes=[2] * 10**4), layout)
    assert not has_layout(ToyConfig(num_labels=10, hidden_size=10**30), layout)
    assert 4 < len(built) < 100


def test_a_zoo_whose_network_is_another_is_loaded_but_not_run(zoo):
    config = load_zoo(zoo).config
    other = dataclasses.replace(config, network=config.network | {"hidden_size": 7})
    with pytest.raises(UserError, match="'toy_mlp_of_a_test' and cannot be run: the network has another layout"):
        other.network_config()


def test_an_image_processor_is_found_by_its_name(images):
    values = json.loads(json.dumps(PROTOCOL.processor().to_dict()))
    assert processor_from(values).to_dict() == PROTOCOL.processor().to_dict()
    other = processor_from({"image_processor_type": "ViTImageProcessor", "size": {"height": 6, "width": 6}})
    assert type(other).__name__ == "ViTImageProcessor"
    grey = processor_from(other.to_dict() | {"image_mean": [0.5], "image_std": [0.5]})
    assert load_images("digits", grey, 0.2, max_images=60).train.pixels.shape == images.train.pixels.shape
    for kind in ("Trainer", "NoImageProcessor", 3):  # of transformers, but no processor; of nobody; no name
        with pytest.raises(UserError, match=f"image_processor_type {kind!r}"):
            processor_from({"image_processor_type": kind})
