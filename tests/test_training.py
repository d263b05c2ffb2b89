"""The training loop: settings that are checked, a run that learns, resumes to the bit, and fails cleanly."""

import json
import shutil
import signal

import pytest
import torch
import yaml
from accelerate import tracking
from accelerate.tracking import GeneralTracker
from accelerate.utils import LoggerType
from tiny_zoo import TINY_SETTINGS, tiny_layout, write_tiny_zoo
from training_runs import Killed, files, one_thread, script, tiny_config, wait_for  # noqa: F401
from transformers import AutoModel

from hyperrep.errors import UserError
from hyperrep.representation import HyperRepModel
from hyperrep.training import TrainingConfig, evaluate_reconstruction, loop, train
from hyperrep.training.data import TrainingData, epoch_order
from hyperrep.training.step import learning_rate_at, make_views
from hyperrep.zoo import load_zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return write_tiny_zoo(tmp_path_factory.mktemp("zoo") / "tiny")


# Data


def test_wild_and_broken_checkpoints_are_dropped_and_counted(zoo):
    loaded = load_zoo(zoo)
    loaded["train"].weights[3, 0] = 5.5
    loaded["train"].weights[4, 1] = float("nan")
    loaded["train"].weights[5, 2] = -5.5
    data = TrainingData.from_zoo(loaded, [1, 2], weight_threshold=5.0)
    clean = (loaded["train"].weights.abs() <= 5).all(dim=1)
    assert data.dropped["train"] == int((~clean).sum()) >= 3
    assert torch.equal(data.train, loaded["train"].weights[clean])
    with pytest.raises(UserError, match="drops all 40 train checkpoints"):
        TrainingData.from_zoo(loaded, [1, 2], weight_threshold=1e-9)


def test_digest_tells_zoos_apart(zoo, tmp_path):
    def digest(folder):
        return TrainingData.from_zoo(load_zoo(folder), [1, 2], 5.0).digest

    # a copy: the same recipe may round another way with another number of threads
    assert digest(zoo) == digest(shutil.copytree(zoo, tmp_path / "same"))
    assert digest(zoo) != digest(write_tiny_zoo(tmp_path / "other", 1))


def test_every_epoch_sees_every_row_in_its_own_order():
    orders = [epoch_order(50, seed=1, epoch=epoch) for epoch in (0, 1)]
    assert all(sorted(order.tolist()) == list(range(50)) for order in orders)
    assert not torch.equal(*orders)


def test_views_and_targets():
    layout = tiny_layout()
    weights = torch.rand(10, layout.num_params) + 1

    def views(**kwargs):
        return make_views(weights, layout, tiny_config(**kwargs), 2, torch.Generator().manual_seed(0))

    augmented, target, clean = views(erase_prob=1.0)
    assert torch.equal(augmented, target)
    assert not (clean == 0).any()
    augmented, target, clean = views(erase_prob=1.0, erase_target="clean")
    assert torch.equal(target, clean)
    erased = augmented == 0
    assert erased.any()
    assert not (target == 0).any()
    assert torch.equal(augmented[~erased], target[~erased])
    # row i and row batch + i are the same network, permuted in two ways
    assert torch.equal(target[:10].sort(dim=1).values, target[10:].sort(dim=1).values)
    assert not torch.equal(target[:10], target[10:])


