"""Two processes compute what one does: gradients through the contrast of all ranks, and whole training runs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from launch import Processes
from safetensors.torch import load_file, save_file
from tiny_zoo import TINY_SETTINGS, tiny_layout, write_tiny_zoo

from hyperrep.representation import HyperRepConfig, HyperRepModel
from hyperrep.training import TrainingConfig, train
from hyperrep.zoo import load_zoo


ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.distributed


def tiny_model() -> HyperRepModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "latent_size": 8}
    sizes |= {"projection_hidden_size": 16, "projection_num_layers": 1, "projection_size": 8}
    # wide initial weights: with narrow ones the projections hardly differ and batch norm magnifies rounding errors
    sizes |= {"contrast_weight": 0.5, "initializer_range": 0.3}
    return HyperRepModel(HyperRepConfig(layout=tiny_layout().to_list(), **sizes))


def two_views(networks: slice) -> torch.Tensor:
    """(2 * networks, num_params) of eight networks, the second view noisy."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(8, tiny_layout().num_params, generator=generator)
    noisy = weights + 0.5 * torch.randn(weights.shape, generator=generator)
    return torch.cat([weights[networks], noisy[networks]])


def gradients_of_one_process() -> dict[str, torch.Tensor]:
    model = tiny_model().train()
    output = model(two_views(slice(0, 8)), num_views=2)
    output.loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return gradients | {"loss": output.loss.detach(), "running_mean": model.projection_head.norm.running_mean}


def worker(folder: Path) -> None:
    """What each of the two processes does."""
    from accelerate import Accelerator

    accelerator = Accelerator()
    rank, processes = accelerator.process_index, accelerator.num_processes
    wrapped = accelerator.prepare(tiny_model().train())
    output = wrapped(two_views(slice(4 * rank, 4 * rank + 4)), num_views=2)
    accelerator.backward(output.loss)
    model = accelerator.unwrap_model(wrapped)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    gradients["loss"] = accelerator.reduce(output.loss.detach(), "mean")
    gradients["running_mean"] = model.projection_head.norm.running_mean
    save_file(gradients, folder / f"gradients-{rank}-of-{processes}.safetensors")
    accelerator.end_training()  # or threads of the process group may abort the process as it ends


# `accelerate launch --cpu --num_processes 2` starts one process only; --multi_gpu with ACCELERATE_USE_CPU starts two
ACCELERATE = (
    "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 "
    "--main_process_port 0 --mixed_precision no --dynamo_backend no"  # any free port: tests run side by side
)
TORCHRUN = "torch.distributed.run --standalone --nproc_per_node 2"


def run_two_processes(launcher: str, script: Path, *arguments: str | Path) -> None:
    python_path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": python_path, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *launcher.split(), str(script), *map(str, arguments)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


def test_gradients_of_two_processes_are_those_of_one(tmp_path):
    run_two_processes(TORCHRUN, Path(__file__), tmp_path)
    results = sorted(tmp_path.iterdir())
    assert [path.name for path in results] == ["gradients-0-of-2.safetensors", "gradients-1-of-2.safetensors"]
    expected = gradients_of_one_process()
    for path in results:
        gradients = load_file(path)
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():  # of size 0.1 to 1; sums in another order differ in the sixth digit
            torch.testing.assert_close(
                gradient, expected[name], rtol=1e-4, atol=1e-5, msg=lambda message, name=name: f"{name}: {message}"
            )


