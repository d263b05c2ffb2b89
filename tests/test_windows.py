"""Networks of any size: tokens of one width, windows of them, and the way back."""

import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from tiny_zoo import NETWORK as NETWORK_SETTINGS
from tiny_zoo import TINY_SETTINGS, write_tiny_zoo
from torch import nn
from training_runs import one_thread  # noqa: F401
from typer.testing import CliRunner

from hyperrep import HyperRepPipeline
from hyperrep.errors import UserError
from hyperrep.files.reading import wording
from hyperrep.networks import SmallCNNConfig, SmallCNNForImageClassification, initial_weights
from hyperrep.pipeline import fit_sampler
from hyperrep.representation import HyperRepConfig, HyperRepModel
from hyperrep.representation.adapting import adapted
from hyperrep.representation.batched import decode_rows, encode_rows
from hyperrep.representation.losses import reconstruction_loss
from hyperrep.representation.windows import cut, in_windows, joined, places_of
from hyperrep.training import TrainingConfig, train
from hyperrep.training.measures import evaluate_reconstruction
from hyperrep.weights import WeightLayout
from hyperrep.weights.augmentation import permute
from hyperrep.zoo import load_zoo, write_zoo
from hyperrep.zoo.importing import read_networks
from hyperrep_cli import app


WINDOWED = {
    "token_size": 7,
    "window": 12,
    "halo": 3,
    "latents_per": "neuron",
    "neuron_latent_size": 4,
    "standardize_weights": True,
    "contrast_weight": 0.0,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
}
NETWORK = nn.Sequential(
    nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.LayerNorm(20), nn.Linear(20, 3)
)
LAYOUT = WeightLayout.of(NETWORK)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = HyperRepModel(HyperRepConfig(layout=LAYOUT.to_list(), **WINDOWED)).eval()
    model.processor.fit(weights(8))
    return model


def weights(count: int) -> torch.Tensor:
    rows = torch.rand(count, LAYOUT.num_params, generator=torch.Generator().manual_seed(1)) + 0.5
    return rows * torch.linspace(0.5, 2, LAYOUT.num_params)


def test_tokens_hold_each_number_once_and_zeros(model):
    """18 + 1 + 4 numbers of 5 units in 4 tokens each, 2 numbers of 20 units in one, 20 + 1 of 3 units in 3."""
    config = model.config
    assert config.tokens_per_layer == list(zip(config.layers, [20, 20, 9], strict=True))
    assert config.num_tokens == 49
    assert config.latent_size == 49 * 4
    rows = weights(2)
    (tokens,) = model.processor(rows)
    assert tokens.shape == (2, 49, 7)
    torch.testing.assert_close(model.processor.decode([tokens]), rows)
    assert int((tokens == 0).sum()) == 2 * (49 * 7 - LAYOUT.num_params)  # no weight is a mean
    # the last piece of the third unit of the convolution: its running statistics, and five zeros
    tensors = LAYOUT.unvectorize(rows)
    last = torch.stack([tensors["1.running_mean"][0, 2], tensors["1.running_var"][0, 2]])
    expected = (last - model.processor.layer_mean[3:5]) / model.processor.layer_std[3:5]
    torch.testing.assert_close(tokens[0, 11], torch.cat([expected, torch.zeros(5)]))


@pytest.mark.parametrize("token_size", [None, 7])
def test_float64_tokens_lead_back_to_the_bit(token_size):
    config = HyperRepConfig(layout=LAYOUT.to_list(), **WINDOWED | {"token_size": token_size})
    rows = weights(50) * torch.randn(50, LAYOUT.num_params).exp()
    processor = HyperRepModel(config).processor.fit(rows)
    assert torch.equal(processor.decode(processor(rows.double())), rows)


def test_cut_and_joined_are_inverse():
    layers = [torch.randn(2, 3, 5), torch.randn(2, 1, 12), torch.randn(2, 4, 4)]
    tokens = cut(layers, 4)
    assert tokens.shape == (2, 3 * 2 + 3 + 4, 4)
    back = joined(tokens, [(3, 5), (1, 12), (4, 4)])
    assert all(map(torch.equal, back, layers))


