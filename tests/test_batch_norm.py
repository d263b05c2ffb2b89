"""Networks whose batch norms remember: a slim ResNet of transformers goes the whole way, and its statistics do."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_zoo import stacked_zoo
from tiny_zoo import TINY_SETTINGS
from torch import nn
from training_runs import one_thread  # noqa: F401
from transformers import AutoModelForImageClassification
from typer.testing import CliRunner

from hyperrep import HyperRepPipeline
from hyperrep.evaluation import Bench, Finetune
from hyperrep.images import load_images
from hyperrep.networks import SmallCNNConfig, initial_weights, layout_of, network_from
from hyperrep.pipeline import fit_sampler
from hyperrep.population import Recipe, choose_engine, population_cross_entropy, refresh_statistics
from hyperrep.population.vmap import VmapEngine
from hyperrep.representation import HyperRepConfig, HyperRepModel
from hyperrep.representation.canonical import graph_of
from hyperrep.training import TrainingConfig, train
from hyperrep.weights import WeightLayout
from hyperrep.weights.augmentation import permute
from hyperrep.zoo import Protocol, load_zoo
from hyperrep_cli import app


RESNET = {
    "model_type": "resnet",
    "num_channels": 1,
    "image_size": 16,
    "embedding_size": 4,
    "hidden_sizes": [4, 6],
    "depths": [1, 1],
    "layer_type": "basic",
    "num_labels": 10,
}
NETWORK = network_from(RESNET)
LAYOUT = layout_of(NETWORK)
PROTOCOL = Protocol(
    "resnet",
    "ResNet",
    images="digits",
    network={name: value for name, value in RESNET.items() if name != "num_labels"},
    image_processor={"num_channels": 1, "image_size": 16, "image_mean": [0.3], "image_std": [0.35]},
    recipe=Recipe("adam", learning_rate=3e-3, batch_size=20),
    epochs=2,
    validation_fraction=0.2,
)


@pytest.fixture(scope="module")
def images():
    return load_images("digits", PROTOCOL.processor(), PROTOCOL.validation_fraction, max_images=100)


@pytest.fixture(scope="module")
def zoo(images, tmp_path_factory) -> Path:
    return stacked_zoo(PROTOCOL, images, tmp_path_factory.mktemp("zoo") / "resnet")


@pytest.fixture(scope="module")
def representation(zoo, tmp_path_factory) -> Path:
    changes = {"num_train_epochs": 1, "behavior_weight": 0.1, "shuffled_weight": 0.1, "behavior_images": 2}
    changes |= {
        "permute": False,
        "align": True,
        "symmetries": "permutations",
        "latents_per": "neuron",
        "contrast_weight": 0.0,
    }
    output = tmp_path_factory.mktemp("model") / "resnet"
    train(TrainingConfig.from_dict(TINY_SETTINGS | changes), zoo, output)
    fit_sampler(output, zoo)
    return output


def test_tokens_are_units_with_their_norms_and_hold_every_number():
    config = HyperRepConfig(layout=LAYOUT.to_list(), standardize_weights=True)
    stem, *_, head = config.layers
    name = "resnet.embedder.embedder"
    assert stem == (
        f"{name}.convolution",
        *(4, 49, False),
        tuple(f"{name}.normalization.{part}" for part in ("weight", "bias", "running_mean", "running_var")),
    )
    assert head == ("classifier.1", 10, 6, True, ())
    assert sum(size for _, size in config.parts) == LAYOUT.num_params == config.num_params
    model = HyperRepModel(config)
    weights = initial_weights(NETWORK, [0, 1, 2])
    weights += 0.1 * torch.rand(weights.shape, generator=torch.Generator().manual_seed(0))
    processor = model.processor.fit(weights)
    tokens = processor(weights)
    torch.testing.assert_close(processor.decode(tokens), weights)
    # the third unit of the stem: its kernel, then its norm's numbers, each standardised among its own kind
    tensors = LAYOUT.unvectorize(weights)
    variances = tensors[f"{name}.normalization.running_var"]
    torch.testing.assert_close(tokens[0][:, 2, -1], (variances[:, 2] - variances.mean()) / variances.std())
    kernels = tensors[f"{name}.convolution.weight"]
    expected = (kernels[:, 2].flatten(1) - kernels.mean()) / kernels.std()
    torch.testing.assert_close(tokens[0][:, 2, :49], expected)
    # each number is of the part that it is normalised with, and of the unit that it belongs to
    places = processor.places
    assert torch.equal(places[LAYOUT.slices[f"{name}.normalization.running_var"]][:, 1], torch.arange(4))
    assert len(places[:, 0].unique()) == len(config.parts)


def test_a_decoded_variance_is_positive_and_has_a_gradient():
    model = HyperRepModel(HyperRepConfig(layout=LAYOUT.to_list(), standardize_weights=True))
    model.processor.fit(initial_weights(NETWORK, [0, 1]))
    tokens = [-50 * torch.ones(1, layer.num_units, layer.token_size) for layer in model.config.layers]
    model.processor.layer_std.fill_(1.0)
    for part in tokens:
        part.requires_grad_()
    weights = LAYOUT.unvectorize(model.processor.decode(tokens))
    variances = torch.cat([value[0] for name, value in weights.items() if name.endswith("running_var")])
    torch.testing.assert_close(variances, torch.full_like(variances, 0.01))
    variances.sum().backward()
    assert (tokens[0].grad[..., -1] == 1).all()


def test_a_zoo_keeps_running_statistics(zoo, images):
    loaded = load_zoo(zoo)
    rows = loaded["train"]
    statistics = rows.weights[:, loaded.config.weight_layout().statistics]
    assert LAYOUT.described.endswith(f" parameters and {len(LAYOUT.statistics)} running statistics")
    start, end = statistics[rows.epoch == 0], statistics[rows.epoch == 2]
    assert set(start.unique().tolist()) == {0.0, 1.0}
    assert len(end.unique(dim=0)) == len(end)
    # a network of the zoo is whole: what the loop makes of it is what the zoo says of it
    model = AutoModelForImageClassification.from_config(NETWORK).eval()
    model.load_state_dict(loaded.config.weight_layout().unvectorize(rows.weights[-1]), strict=False)
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(images.test.pixels).logits, images.test.labels)
    assert loss.item() == pytest.approx(rows.metrics["test_loss"][-1].item(), rel=1e-3)


def test_large_statistics_do_not_drop_a_network(zoo):
    rows = load_zoo(zoo)["train"].select([2])
    statistics = LAYOUT.statistics
    rows.weights[0, statistics[3]] = 1e4
    rows.weights[1, statistics[3]] = torch.inf
    assert len(rows.within(5.0, statistics=statistics)) == len(rows) - 1
    assert len(rows.within(5.0)) == len(rows) - 2


def test_refreshed_statistics_are_those_of_torch(images):
    weights = initial_weights(NETWORK, [0, 1])
    refreshed = refresh_statistics(NETWORK, weights, images.train.pixels)
    statistics = LAYOUT.statistics
    kept = torch.ones(LAYOUT.num_params, dtype=torch.bool)
    kept[statistics] = False
    assert torch.equal(refreshed[:, kept], weights[:, kept])
    for row, vector in zip(refreshed, weights, strict=True):
        model = AutoModelForImageClassification.from_config(NETWORK)
        model.load_state_dict(LAYOUT.unvectorize(vector), strict=False)
        torch.optim.swa_utils.update_bn([images.train.pixels], model)
        torch.testing.assert_close(LAYOUT.vectorize(model.state_dict()), row, rtol=1e-4, atol=1e-5)


def test_loss_has_a_gradient_by_running_statistics(images):
    """As the formula of a batch norm says: by a finite difference, in every number of a network."""
    torch.manual_seed(0)
    weights = initial_weights(NETWORK, [0]).double()
    weights = refresh_statistics(NETWORK, weights, images.train.pixels).requires_grad_()
    pixels, labels = images.train.pixels[:8].double(), images.train.labels[:8]
    targets = nn.functional.one_hot(labels, 10).double()[None]

    def loss(vectors):
        return population_cross_entropy(NETWORK, vectors, pixels, targets, VmapEngine())[0]

    (gradient,) = torch.autograd.grad(loss(weights), weights)
    assert (gradient[0, LAYOUT.statistics] != 0).float().mean() > 0.9
    direction = torch.zeros_like(weights)
    direction[0, LAYOUT.statistics] = torch.randn(len(LAYOUT.statistics), dtype=torch.float64)
    with torch.no_grad():
        difference = (loss(weights + 1e-5 * direction) - loss(weights - 1e-5 * direction)) / 2e-5
    torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-4, atol=1e-8)


def test_reordered_networks_are_the_same_to_a_representation(representation, zoo):
    model = HyperRepModel.from_pretrained(representation)
    weights = load_zoo(zoo)["test"].select([2]).weights
    tensors = LAYOUT.unvectorize(weights.clone())
    # the hidden units of the first block, with their norm
    order = torch.tensor([2, 0, 3, 1])
    block = "resnet.encoder.stages.0.layers.0.layer"
    scrambled = dict(tensors)
    for name in tensors:
        if name.startswith(f"{block}.0."):
            scrambled[name] = tensors[name][:, order]
    scrambled[f"{block}.1.convolution.weight"] = tensors[f"{block}.1.convolution.weight"][:, :, order]
    scrambled = LAYOUT.vectorize(scrambled)
    assert not torch.equal(scrambled, weights)
    torch.testing.assert_close(model.encode(scrambled), model.encode(weights))


def test_augmentation_permutes_by_the_graph(zoo, images, tmp_path):
    """Networks of a batch, each in an order of its own; their statistics follow, and they answer as before."""
    weights = load_zoo(zoo)["train"].select([2]).weights[:3]
    graph = graph_of(NETWORK.to_dict(), signs=False)
    permuted = permute(weights, LAYOUT, torch.Generator().manual_seed(0), graph)
    moved = (permuted != weights).any(dim=0)
    assert moved[LAYOUT.statistics].any()
    engine, test = VmapEngine(), images.test
    before, after = (engine.evaluate(NETWORK, rows, test.pixels, test.labels).loss for rows in (weights, permuted))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    same = permute(weights[:1].expand(3, -1), LAYOUT, torch.Generator().manual_seed(0), graph)
    assert len(same.unique(dim=0)) == 3
    settings = TINY_SETTINGS | {"permute": True, "align": False, "symmetries": "permutations", "num_train_epochs": 1}
    results = train(TrainingConfig.from_dict(settings | {"epochs": [1, 2]}), zoo, tmp_path / "model")
    assert results["steps"] > 0


def test_samples_are_refreshed_and_fine_tuned(representation, zoo, images, tmp_path):
    output = tmp_path / "samples"
    result = CliRunner().invoke(
        app,
        ["sample", str(representation), "--output", str(output), "--num-models", "2", "--condition-images", "digits"],
    )
    assert result.exit_code == 0, result.output
    pipe = HyperRepPipeline.from_pretrained(representation)
    plain = pipe(2, generator=torch.Generator().manual_seed(0))
    conditioned = plain.refresh_statistics(pipe.images("digits").train, "digits")
    assert conditioned.made_by["statistics"] == "of 1,000 of digits"
    loaded = AutoModelForImageClassification.from_pretrained(output / "model-00001")
    assert torch.equal(WeightLayout.of(loaded).vectorize(loaded.state_dict()), conditioned.weights[1])
    assert not torch.equal(conditioned.weights, plain.weights)

    loaded = load_zoo(zoo)
    bench = Bench(
        HyperRepModel.from_pretrained(representation), loaded, images, choose_engine("vmap", NETWORK), "resnet"
    )
    rows = list(Finetune(num_models=2, epochs=1, methods=("kde", "noise-0.3")).rows(bench))
    found = {(row.method, row.epoch) for row in rows if row.what == "test_accuracy"}
    assert {("S_KDE30", 0), ("S_KDE30", 1), ("B_N30", 0), ("B_N30", 1), ("reconstructed", 0)} <= found
    assert all(0 <= row.mean <= 1 for row in rows if row.what == "test_accuracy")


def test_networks_without_memory_have_nothing_to_refresh():
    network = SmallCNNConfig()
    weights = initial_weights(network, [0])
    assert refresh_statistics(network, weights, torch.rand(2, 1, 28, 28)) is weights


def test_a_representation_of_networks_whose_norms_are_all_alike(hyperrep, tmp_path):
    """Networks that were not trained: scale, shift and statistics of their norms vary in none, and have no R²."""
    (tmp_path / "theirs").mkdir()
    for seed in range(12):
        torch.manual_seed(seed)
        module = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        )
        torch.save(module.state_dict(), tmp_path / "theirs" / f"{seed}.pth")
    assert hyperrep("zoo import theirs --epoch 1 --output zoo")[0] == 0
    sizes = "--hidden-size 32 --intermediate-size 16 --num-hidden-layers 1 --num-attention-heads 2"
    settings = f"--epochs [1] --batch-size 4 --num-train-epochs 1 --permute false --align false {sizes}"
    code, _, error = hyperrep(f"train windows --zoo zoo --output model --token-size 8 --window 6 --halo 1 {settings}")
    assert code == 0, error
    results = json.loads((tmp_path / "model" / "results" / "training.json").read_text(), parse_constant=pytest.fail)
    assert list(results["test"]["r2_per_layer"]) == ["0", "4"]
    code, _, error = hyperrep("sample model --num-models 2 --output samples")
    assert code == 0, error
    # what the module is, nobody has said: its tensors are what can be given
    assert not module.load_state_dict(
        load_file(tmp_path / "samples/model-00001/model.safetensors"), strict=False
    ).unexpected_keys
    assert "load_state_dict" in (tmp_path / "samples/model-00001/README.md").read_text()
    assert (module[1].running_var > 0).all()
