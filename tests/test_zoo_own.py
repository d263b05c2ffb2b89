"""A zoo of somebody's own networks: it claims what it was told, and no more."""

import json
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import DatasetCard
from safetensors.torch import load_file
from tiny_zoo import TINY_SETTINGS, tiny_layout, tiny_network
from torch import nn

from hyperrep import HyperRepPipeline, UserError, WeightLayout, load_zoo, write_zoo
from hyperrep.networks import SmallCNNForImageClassification
from hyperrep.pipeline import fit_sampler
from hyperrep.training import TrainingConfig, train
from hyperrep.zoo.settings import SPLITS
from hyperrep.zoo.split import METRICS


MODELS, EPOCHS = 12, [3, 9]


pytestmark = pytest.mark.usefixtures("contained")


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3))


STATES = [network(seed).state_dict() for seed in range(2 * MODELS)]
CHECKPOINTS = {
    "epoch": EPOCHS * MODELS,
    "model_id": [row // 2 for row in range(2 * MODELS)],
}


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("own") / "birds", STATES, **CHECKPOINTS)


def test_every_network_comes_back_and_nothing_is_invented(own):
    zoo = load_zoo(own)
    assert (zoo.config.num_models, zoo.config.epochs, zoo.config.network) == (MODELS, EPOCHS, {})
    seen = {}
    for split in SPLITS:
        rows = zoo[split]
        assert rows.seed.eq(-1).all()
        assert all(values.isnan().all() for values in rows.metrics.values())
        for model, epoch, vector in zip(rows.model_id.tolist(), rows.epoch.tolist(), rows.weights):
            seen[2 * model + EPOCHS.index(epoch)] = zoo.config.weight_layout().unvectorize(vector)
    assert sorted(seen) == list(range(2 * MODELS))
    for row, tensors in seen.items():
        loaded = network(99)
        loaded.load_state_dict(tensors)
        assert all(torch.equal(tensor, STATES[row][name]) for name, tensor in loaded.state_dict().items())
    assert [len(zoo[split].model_id.unique()) for split in SPLITS] == [8, 2, 2]  # 70/15/15 of 12


def test_what_is_not_known_is_no_column(own):
    data = datasets.load_dataset(str(own))
    assert list(data["train"].features) == ["model_id", "epoch", "weights"]
    (path,) = (own / "data").glob("train-*")
    assert pq.read_schema(path).names == ["model_id", "epoch", "weights"]
    assert {row["weights"].__len__() for row in data["test"]} == {load_zoo(own).config.weight_layout().num_params}


def test_its_card_claims_what_is_known(own):
    card = DatasetCard.load(own / "README.md")
    assert "license" not in card.data.to_dict()
    assert "# birds model zoo: 12 networks" in card.text
    for word in ("nan", "accuracy.png", "$", "seed", "70/15/15", "CC-BY", "`test_", "unknown images"):
        assert word not in card.text, word
    assert "`weights`" in card.text
    assert not (own / "accuracy.png").exists()
    assert not (own / "results").exists()


def test_what_is_known_is_kept(tmp_path):
    accuracy = torch.rand(2 * MODELS)
    accuracy[0] = torch.nan
    metrics = {"test_accuracy": accuracy, "train_loss": [0.5] * (2 * MODELS)}
    seeds = [100 + model for model in CHECKPOINTS["model_id"]]
    split = [["train", "validation", "test"][model % 3] for model in CHECKPOINTS["model_id"]]
    zoo = load_zoo(write_zoo(tmp_path / "zoo", STATES, metrics=metrics, seed=seeds, split=split, **CHECKPOINTS))
    for index, name in enumerate(SPLITS):
        rows = zoo[name]
        assert rows.model_id.remainder(3).eq(index).all()
        assert torch.equal(rows.seed, rows.model_id + 100)
        at = torch.tensor([2 * model + EPOCHS.index(epoch) for model, epoch in zip(rows.model_id, rows.epoch)])
        torch.testing.assert_close(rows.metrics["test_accuracy"], accuracy[at], rtol=0, atol=0, equal_nan=True)
        assert rows.metrics["train_loss"].eq(0.5).all()
        assert rows.metrics["test_loss"].isnan().all()
    features = datasets.load_dataset(str(tmp_path / "zoo"))["train"].features
    assert list(features) == ["model_id", "seed", "epoch", "weights", "train_loss", "test_accuracy"]
    assert "`train_loss`, `test_accuracy`" in (tmp_path / "zoo" / "README.md").read_text()
    assert (tmp_path / "zoo" / "accuracy.png").exists()


