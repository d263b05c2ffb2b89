"""What a run measures, and the decisions it takes from that: the best model, and when to stop."""

import json
import math

import pytest
import torch
from tiny_zoo import write_tiny_zoo
from training_runs import Killed, files, killed_at, one_thread, tiny_config  # noqa: F401

from hyperrep.errors import UserError
from hyperrep.networks import SmallCNNConfig
from hyperrep.population import Evaluation, choose_engine
from hyperrep.representation import HyperRepModel
from hyperrep.representation.batched import decode_rows, encode_rows
from hyperrep.training import TrainingConfig, train
from hyperrep.training.data import TrainingData
from hyperrep.training.measures import TRAIN_SAMPLE, Evaluator, probe_r2
from hyperrep.training.selection import ModelSelection
from hyperrep.zoo import load_zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return write_tiny_zoo(tmp_path_factory.mktemp("zoo") / "tiny")


def log_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]


# Measures


def test_a_linear_probe_reads_what_is_linear_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    latents, direction = torch.randn(400, 5, generator=generator), torch.randn(5, generator=generator)
    noise = torch.randn(400, generator=generator)
    split = (latents[:300], latents[300:])

    def r2(values):
        return probe_r2(split[0], values[:300], split[1], values[300:])

    assert r2(latents @ direction) > 0.99
    assert r2(noise) < 0.1
    half = latents @ direction / direction.norm() + noise  # half of its variance can be known
    assert r2(half) == pytest.approx(0.5, abs=0.15)
    assert r2(torch.ones(400)) is None
    missing = (latents @ direction).index_fill(0, torch.tensor([3, 350]), math.nan)
    assert r2(missing) > 0.99


def test_accuracies_are_those_of_every_row_on_the_images_of_its_split(digits_zoo, digits_images):
    loaded = load_zoo(digits_zoo)
    network: SmallCNNConfig = loaded.config.network_config()
    data = TrainingData.from_zoo(loaded, [24, 25], 5.0)
    engine = choose_engine("auto", network)
    torch.manual_seed(0)
    model = HyperRepModel(tiny_config().model_config(layout=loaded.config.layout))
    results = Evaluator(data, network, engine, digits_images)(model, "train_sample", "validation", "test")
    for split, weights, images in (
        ("train_sample", data.train, digits_images.validation),
        ("validation", data.validation, digits_images.validation),
        ("test", data.test, digits_images.test),
    ):
        assert len(weights) <= TRAIN_SAMPLE
        accuracy = results[split]["accuracy"]
        for name, vectors in (
            ("original", weights),
            ("reconstruction", decode_rows(model, encode_rows(model, weights))),
        ):
            expected = engine.evaluate(network, vectors, images.pixels, images.labels).accuracy.double()
            assert accuracy[name]["mean"] == pytest.approx(expected.mean().item())
            assert accuracy[name]["std"] == pytest.approx(expected.std(correction=0).item())
            assert accuracy[name]["n"] == len(weights)
        assert accuracy["original"]["mean"] > 2 * accuracy["reconstruction"]["mean"]
    # the zoo says the same of its networks
    assert results["test"]["accuracy"]["original"]["mean"] == pytest.approx(data.test_accuracy["test"].mean().item())
    assert "probe_r2" not in results["train_sample"]


def test_the_training_sample_is_capped_and_the_other_splits_are_not(zoo, monkeypatch):
    data = TrainingData.from_zoo(load_zoo(zoo), [1, 2], 5.0)
    monkeypatch.setattr("hyperrep.training.measures.TRAIN_SAMPLE", 7)
    rows = Evaluator(data).rows
    assert [len(rows[split]) for split in ("train_sample", "validation", "test")] == [7, 10, 10]
    assert torch.equal(rows["train_sample"][[0, -1]], data.train[[0, -1]])