@pytest.mark.parametrize(
    "micro_batches",
    [{}, {"gradient_accumulation_steps": 2, "contrast_weight": 0}],  # a contrast sees one micro-batch only
    ids=["whole batches", "micro-batches"],
)
def test_training_on_two_processes_gives_the_model_of_one(tmp_path, micro_batches):
    zoo = write_tiny_zoo(tmp_path / "zoo")
    settings = TINY_SETTINGS | {"num_train_epochs": 2, "permute": False, "erase_prob": 0.0}
    settings |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.3}
    settings |= micro_batches
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings))
    run_two_processes(ACCELERATE, ROOT / "scripts" / "train.py", config, "--zoo", zoo, "--output", tmp_path / "two")
    one = train(TrainingConfig.from_dict(settings | {"gradient_accumulation_steps": 1}), zoo, tmp_path / "one")
    two = json.loads((tmp_path / "two" / "results" / "training.json").read_text())
    assert (one["machine"]["processes"], two["machine"]["processes"]) == (1, 2)
    assert two["train"] == pytest.approx(one["train"], rel=1e-4)
    assert two["steps"] == one["steps"] == 10
    logs = [
        [json.loads(line)["learning_rate"] for line in (tmp_path / name / "training_log.jsonl").open()]
        for name in ("one", "two")
    ]
    assert logs[0] == logs[1]
    # Outputs, not parameters: biases of keys have no gradient but rounding errors, which Adam turns into steps.
    weights = load_zoo(zoo)["test"].weights
    reconstructions = [
        HyperRepModel.from_pretrained(tmp_path / name)(weights).reconstruction for name in ("one", "two")
    ]
    torch.testing.assert_close(*reconstructions, rtol=1e-3, atol=1e-3)


def test_two_processes_stop_early_together_and_keep_the_best(tmp_path):
    zoo = write_tiny_zoo(tmp_path / "zoo")
    settings = TINY_SETTINGS | {"num_train_epochs": 40, "eval_epochs": 1, "learning_rate": 0.03, "permute": False}
    settings |= {"load_best_model_at_end": True, "early_stopping_patience": 2, "gradient_accumulation_steps": 2}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings))
    run_two_processes(TORCHRUN, ROOT / "scripts" / "train.py", config, "--zoo", zoo, "--output", tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results" / "training.json").read_text())
    log = [json.loads(line) for line in (tmp_path / "out" / "training_log.jsonl").open()]
    losses = [entry["validation"]["reconstruction_loss"] for entry in log]
    assert results["machine"]["processes"] == 2
    assert len(log) < 40
    assert results["steps"] == log[-1]["step"]
    assert losses.index(min(losses)) == len(losses) - 3
    assert results["best"] == {"step": log[-3]["step"], "reconstruction_loss": min(losses)}
    assert results["validation"]["reconstruction_loss"] == pytest.approx(min(losses), rel=1e-6)


def test_a_signal_to_any_process_stops_both_with_a_checkpoint(tmp_path):
    zoo, output, config = write_tiny_zoo(tmp_path / "zoo"), tmp_path / "out", tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(TINY_SETTINGS | {"num_train_epochs": 5000, "checkpoint_epochs": 5000}))
    command = [sys.executable, "-m", "hyperrep_cli", "train", str(config), "--zoo", str(zoo), "--output", str(output)]
    with (tmp_path / "said.txt").open("w") as said:
        run = Processes(command, 2, {"PYTHONPATH": str(ROOT / "src")}, said)
        try:
            while not any(path.stat().st_size for path in output.glob("training_log.jsonl")):
                assert run.poll() is None, (tmp_path / "said.txt").read_text()
                time.sleep(0.05)
            run.processes[1].send_signal(signal.SIGTERM)
            assert [process.wait(120) for process in run.processes] == [130, 143]
        finally:
            run.kill()
    assert (tmp_path / "said.txt").read_text().count("go on with the same command and --resume") == 1
    assert [path.name for path in output.glob("checkpoints/step-*/state.json")] == ["state.json"]


@pytest.mark.parametrize("launcher", [ACCELERATE, TORCHRUN], ids=["accelerate", "torchrun"])
def test_a_mistake_that_all_processes_make_is_told_once(tmp_path, launcher):
    command = [sys.executable, "-m", *launcher.split(), "-m", "hyperrep_cli", "train", "mnits", "--zoo", "z"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [*command, "--output", str(tmp_path / "out")], env=environment, capture_output=True, text=True, timeout=120
    )
    assert run.returncode != 0
    assert run.stderr.count("error: there is neither a file nor a preset 'mnits'; did you mean 'mnist'?") == 1
    assert not (tmp_path / "out").exists()


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