def test_vectors_are_as_good_as_state_dicts(own, tmp_path):
    layout = WeightLayout.of(network(0))
    vectors = torch.stack([layout.vectorize(state) for state in STATES]).double()
    other = load_zoo(write_zoo(tmp_path / "birds", vectors, layout=layout, **CHECKPOINTS))
    assert other.config == load_zoo(own).config


def test_a_loaded_zoo_is_saved_as_it_was(own, tmp_path):
    assert (load_zoo(own).save(tmp_path / "zoo") / "zoo_config.json").read_bytes() == (
        own / "zoo_config.json"
    ).read_bytes()


def small_cnns(count: int) -> list[dict]:
    return [SmallCNNForImageClassification(tiny_network()).state_dict() for _ in range(count)]


def settings(**changes) -> TrainingConfig:
    return TrainingConfig.from_dict(TINY_SETTINGS | {"num_train_epochs": 1, "batch_size": 4, "epochs": [9]} | changes)


def test_networks_with_a_configuration_are_run_and_aligned(tmp_path):
    states = small_cnns(10)
    shuffled = [dict(reversed(state.items())) for state in states]  # the configuration tells the order
    zoo = load_zoo(write_zoo(tmp_path / "zoo", shuffled, epoch=9, network=tiny_network()))
    assert zoo.config.layout == tiny_layout().to_list()
    assert zoo.config.network_config().hidden_sizes == [5]
    train(settings(align=True, permute=False), zoo, tmp_path / "model")
    fit_sampler(tmp_path / "model", zoo)
    HyperRepPipeline.from_pretrained(tmp_path / "model")(2).save_pretrained(tmp_path / "samples")
    SmallCNNForImageClassification.from_pretrained(tmp_path / "samples" / "model-00001")


def layers(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, 3)).state_dict()


def test_networks_without_one_are_learned_from_and_sampled(tmp_path):
    write_zoo(tmp_path / "zoo", list(map(layers, range(10))), epoch=9)
    with pytest.raises(UserError, match=r"does not say what its networks are.* Set permute and align to false"):
        train(settings(permute=True), tmp_path / "zoo", tmp_path / "model")
    assert not (tmp_path / "model").exists()
    with pytest.raises(UserError, match=r"behavioural loss runs networks on images"):
        train(settings(permute=False, behavior_weight=0.1), tmp_path / "zoo", tmp_path / "model")
    results = train(settings(permute=False), tmp_path / "zoo", tmp_path / "model")
    assert results["test"]["r2"] is not None
    fit_sampler(tmp_path / "model", tmp_path / "zoo")
    networks = HyperRepPipeline.from_pretrained(tmp_path / "model")(2)
    assert networks.weights.shape == (2, 81)
    with pytest.raises(UserError, match=r"does not say which network"):
        networks.model(0)
    networks.save_pretrained(tmp_path / "samples")
    state = load_file(tmp_path / "samples" / "model-00001" / "model.safetensors")
    assert torch.equal(networks.layout.vectorize(state), networks.weights[1])
    for text in (tmp_path / "model").rglob("*.json*"):
        assert "NaN" not in text.read_text()


def without(name: str) -> list[dict]:
    return [*STATES[:-1], {key: tensor for key, tensor in STATES[-1].items() if key != name}]