def test_validation_images_are_capped_and_test_images_are_not(digits_zoo, digits_images, monkeypatch):
    class Engine:
        def evaluate(self, network, weights, pixels, labels):
            seen.append(len(labels))
            return Evaluation(torch.zeros(len(weights)), torch.zeros(len(weights)))

    seen: list[int] = []
    monkeypatch.setattr("hyperrep.training.measures.VALIDATION_IMAGES", 3)
    loaded = load_zoo(digits_zoo)
    model = HyperRepModel(tiny_config().model_config(layout=loaded.config.layout))
    evaluate = Evaluator(
        TrainingData.from_zoo(loaded, [25], 5.0), loaded.config.network_config(), Engine(), digits_images
    )
    evaluate(model, "validation", "test")
    evaluate(model, "validation")
    test = len(digits_images.test)
    assert seen == [3, 3, test, test, 3]  # originals and reconstructions; then originals are known


def test_results_and_log_hold_all_measures(digits_zoo, tmp_path):
    settings = {"epochs": [24, 25], "num_train_epochs": 1, "eval_epochs": 1}
    results = train(tiny_config(**settings), digits_zoo, tmp_path / "out")
    entry = log_of(tmp_path / "out")[-1]
    for split in ("validation", "test"):
        assert results[split].keys() == {"reconstruction_loss", "r2", "r2_per_layer", "accuracy", "probe_r2"}
    assert entry["validation"] == results["validation"]
    assert entry["train_sample"] == results["train_sample"]
    assert "test" not in entry  # no decision during training may see it


def test_without_images_accuracies_are_left_out_and_that_is_said_once(zoo, tmp_path, caplog):
    results = train(tiny_config(), zoo, tmp_path / "out")
    assert "accuracy" not in results["test"]
    assert "probe_r2" in results["test"]
    said = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert said == [
        "accuracies of reconstructed networks are left out: zoo tiny does not say which images it was trained on."
    ]
    with pytest.raises(UserError, match="no image folder at '/nowhere'"):
        train(tiny_config(), load_digits_like(zoo), tmp_path / "other", images="/nowhere")


def load_digits_like(zoo):
    """The tiny zoo, with what it takes to look for images."""
    loaded = load_zoo(zoo)
    loaded.config.protocol.update(validation_fraction=0.2, recipe={})
    loaded.config.images.update(train=8, validation=2, fingerprint="none")
    return loaded


# Decisions


@pytest.mark.parametrize(("name", "greater"), [("reconstruction_loss", False), ("r2", True), ("probe_r2", True)])
def test_the_best_evaluation_and_the_ones_since(name, greater):
    config = TrainingConfig(metric_for_best_model=name, early_stopping_patience=2)
    state: dict = {}
    selection = ModelSelection(config, state)
    sign = 1 if greater else -1
    improved = []
    for step, value in enumerate([math.nan, 1.0, 2.0, 2.0, math.nan]):
        assert not selection.exhausted
        improved.append(selection.update(step, {name: sign * value}))
    assert improved == [False, True, True, False, False]
    assert state["best"] == {"step": 2, "value": sign * 2.0}
    assert selection.exhausted
    assert not selection.update(9, {})  # a metric that is not there is no better one
    assert ModelSelection(config, json.loads(json.dumps(state))).exhausted  # as after a resume


def scripted(losses):
    """An evaluator whose validation losses are given."""

    class Scripted(Evaluator):
        def __call__(self, model, *splits):
            results = super().__call__(model, *splits)
            if "test" not in splits:
                results["validation"]["reconstruction_loss"] = losses.pop(0)
            return results

    return Scripted