def test_learning_rate_schedule():
    config = tiny_config(learning_rate=0.1, warmup_steps=10)
    rates = [learning_rate_at(step, 110, config) for step in range(110)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[9] == rates[10] == pytest.approx(0.1)
    assert rates[60] == pytest.approx(0.05)
    assert 0 < rates[-1] < 1e-4
    assert learning_rate_at(100, 110, tiny_config(learning_rate=0.1, lr_schedule="constant")) == 0.1


# A run


def test_a_run_learns_and_is_an_ordinary_model_folder(zoo, tmp_path):
    config = tiny_config(
        num_train_epochs=60, learning_rate=1e-2, permute=False, erase_prob=0.0, hidden_dropout_prob=0.0
    )
    results = train(config, zoo, tmp_path / "out")
    assert files(tmp_path / "out") == {
        "config.json",
        "model.safetensors",
        "training_log.jsonl",
        "results/training.json",
        "checkpoints/settings.json",
        ".hyperrep.json",
    }
    assert json.loads((tmp_path / "out" / "results" / "training.json").read_text()) == results
    assert results["validation"]["r2"] > 0.3
    assert results["rows"] == {"train": 40, "validation": 10, "test": 10}
    assert list(results["test"]["r2_per_layer"]) == ["convs.0", "linears.0", "linears.1"]

    log = [json.loads(line) for line in (tmp_path / "out" / "training_log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log] == list(range(1, 61))
    assert log[-1]["step"] == 60 * (40 // 8) == results["steps"]
    assert log[-1]["loss"] < log[0]["loss"]
    assert [entry["epoch"] for entry in log if "validation" in entry] == list(range(2, 61, 2))

    model = AutoModel.from_pretrained(tmp_path / "out")
    loaded = load_zoo(zoo)
    assert model.config.zoo["name"] == "tiny"
    assert model.config.network["model_type"] == "small_cnn"
    assert model.processor.layer_std[0].item() == pytest.approx(
        loaded["train"].weights[:, : model.config.layers[0].num_params].std().item()
    )
    again = evaluate_reconstruction(model, loaded["validation"].weights, loaded["train"].weights.mean(dim=0), 3)
    assert again["r2"] == pytest.approx(results["validation"]["r2"], abs=1e-5)


def test_evaluation_keeps_the_last_partial_batch(zoo):
    weights = load_zoo(zoo)["validation"].weights  # 10 rows
    model = HyperRepModel(tiny_config().model_config(layout=tiny_layout().to_list()))
    model.processor.fit(weights)
    whole, parts = (evaluate_reconstruction(model, weights, weights.mean(dim=0), size) for size in (10, 4))
    assert parts["reconstruction_loss"] == pytest.approx(whole["reconstruction_loss"])
    with torch.no_grad():
        expected = model.eval()(weights).reconstruction_loss.item()
    assert whole["reconstruction_loss"] == pytest.approx(expected)


def test_accumulated_gradients_give_the_model_of_the_whole_batch(zoo, tmp_path):
    # nothing that depends on the composition of a micro-batch: no contrast, no dropout, no augmentation
    plain = {"contrast_weight": 0, "permute": False, "erase_prob": 0.0, "initializer_range": 0.3}
    plain |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    logs = []
    for count in (1, 4):
        train(tiny_config(gradient_accumulation_steps=count, **plain), zoo, tmp_path / str(count))
        lines = (tmp_path / str(count) / "training_log.jsonl").read_text().splitlines()
        logs.append([json.loads(line)["loss"] for line in lines])
    assert logs[1] == pytest.approx(logs[0], rel=1e-4)
    weights = load_zoo(zoo)["test"].weights
    models = [HyperRepModel.from_pretrained(tmp_path / name) for name in ("1", "4")]
    torch.testing.assert_close(*(model(weights).reconstruction for model in models), rtol=1e-3, atol=1e-3)


def test_without_contrast_and_in_bf16(zoo, tmp_path):
    # a subprocess, because accelerate fixes the precision of a process once
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(TINY_SETTINGS | {"num_train_epochs": 1}))
    run = script(path, zoo, tmp_path / "out", "--mixed_precision", "bf16", "--contrast_weight", "0")
    assert run.wait() == 0, run.stderr.read()
    model = HyperRepModel.from_pretrained(tmp_path / "out")
    assert model.projection_head is None
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}


def test_trackers_get_every_epochs_numbers(zoo, tmp_path, monkeypatch):
    class Tracker(GeneralTracker):
        """Stands in for trackio."""

        name = "trackio"
        requires_logging_directory = False
        tracker = None

        def __init__(self, run_name, **kwargs):
            super().__init__()

        def store_init_configuration(self, values):
            seen["configuration"] = values

        def log(self, values, step, **kwargs):
            seen.setdefault(step, {}).update(values)

    seen: dict = {}
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.TRACKIO])
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "trackio", Tracker)
    train(tiny_config(num_train_epochs=2, log_with="trackio"), zoo, tmp_path / "out")
    assert seen["configuration"]["batch_size"] == "8"
    assert set(seen) == {"configuration", 5, 10}
    assert {"loss", "learning_rate", "validation/r2_per_layer/convs.0", "test/r2"} <= seen[10].keys()
    assert all(isinstance(value, (int, float)) for value in seen[10].values())