def test_windows_are_those_of_the_whole(model):
    rows = weights(3)
    (tokens,) = model.processor(rows)
    of, starts = torch.tensor([2, 0, 2]), torch.tensor([0, 37, 19])
    found, places, shares = model.processor.windows(rows, of, starts)
    for window, place, share, row, start in zip(found, places, shares, of, starts, strict=True):
        assert torch.equal(place, places_of(model.config)[start : start + 12])
        torch.testing.assert_close(window, tokens[row, start : start + 12])
        assert torch.equal(share != 0, tokens[row, start : start + 12] != 0)
        assert share.max().item() == pytest.approx(49 / 12 / LAYOUT.num_params)


def test_a_place_is_of_network_layer_and_in_layer(model):
    places = places_of(model.config)
    assert places[:, 0].tolist() == list(range(49))
    assert places[:, 1].tolist() == [0] * 20 + [1] * 20 + [2] * 9
    assert places[:, 2].tolist() == [*range(20), *range(20), *range(9)]


@pytest.mark.parametrize("length", [5, 12, 13, 49])
def test_windows_cover_a_sequence_once_and_show_each_token_its_neighbours(length):
    rows = torch.arange(2 * length).view(2, length, 1).float()
    seen = []

    def function(windows, places):
        assert torch.equal(windows[:, :, 0] % length, places[:, :, 0].float())
        seen.append(windows.shape[1])
        # what a token sees to its left and right, or the end of the sequence
        first, last = windows[:, :1], windows[:, -1:]
        return torch.cat([windows, windows - first, last - windows], dim=2)

    found = in_windows(function, rows, torch.arange(length)[:, None].expand(-1, 3), window=12, halo=3)
    assert torch.equal(found[:, :, 0], rows[:, :, 0])
    place = torch.arange(length)
    assert (found[:, :, 1] >= place.clamp_max(3)).all()
    assert (found[:, :, 2] >= (length - 1 - place).clamp_max(3)).all()
    assert set(seen) == {min(12, length)}


def test_a_network_is_encoded_alike_in_any_company(model):
    rows = weights(5)
    latents = encode_rows(model, rows)
    assert torch.equal(encode_rows(model, rows[3:4])[0], latents[3])
    decoded = decode_rows(model, latents)
    assert torch.equal(decode_rows(model, latents[3:4])[0], decoded[3])
    assert decoded.shape == rows.shape


def test_one_window_for_all_is_the_plain_transformer(model):
    """Where a network fits into a window, windows make no difference to it."""
    wide = HyperRepModel(HyperRepConfig(layout=LAYOUT.to_list(), **WINDOWED | {"window": 60})).eval()
    wide.load_state_dict(model.state_dict())
    rows = weights(2)
    (tokens,) = wide.processor(rows)
    expected = wide.encoder([tokens], places=places_of(wide.config).expand(2, -1, -1)).latents
    torch.testing.assert_close(wide.encode(rows), expected)
    assert not torch.allclose(model.encode(rows), expected)


def test_the_loss_of_windows_is_the_posters():
    """Over one window that holds all: sum of squared errors over sigma^2, over all numbers of all networks."""
    torch.manual_seed(0)
    model = HyperRepModel(HyperRepConfig(layout=LAYOUT.to_list(), **WINDOWED | {"window": 49})).eval()
    rows = weights(4)
    model.processor.fit(rows)
    tokens, places, shares = model.processor.windows(rows, torch.arange(4), torch.zeros(4, dtype=torch.int64))
    output = model(tokens, places=places, shares=shares)
    decoded = model.processor._cut(joined(model._decode(output.latents).tokens[0], [(5, 23), (20, 2), (3, 21)]))
    processor = model.processor
    raw = [
        part * std + mean for part, mean, std in zip(decoded, processor.layer_mean, processor.layer_std, strict=True)
    ]
    expected = reconstruction_loss(torch.cat(raw, dim=1), rows, processor.layer_sizes, processor.layer_std).sum()
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"halo": 6}, "halo 6 at each end leaves nothing of a window of 12"),
        ({"token_size": 0}, "token_size is 0"),
        ({"latents_per": "network"}, "set latents_per 'neuron' instead of 'network'"),
        ({"contrast_weight": 0.1}, "set contrast_weight 0 instead of 0.1"),
        ({"token_size": "7"}, "token_size"),
        ({"standardize_weights": False}, "set standardize_weights True"),
    ],
)
def test_what_windows_need(settings, message):
    with pytest.raises((StrictDataclassError, ValueError)) as error:
        HyperRepConfig(layout=LAYOUT.to_list(), **WINDOWED | settings)
    assert message in wording(error.value)