def test_the_best_model_is_the_one_that_is_kept(zoo, tmp_path, monkeypatch):
    epochs = {"num_train_epochs": 6, "eval_epochs": 1, "checkpoint_epochs": 6, "lr_schedule": "constant"}
    monkeypatch.setattr("hyperrep.training.start.Evaluator", scripted([3.0, 1.0, 2.0, 2.0, 2.0, 2.0]))
    results = train(tiny_config(**epochs, load_best_model_at_end=True), zoo, tmp_path / "best")
    assert results["steps"] == 30
    assert results["best"] == {"step": 10, "reconstruction_loss": 1.0}
    monkeypatch.undo()
    short = train(tiny_config(**epochs | {"num_train_epochs": 2}), zoo, tmp_path / "short")
    model = "model.safetensors"
    assert (tmp_path / "best" / model).read_bytes() == (tmp_path / "short" / model).read_bytes()
    assert results["test"] == short["test"]
    assert files(tmp_path / "best") == files(tmp_path / "short")  # the best checkpoint, too, is removed in the end


def test_early_stopping_counts_evaluations(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr("hyperrep.training.start.Evaluator", scripted([3.0, 1.0, 2.0, 1.5]))
    epochs = {"num_train_epochs": 20, "eval_epochs": 2, "checkpoint_epochs": 3}
    results = train(tiny_config(**epochs, early_stopping_patience=2), zoo, tmp_path / "out")
    assert results["steps"] == 4 * 2 * 5
    assert results["best"] == {"step": 20, "reconstruction_loss": 1.0}
    assert log_of(tmp_path / "out")[-1]["step"] == 40


@pytest.mark.parametrize("dies_at", [3, 13, 22, 33])
def test_a_resumed_run_chooses_and_stops_as_an_undisturbed_one(zoo, tmp_path, monkeypatch, dies_at):
    settings = {
        "num_train_epochs": 12,
        "eval_epochs": 1,
        "checkpoint_epochs": 3,
        "learning_rate": 0.03,
        "lr_schedule": "constant",
    }
    config = tiny_config(**settings, load_best_model_at_end=True, early_stopping_patience=3)
    whole = train(config, zoo, tmp_path / "whole")
    assert whole["best"]["step"] < whole["steps"]

    killed_at(monkeypatch, dies_at)
    if dies_at < whole["steps"]:
        with pytest.raises(Killed):
            train(config, zoo, tmp_path / "out")
    monkeypatch.undo()
    resumed = train(config, zoo, tmp_path / "out", resume=True)
    for name in ("best", "steps", "test", "train"):
        assert resumed[name] == whole[name]
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


def test_a_run_that_had_decided_to_stop_does_not_go_on_when_resumed(zoo, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise Killed

    config = tiny_config(num_train_epochs=12, eval_epochs=1, checkpoint_epochs=1, early_stopping_patience=1)
    monkeypatch.setattr("hyperrep.training.start.Evaluator", scripted([3.0, 2.0, 4.0]))
    monkeypatch.setattr(HyperRepModel, "save_pretrained", killed)
    with pytest.raises(Killed):
        train(config, zoo, tmp_path / "out")
    monkeypatch.undo()
    results = train(config, zoo, tmp_path / "out", resume=True)
    assert results["steps"] == 15
    assert results["best"] == {"step": 10, "reconstruction_loss": 2.0}


def test_when_evaluations_decide_their_number_is_part_of_the_run(zoo, tmp_path):
    config = {"num_train_epochs": 1, "load_best_model_at_end": True}
    train(tiny_config(**config, eval_epochs=1), zoo, tmp_path / "out")
    with pytest.raises(UserError, match="had eval_epochs 1, this one has 2"):
        train(tiny_config(**config, eval_epochs=2), zoo, tmp_path / "out", resume=True)


def test_choosing_by_accuracy_needs_images(zoo, tmp_path):
    config = tiny_config(load_best_model_at_end=True, metric_for_best_model="accuracy")
    with pytest.raises(UserError, match="metric_for_best_model accuracy needs the zoo's images"):
        train(config, zoo, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="metric_for_best_model 'test_loss' is unknown; choose from"):
        tiny_config(metric_for_best_model="test_loss")