# Exact resume


def test_killed_and_resumed_runs_give_the_same_bytes(zoo, tmp_path):
    settings = TINY_SETTINGS | {"num_train_epochs": 30, "checkpoint_epochs": 2, "eval_epochs": 10}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    undisturbed = train(TrainingConfig.from_dict(settings), zoo, tmp_path / "undisturbed")

    output = tmp_path / "disturbed"
    run = script(path, zoo, output)
    wait_for(lambda: list(output.glob("checkpoints/step-*")), run)
    run.kill()
    run.wait()
    assert not (output / "model.safetensors").exists()

    run = script(path, zoo, output, "--resume")
    wait_for(lambda: len(list(output.glob("checkpoints/step-*"))) == 2, run)
    run.send_signal(signal.SIGINT)
    stderr = run.communicate()[1]
    assert run.returncode == 130, stderr
    assert stderr.strip().splitlines()[-1].endswith("go on with the same command and --resume.")
    assert not (output / "model.safetensors").exists()
    steps = sorted(int(p.name.removeprefix("step-")) for p in output.glob("checkpoints/step-*"))
    assert len(steps) == 2

    resumed = train(TrainingConfig.from_dict(settings), zoo, output, resume=True)
    for name in ("model.safetensors", "config.json"):
        assert (output / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()
    assert resumed["validation"] == undisturbed["validation"]
    logs = [
        [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in file.read_text().splitlines()]
        for file in (output / "training_log.jsonl", tmp_path / "undisturbed" / "training_log.jsonl")
    ]
    assert logs[0] == logs[1]
    # a complete run is left as it is
    before = (output / "model.safetensors").stat().st_mtime_ns
    assert train(TrainingConfig.from_dict(settings), zoo, output, resume=True) == resumed
    assert (output / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_compiled_run_resumes_to_the_byte(zoo, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(TINY_SETTINGS | {"num_train_epochs": 30, "torch_compile": True}))
    whole = script(path, zoo, tmp_path / "whole")
    assert whole.wait() == 0, whole.stderr.read()
    run = script(path, zoo, tmp_path / "out")
    wait_for(lambda: list((tmp_path / "out").glob("checkpoints/step-*")), run)
    run.kill()
    run.wait()
    assert not (tmp_path / "out" / "model.safetensors").exists()
    run = script(path, zoo, tmp_path / "out", "--resume")
    assert run.wait() == 0, run.stderr.read()
    files_of_runs = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "out")]
    assert files_of_runs[0] == files_of_runs[1]


def test_an_unfinished_checkpoint_is_not_resumed_from(zoo, tmp_path, monkeypatch):
    def killed(*_):
        raise Killed

    monkeypatch.setattr(loop, "append_log", killed)  # the first epoch ends, its checkpoint is not yet written
    with pytest.raises(Killed):
        train(tiny_config(), zoo, tmp_path / "out")
    monkeypatch.undo()
    half = tmp_path / "out" / ".hyperrep-stage-killed.hyperrep-tmp" / "stage"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    train(tiny_config(), zoo, tmp_path / "out", resume=True)
    train(tiny_config(), zoo, tmp_path / "undisturbed")
    assert files(tmp_path / "out") == files(tmp_path / "undisturbed")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        tmp_path / "undisturbed" / "model.safetensors"
    ).read_bytes()