MISTAKES = [
    ({"networks": []}, "there are no networks"),
    ({"networks": torch.zeros(24, 5)}, "give layout"),
    ({"networks": torch.zeros(24, 5), "layout": tiny_layout()}, r"shape \(24, 119\) are needed"),
    ({"networks": torch.zeros(24, 119, dtype=torch.int64), "layout": tiny_layout()}, "torch.int64"),
    ({"networks": [network(0)] * 24}, r"network 0 is a Sequential; give its state_dict\(\)"),
    ({"networks": [STATES[0] | {"steps": torch.tensor(3)}] * 24}, "steps is torch.int64; .* leave others out"),
    ({"networks": without("1.bias")}, "network 23 and network 0 differ in 1.bias"),
    ({"networks": [*STATES[:-1], STATES[0] | {"1.bias": torch.zeros(5)}]}, r"network 23: 1.bias has shape \[5\]"),
    ({"epoch": [3, 9]}, r"epoch has shape \[2\]; there are 24 networks"),
    ({"epoch": 3}, "an epoch of a model twice"),
    ({"epoch": -1}, "epoch runs from -1 to -1"),
    ({"epoch": [1.5] * 24}, "whole numbers"),
    ({"epoch": "3"}, "epoch is no list of numbers|epoch has"),
    ({"model_id": [0, 0, *[5] * 22]}, "goes up to 5 and leaves out 1"),
    ({"model_id": [-1] * 24}, "model_id runs from -1"),
    ({"model_id": [0] * 24, "epoch": list(range(24))}, "1 models cannot be split 70/15/15"),
    ({"split": ["train"] * 24}, "split validation is empty"),
    ({"split": ["train"] * 23}, "split has 23 names"),
    ({"split": ["valid"] * 24}, "split has 'valid'; there are train, validation, test"),
    ({"split": ["train", "test", "validation"] * 8}, "model 1 is in the splits"),
    ({"metrics": {"f1": [0.5] * 24}}, "metrics has 'f1'; a zoo knows"),
    ({"metrics": {"test_accuracy": [50.0] * 24}}, "test_accuracy outside of 0 to 1"),
    ({"metrics": {"test_accuracy": ["high"] * 24}}, "test_accuracy is no list of numbers"),
    ({"metrics": {"test_accuracy": [0.5]}}, r"test_accuracy has shape \[1\]"),
    ({"seed": [2**31] * 24}, "seed runs from"),
    ({"network": tiny_network()}, "the state dict lacks|another layout"),
]


@pytest.mark.parametrize(("change", "said"), MISTAKES, ids=[said[:40] for _, said in MISTAKES])
def test_what_does_not_fit_is_one_line_and_writes_nothing(change, said, tmp_path):
    with pytest.raises(UserError, match=said) as caught:
        write_zoo(tmp_path / "zoo", **{"networks": STATES, **CHECKPOINTS, **change})
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "zoo").exists()


def test_nothing_is_replaced_unasked(own, tmp_path):
    write_zoo(tmp_path / "zoo", STATES, **CHECKPOINTS)
    with pytest.raises(UserError, match="exists; start anew"):
        write_zoo(tmp_path / "zoo", STATES[:8], epoch=1)
    assert load_zoo(write_zoo(tmp_path / "zoo", STATES[:8], epoch=1, overwrite=True)).config.num_models == 8


@pytest.mark.parametrize("unknown", [["epoch"], ["weights"], ["seed", "seed"], [3], "seed", ["f1"]])
def test_what_a_config_may_call_unknown(unknown, own, tmp_path):
    folder = load_zoo(own).save(tmp_path / "zoo")
    config = json.loads((folder / "zoo_config.json").read_text())
    (folder / "zoo_config.json").write_text(json.dumps(config | {"unknown": unknown}))
    with pytest.raises(UserError, match="unknown"):
        load_zoo(folder)


def test_a_column_that_is_not_called_unknown_is_missed(own, tmp_path):
    folder = load_zoo(own).save(tmp_path / "zoo")
    config = json.loads((folder / "zoo_config.json").read_text())
    (folder / "zoo_config.json").write_text(json.dumps(config | {"unknown": ["seed", *METRICS[1:]]}))
    with pytest.raises(UserError, match="train_loss is missing"):
        load_zoo(folder)