def test_what_training_on_windows_cannot_do():
    for settings in ({"behavior_weight": 0.3}, {"permute": True}):
        (name,) = settings
        with pytest.raises(UserError, match=f"set {name} to"):
            TrainingConfig.from_dict(WINDOWED | {"permute": False} | settings)


def test_a_representation_learns_from_windows_and_samples(tmp_path):
    folder = write_tiny_zoo(tmp_path / "zoo")
    settings = TINY_SETTINGS | WINDOWED | {"token_size": 30, "permute": False, "align": True, "pca_init": True}
    settings |= {"erase_prob": 0.0, "num_train_epochs": 3, "batch_size": 4}
    output = tmp_path / "model"
    results = train(TrainingConfig.from_dict(settings), folder, output)
    zoo = load_zoo(folder)
    model = HyperRepModel.from_pretrained(output)
    examples = results["rows"]["train"] * -(-model.config.num_tokens // 12)
    assert results["steps"] == 3 * (examples // 4)
    log = [json.loads(line) for line in (output / "training_log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < log[0]["loss"]
    fit_sampler(output, zoo)
    networks = HyperRepPipeline.from_pretrained(output)(2, generator=torch.Generator().manual_seed(0))
    assert networks.weights.shape == (2, zoo.config.weight_layout().num_params)
    again = model.decode(networks.latents)
    torch.testing.assert_close(again, networks.weights)


def test_networks_of_another_architecture_are_sampled_around_a_few_of_them(tmp_path):
    """Trained on one architecture, prompted by another one, whose checkpoints lie in a folder."""
    settings = TINY_SETTINGS | WINDOWED | {"permute": False, "num_train_epochs": 1, "batch_size": 4, "align": True}
    output = tmp_path / "model"
    train(
        TrainingConfig.from_dict(settings | {"symmetries": "permutations"}), write_tiny_zoo(tmp_path / "zoo"), output
    )
    fit_sampler(output, load_zoo(tmp_path / "zoo"))
    network = SmallCNNConfig(**NETWORK_SETTINGS | {"hidden_sizes": [9, 8]})
    for seed in range(3):
        torch.manual_seed(seed)
        SmallCNNForImageClassification(network).save_pretrained(tmp_path / "mine" / f"model-{seed}")
    said = ["sample", str(output), "--num-models", "2", "--prompts", str(tmp_path / "mine")]
    result = CliRunner().invoke(app, [*said, "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    loaded = SmallCNNForImageClassification.from_pretrained(tmp_path / "out" / "model-00001")
    assert loaded.config.hidden_sizes == [9, 8]
    # the encoder and the decoder are those that were trained, and the order of units does not matter
    model, (given, layout, _) = HyperRepModel.from_pretrained(output), read_networks(tmp_path / "mine")
    other = adapted(model, given, layout, network.to_dict())
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(tensor, other.encoder.state_dict()[name])
    reordered = permute(given, layout, torch.Generator().manual_seed(0))
    assert not torch.equal(reordered, given)
    torch.testing.assert_close(other.encode(reordered), other.encode(given))
    decoded = other.decode(other.encode(given))
    assert decoded.shape == given.shape
    with pytest.raises(UserError, match="weights have shape"):
        adapted(model, given[:, 1:], layout)


@pytest.fixture
def two_zoos(tmp_path):
    """One of tiny CNNs, and one of deeper ones."""
    generator = torch.Generator().manual_seed(0)
    network = SmallCNNConfig(**NETWORK_SETTINGS | {"hidden_sizes": [9, 8]})
    others = initial_weights(network, list(range(20)))
    others = others + 0.1 * torch.randn(others.shape, generator=generator)
    write_zoo(tmp_path / "other", others, epoch=1, network=network)
    return write_tiny_zoo(tmp_path / "zoo"), tmp_path / "other"


def test_one_representation_for_two_architectures(two_zoos, tmp_path):
    first, other = two_zoos
    settings = TINY_SETTINGS | WINDOWED | {"permute": False, "batch_size": 5, "align": True, "epochs": [1]}
    config = TrainingConfig.from_dict(settings | {"symmetries": "permutations", "num_train_epochs": 40})
    results = train(config, first, tmp_path / "both", also=[other])
    alone = train(config, first, tmp_path / "alone")
    model = HyperRepModel.from_pretrained(tmp_path / "both")
    rows, layout, network = read_networks(other)
    view = adapted(model, rows, layout, network.to_dict())
    windows = [-(-one.config.num_tokens // 12) for one in (model, view)]
    assert results["steps"] == 40 * ((results["rows"]["train"] * windows[0] + 14 * windows[1]) // 5)
    assert alone["steps"] == 40 * (results["rows"]["train"] * windows[0] // 5)
    (also,) = model.config.zoo["also"]
    assert (also["name"], also["num_train"]) == ("other", 14)
    # what it learned of the others, one that never saw them did not
    stranger = adapted(HyperRepModel.from_pretrained(tmp_path / "alone"), rows, layout, network.to_dict())
    errors = {}
    for name, one in (("both", view), ("alone", stranger)):
        weights = one.processor.align(rows)
        found = evaluate_reconstruction(one, weights, weights.mean(dim=0))
        errors[name] = found["reconstruction_loss"]
    assert errors["both"] < 0.8 * errors["alone"]
    assert set(results["others"]["other"]) == {"validation", "test"}


def test_the_loss_of_a_batch_is_the_mean_of_its_windows(model):
    """So that two processes, or two micro-batches, give the gradient of one."""
    rows, of, starts = weights(4), torch.tensor([0, 1, 2, 3]), torch.tensor([0, 37, 19, 30])
    tokens, places, shares = model.processor.windows(rows, of, starts)
    whole = model(tokens, places=places, shares=shares).loss
    parts = [model(tokens[i : i + 1], places=places[i : i + 1], shares=shares[i : i + 1]).loss for i in range(4)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)
    assert torch.stack(parts).std() > 1e-3


def test_a_run_on_two_zoos_goes_on_with_both_only(two_zoos, tmp_path):
    first, other = two_zoos
    settings = TINY_SETTINGS | WINDOWED | {"permute": False, "batch_size": 5, "epochs": [1], "num_train_epochs": 2}
    config = TrainingConfig.from_dict(settings | {"checkpoint_epochs": 1, "align": False})
    with pytest.raises(UserError, match="zoo other comes on top of another one"):
        train(TrainingConfig.from_dict(TINY_SETTINGS | {"epochs": [1]}), first, tmp_path / "whole", also=[other])
    assert not (tmp_path / "whole").exists()
    huge = TrainingConfig.from_dict(settings | {"batch_size": 10**4})
    with pytest.raises(UserError, match=r"batch_size 10000 exceeds the \d+ windows"):
        train(huge, first, tmp_path / "huge", also=[other])
    small = TrainingConfig.from_dict(settings | {"window": 70})
    with pytest.raises(UserError, match="set window to"):
        train(small, first, tmp_path / "small", also=[other])
    train(config, first, tmp_path / "run", also=[other])
    again = train(config, first, tmp_path / "again", also=[other])
    assert again["train"] == json.loads((tmp_path / "run" / "results" / "training.json").read_text())["train"]


def test_a_zoo_can_prompt(two_zoos, tmp_path):
    rows, layout, network = read_networks(two_zoos[1])
    assert rows.shape == (14, layout.num_params)
    assert network.hidden_sizes == [9, 8]
