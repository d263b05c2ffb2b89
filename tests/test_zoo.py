"""Zoos: what their folder holds, and that an interrupted build ends in the same bytes as an undisturbed one."""

import dataclasses
import hashlib
import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Features, Image, Value
from huggingface_hub import DatasetCard
from small_zoo import EPOCHS, MODELS, digits, settings

from hyperrep.errors import UserError
from hyperrep.images import PREPROCESSING, load_images
from hyperrep.networks import (
    SmallCNNForImageClassification,
    SmallCNNImageProcessor,
    initial_weights,
    input_shape,
    layout_of,
)
from hyperrep.population.loop import LoopEngine
from hyperrep.weights import WeightLayout
from hyperrep.zoo import PROTOCOLS, Zoo, build_zoo, get_protocol, load_zoo, zoo_images
from hyperrep.zoo.config import listed
from hyperrep.zoo.settings import SPLITS, parse_epochs, split_models
from hyperrep.zoo.split import METRICS


pytestmark = pytest.mark.usefixtures("contained")


@pytest.fixture(scope="module")
def zoo(folder) -> Zoo:
    return load_zoo(folder)


# ------------------------------------------------------------------------------------------------- what a zoo holds


def test_a_zoo_is_one_row_a_checkpoint_with_the_untrained_network_first(zoo):
    assert zoo.name == "small"
    assert zoo.revision is None
    assert [len(zoo[split]) for split in SPLITS] == [9, 3, 3]  # 3, 1 and 1 models
    models = []
    for split in SPLITS:
        rows = zoo[split]
        assert rows.weights.shape == (len(rows), 2464)
        assert rows.weights.dtype == torch.float32
        assert rows.epoch.tolist() == [0, 1, 2] * (len(rows) // 3)
        assert set(rows.metrics) == set(METRICS)
        assert all(values.shape == (len(rows),) for values in rows.metrics.values())
        models += rows.model_id.unique().tolist()
    assert sorted(models) == list(range(MODELS))  # every model in one split only


def test_a_seed_is_the_first_seed_plus_the_model_and_decides_the_initial_weights(zoo):
    for split in SPLITS:
        rows = zoo[split]
        assert torch.equal(rows.seed, rows.model_id + 1)
        untrained = rows.select([0])
        expected = initial_weights(zoo.config.network_config(), untrained.seed.tolist())
        assert torch.equal(untrained.weights, expected)
        assert not torch.equal(rows.select([1]).weights, expected)


def test_metrics_are_those_of_the_stored_weights(zoo, images):
    network, engine = zoo.config.network_config(), LoopEngine()
    for split in SPLITS:
        rows = zoo[split]
        for name, part in [("validation", images.validation), ("test", images.test)]:
            result = engine.evaluate(network, rows.weights, part.pixels, part.labels)
            torch.testing.assert_close(rows.metrics[f"{name}_loss"], result.loss)
            torch.testing.assert_close(rows.metrics[f"{name}_accuracy"], result.accuracy)
        untrained = rows.select([0])
        result = engine.evaluate(network, untrained.weights, images.train.pixels, images.train.labels)
        torch.testing.assert_close(untrained.metrics["train_loss"], result.loss)
        gap = rows.metrics["train_accuracy"] - rows.metrics["test_accuracy"]
        torch.testing.assert_close(rows.metrics["generalization_gap"], gap)


def test_a_stored_row_is_a_network_that_anybody_can_run(zoo, images):
    """From the config and the vector alone, through `datasets` and `transformers`."""
    row = zoo["test"][2:3]
    network = SmallCNNForImageClassification(zoo.config.network_config()).eval()
    network.load_state_dict(zoo.config.weight_layout().unvectorize(row.weights[0]))
    loss = network(images.test.pixels, labels=images.test.labels).loss.item()
    assert loss == pytest.approx(row.metrics["test_loss"].item(), rel=1e-5)


def test_load_dataset_reads_the_folder_with_the_same_values(folder, zoo):
    data = datasets.load_dataset(str(folder))
    assert {split: len(rows) for split, rows in data.items()} == {"train": 9, "validation": 3, "test": 3}
    features = data["train"].features
    assert list(features) == ["model_id", "seed", "epoch", "weights", *METRICS]
    assert features["weights"].length == 2464
    assert features["weights"].feature.dtype == "float32"
    assert [features[name].dtype for name in ("model_id", "seed", "epoch")] == ["int32", "int32", "int16"]
    assert {features[name].dtype for name in METRICS} == {"float32"}
    for split, rows in data.with_format("torch").items():
        assert torch.equal(rows["weights"][:], zoo[split].weights)
        assert torch.equal(rows["model_id"][:], zoo[split].model_id)
        assert torch.equal(rows["test_accuracy"][:], zoo[split].metrics["test_accuracy"])


def test_parquet_holds_a_fixed_size_list(folder):
    (path,) = (folder / "data").glob("train-*.parquet")
    schema = pq.read_schema(path)
    assert schema.field("weights").type == pa.list_(pa.float32(), 2464)


def test_the_config_says_what_columns_cannot(zoo, images, folder):
    config = zoo.config
    assert config.layout == WeightLayout.of(SmallCNNForImageClassification(config.network_config())).to_list()
    assert config.network["model_type"] == "small_cnn"
    assert config.network_config().id2label == {i: str(i) for i in range(10)}
    processor = SmallCNNImageProcessor.from_dict(config.image_processor)
    assert processor.to_dict() == get_protocol("digits").processor().to_dict()
    assert config.images == {
        "name": "digits",
        "fingerprint": images.fingerprint,
        "preprocessing": PREPROCESSING,
        "label_column": None,
        "train": 32,
        "validation": 8,
        "test": len(images.test),
    }
    assert (config.num_models, config.epochs) == (MODELS, [0, 1, 2])
    assert config.protocol["recipe"]["learning_rate"] == 5e-4
    assert (config.protocol["epochs"], config.protocol["first_seed"]) == (EPOCHS, 1)
    assert config.made_with["engine"] == "loop"
    assert not (folder / ".build").exists()


@pytest.mark.parametrize(
    ("models", "sizes"), [(4, [2, 1, 1]), (5, [3, 1, 1]), (20, [14, 3, 3]), (50, [34, 8, 8]), (1000, [700, 150, 150])]
)
def test_models_are_split_70_15_15(models, sizes):
    splits = split_models(models)
    assert [len(splits[name]) for name in ("train", "validation", "test")] == sizes
    assert sorted(torch.cat(list(splits.values())).tolist()) == list(range(models))
    assert all(torch.equal(part, part.sort().values) for part in splits.values())
    if models == 1000:  # shuffled, so that no split is made of neighbouring seeds
        assert abs(splits["test"].float().mean().item() - 500) < 100
        assert torch.equal(split_models(1000)["test"], splits["test"])


def test_rows_can_be_selected(zoo):
    rows = zoo["train"]
    last = rows.select([1, 2])
    assert last.epoch.tolist() == [1, 2] * 3
    assert torch.equal(last.weights, rows.weights[rows.epoch > 0])
    assert torch.equal(last.metrics["test_loss"], rows.metrics["test_loss"][rows.epoch > 0])
    assert len(rows[:4]) == 4
    with pytest.raises(UserError, match=r"epochs \[7\] are not in the zoo; it holds \[0, 1, 2\]"):
        rows.select([1, 7])


def test_a_network_is_the_same_in_every_zoo_that_has_its_seed(images, zoo, monkeypatch, tmp_path):
    """Whatever the other seeds, the number of models and the shards; and `keep_epochs` only leaves rows out."""
    monkeypatch.setattr(LoopEngine, "models_at_once", 3)
    other = load_zoo(
        build_zoo(settings(first_seed=4, models=4, keep_epochs=(2, 0, 2)), images, LoopEngine(), tmp_path / "other")
    )
    assert other.config.epochs == [0, 2]
    assert other.config.protocol["first_seed"] == 4

    def checkpoints(zoo: Zoo) -> dict[tuple[int, int], torch.Tensor]:
        return {
            (seed, epoch): vector
            for split in SPLITS
            for seed, epoch, vector in zip(zoo[split].seed.tolist(), zoo[split].epoch.tolist(), zoo[split].weights)
        }

    ours, theirs = checkpoints(zoo), checkpoints(other)
    assert sorted(theirs) == [(seed, epoch) for seed in (4, 5, 6, 7) for epoch in (0, 2)]
    for seed in (4, 5):
        for epoch in (0, 2):
            assert torch.equal(ours[seed, epoch], theirs[seed, epoch])


# ----------------------------------------------------------------------------------------------------------- the card


def test_the_card_tells_load_dataset_where_the_splits_are(folder):
    card = DatasetCard.load(folder / "README.md")
    (configuration,) = card.data.configs
    assert configuration["config_name"] == "default"
    files = {entry["split"]: entry["path"] for entry in configuration["data_files"]}
    for split in SPLITS:
        digest = hashlib.sha256((folder / files[split]).read_bytes()).hexdigest()
        assert files[split] == f"data/{split}-{digest[:16]}.parquet"
    assert "model-zoo" in card.data.tags
    assert "$" not in card.text  # every blank is filled
    assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_the_card_reports_the_accuracy_of_all_models(folder, zoo):
    text = (folder / "README.md").read_text()
    for epoch in (0, 1, 2):
        accuracy = 100 * torch.cat([zoo[split].select([epoch]).metrics["test_accuracy"] for split in SPLITS])
        held_out = 100 * zoo["test"].select([epoch]).metrics["test_accuracy"]
        spread = f"{accuracy.mean():.1f} ± {accuracy.std(correction=0):.1f}"
        assert f"| {epoch} | {spread} | 5 | {held_out.mean():.1f} ± 0.0 | 1 |" in text
    results = [json.loads(line) for line in (folder / "results" / "accuracy.jsonl").read_text().splitlines()]
    assert [(row["split"], row["epoch"], row["n"]) for row in results] == [
        *(("all", epoch, 5) for epoch in (0, 1, 2)),
        *(("test", epoch, 1) for epoch in (0, 1, 2)),
    ]
    assert results[2]["mean"] == pytest.approx(accuracy.mean().item() / 100, abs=1e-6)
    assert "A population of 5 networks" in text
    assert "2,464 parameters" in text
    assert "seeds | 1 to 5;" in text


def test_the_card_prints_the_published_accuracies_beside_ours(tmp_path):
    protocol = get_protocol("mnist")
    assert protocol.published_accuracy[25] == (83.3, 2.6)  # NeurIPS 2022, rows B_T
    protocol = dataclasses.replace(protocol, published_accuracy=protocol.published_accuracy | {2: (44.4, 5.5)})
    zoo = settings(protocol=protocol, models=4)
    text = (build_zoo(zoo, digits(protocol), LoopEngine(), tmp_path / "mnist") / "README.md").read_text()
    (first,) = [line for line in text.splitlines() if line.startswith("| 1 |")]
    assert first.endswith("| 20.6 ± 1.6 |")
    (second,) = [line for line in text.splitlines() if line.startswith("| 2 |")]
    assert second.endswith("| 44.4 ± 5.5 |")
    assert "83.3" not in text  # epoch 25 was not trained
    assert "This zoo saw 40 of the 60,000 training images" in text
    assert "An epoch is 4 steps here and was 5,000 there." in text


# ------------------------------------------------------------------------------------------ what users get wrong


@pytest.mark.parametrize(("name", "nearest"), [("minst", "mnist"), ("cifar", "cifar10"), ("SVHN", "svhn"), ("", "")])
def test_an_unknown_protocol_names_the_nearest(name, nearest):
    with pytest.raises(UserError, match=f"protocol '{name}' is unknown; did you mean '{nearest}.*There are mnist, "):
        get_protocol(name)


def test_protocols_are_as_published():
    """Model Zoos data set, arXiv 2209.14764, and the poster's accuracies."""
    recipes = {
        name: (p.recipe.optimizer, p.recipe.learning_rate, p.recipe.weight_decay, p.recipe.batch_size)
        for name, p in PROTOCOLS.items()
    }
    assert recipes["mnist"] == ("adam", 3e-4, 0, 10)
    assert recipes["svhn"] == ("adam", 3e-3, 0, 10)
    assert recipes["cifar10"] == ("adam", 1e-4, 1e-2, 10)
    assert recipes["stl10"] == ("adam", 1e-4, 1e-3, 10)
    small = {name: protocol for name, protocol in PROTOCOLS.items() if "model_type" not in protocol.network}
    assert small.keys() == PROTOCOLS.keys() - {"cifar10-resnet"}
    for name, protocol in small.items():
        network = protocol.network_config([str(i) for i in range(10)])
        parameters = SmallCNNForImageClassification(network).num_parameters()
        assert parameters == (2864 if name in ("cifar10", "stl10") else 2464)
        assert (protocol.processor().num_channels, protocol.processor().size.height) == (network.num_channels, 28)


def test_slim_resnets_take_images_as_they_are():
    protocol = PROTOCOLS["cifar10-resnet"]
    network = protocol.network_config([str(i) for i in range(10)])
    layout = layout_of(network)
    assert 10_000 < layout.num_params - len(layout.statistics) < 80_000
    assert (protocol.processor().num_channels, protocol.processor().size.height) == (3, 32) == input_shape(network)[:2]


def test_settings_are_checked():
    with pytest.raises(UserError, match="a zoo of 3 models cannot be split 70/15/15; ask for 4 or more"):
        settings(models=3)
    with pytest.raises(UserError, match="epochs is -1"):
        settings(epochs=-1)
    with pytest.raises(UserError, match=r"keep_epochs names \[3\], but training runs from epoch 0 to 2"):
        settings(keep_epochs=(1, 3))
    assert settings().keep_epochs == (0, 1, 2)
    assert list(settings(first_seed=7).seeds) == [7, 8, 9, 10, 11]


@pytest.mark.parametrize(
    "changes",
    [
        *({"models": value} for value in (-1, 10**9, 10**30, 5.0, True, float("nan"))),
        *({"epochs": value} for value in (10**9, 1.5, None)),
        *({"first_seed": value} for value in (-1, 2**31, 2**63, 0.5)),
        *({"test_epochs": value} for value in (10**9, "9")),
        *({"keep_epochs": value} for value in ((-1,), (10**9,), ("1",), (0.5,))),
    ],
)
def test_settings_out_of_range_are_refused(changes):
    (name,) = changes
    with pytest.raises(UserError, match=name):
        settings(**changes)


@pytest.mark.parametrize("text", ["", "x", "5-1", "1-", "-1", "1,,2", "٣", "1.5", "0-999999999", "1e3", "nan"])
def test_epochs_that_are_no_list(text):
    with pytest.raises(UserError, match="are not a list such as"):
        parse_epochs(text)


def test_epochs_are_read_as_they_are_printed():
    for epochs in ([0, 1, 5, 21, 22, 23, 24, 25, 50], [0], list(range(26)), [1, 2, 4, 5]):
        assert list(parse_epochs(listed(epochs))) == epochs
    assert listed([0, 1, 5, 21, 22, 23]) == "0,1,5,21-23"


def test_a_protocol_must_fit_the_images(images, tmp_path):
    message = r"protocol cifar10 wants images of shape \(3, 28, 28\), digits gives \(1, 28, 28\)"
    with pytest.raises(UserError, match=message):
        build_zoo(settings(protocol=get_protocol("cifar10")), images, LoopEngine(), tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()


def test_load_zoo_says_what_is_missing(folder, tmp_path):
    with pytest.raises(UserError, match=r"there is no folder '/no/such/zoo'"):
        load_zoo("/no/such/zoo")
    with pytest.raises(UserError, match=r"is empty"):
        load_zoo(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds no zoo_config\.json: it is not a zoo"):
        load_zoo(tmp_path)
    (tmp_path / "zoo_config.json").write_bytes((folder / "zoo_config.json").read_bytes())
    with pytest.raises(UserError, match=r"data/train-[0-9a-f]{16}\.parquet cannot be read"):
        load_zoo(tmp_path)


# ------------------------------------------------------------------------------------------------- images of a zoo


def image_folder(folder: Path, seed: int) -> Path:
    random = np.random.default_rng(seed)
    features = Features({"img": Image(), "fine_label": ClassLabel(names=["a", "b"])})
    folder.mkdir()
    for split, count in {"train": 30, "test": 10}.items():
        rows = {
            "img": list(random.integers(0, 256, (count, 28, 28), dtype=np.uint8)),
            "fine_label": [i % 2 for i in range(count)],
        }
        dataset = datasets.Dataset.from_dict(rows, features=features)
        dataset.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return folder


def test_zoo_images_finds_the_images_a_zoo_was_trained_on(zoo, images):
    found = zoo_images(zoo)  # as many training images as the zoo saw
    for split in ("train", "validation", "test"):
        assert torch.equal(getattr(found, split).pixels, getattr(images, split).pixels)
        assert torch.equal(getattr(found, split).labels, getattr(images, split).labels)


def test_zoo_images_takes_the_same_images_from_elsewhere_and_refuses_others(tmp_path):
    protocol = get_protocol("digits")
    source = image_folder(tmp_path / "pets", seed=0)
    images = load_images(str(source), protocol.processor(), protocol.validation_fraction)
    zoo = load_zoo(build_zoo(settings(models=4, epochs=0), images, LoopEngine(), tmp_path / "zoo"))
    assert zoo.config.images["name"] == "pets"
    assert zoo.config.network_config().id2label == {0: "a", 1: "b"}

    moved = image_folder(tmp_path / "moved", seed=0)
    assert torch.equal(zoo_images(zoo, str(moved)).test.pixels, images.test.pixels)
    other = image_folder(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=r"was trained on 24 images of pets .*other gives 24 others"):
        zoo_images(zoo, str(other))
    with pytest.raises(UserError, match=r"was trained on 24 images of pets .*digits gives 24 others"):
        zoo_images(zoo, "digits")


def test_zoo_images_knows_the_column_of_labels(tmp_path):
    protocol, source = get_protocol("digits"), tmp_path / "pets"
    source.mkdir()
    random = np.random.default_rng(0)
    features = Features({"image": Image(), "kind": Value("string"), "shelter": Value("int64")})
    for split, count in {"train": 30, "test": 10}.items():
        rows = {
            "image": list(random.integers(0, 256, (count, 28, 28), dtype=np.uint8)),
            "kind": ["dog" if i % 3 else "cat" for i in range(count)],
            "shelter": [i % 2 for i in range(count)],
        }
        dataset = datasets.Dataset.from_dict(rows, features=features)
        dataset.to_parquet(str(source / f"{split}-00000-of-00001.parquet"))
    images = load_images(str(source), protocol.processor(), protocol.validation_fraction, label_column="kind")
    zoo = load_zoo(build_zoo(settings(models=4, epochs=0), images, LoopEngine(), tmp_path / "zoo"))
    assert zoo.config.network_config().id2label == {0: "cat", 1: "dog"}
    assert zoo_images(zoo, str(source)).fingerprint == images.fingerprint
    assert "--label-column 'kind'" in (tmp_path / "zoo" / "README.md").read_text()


def test_images_that_were_read_by_an_older_version_are_told_from_other_images(zoo, images):
    old = dataclasses.replace(
        zoo, config=dataclasses.replace(zoo.config, images=zoo.config.images | {"fingerprint": "0" * 16})
    )
    with pytest.raises(UserError, match=r"gives \d+ others \(\w+\)\.$"):
        zoo_images(old)
    del old.config.images["preprocessing"]
    with pytest.raises(UserError, match="; version 1 of the preprocessing made the zoo, here is 2"):
        zoo_images(old)
