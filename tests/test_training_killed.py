"""A run that is killed at random moments, again and again, ends with the bytes of one that was left alone."""

import os
import random
import sys
import time
from pathlib import Path

import pytest
import yaml
from launch import Processes
from tiny_zoo import TINY_SETTINGS, write_tiny_zoo
from training_runs import ROOT


KILLS = 10
# dropout and augmentation are on, and so is all that is carried from one part of a run to the next
SETTINGS = TINY_SETTINGS | {
    "num_train_epochs": 240,
    "checkpoint_epochs": 3,
    "eval_epochs": 2,
    "additive_noise": 0.01,
    "gradient_accumulation_steps": 2,
    "load_best_model_at_end": True,
    "early_stopping_patience": 1000,
}
LIMIT = 600  # seconds, after which something hangs


def start(count: int, config: Path, zoo: Path, output: Path, *arguments: str) -> Processes:
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), str(config)]
    command += ["--zoo", str(zoo), "--output", str(output), *arguments]
    python_path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    with (output.parent / f"{output.name}.txt").open("a") as log:
        return Processes(command, count, {"PYTHONPATH": python_path}, log)


def last_step(output: Path) -> int:
    return max([int(path.name.removeprefix("step-")) for path in output.glob("checkpoints/step-*")], default=0)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.distributed)])
def test_ten_kills_leave_no_trace(tmp_path, processes):
    zoo, config = write_tiny_zoo(tmp_path / "zoo"), tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(SETTINGS))
    undisturbed, output = tmp_path / "undisturbed", tmp_path / "disturbed"
    run = start(processes, config, zoo, undisturbed)
    assert run.wait(LIMIT) == 0, (tmp_path / "undisturbed.txt").read_text()

    moments = random.Random(processes)
    steps = 5 * SETTINGS["num_train_epochs"]
    for kill in range(KILLS):
        # the moment is random, but each part of the run gets further than the one before
        target = steps * (kill + 1) // (KILLS + 2)
        run = start(processes, config, zoo, output, *(["--resume"] if output.exists() else []))
        while last_step(output) < target:
            assert run.poll() is None, (tmp_path / "disturbed.txt").read_text()
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.3))
        assert run.poll() is None, "the run was over before it could be killed"
        run.kill()
    assert not (output / "model.safetensors").exists()
    run = start(processes, config, zoo, output, "--resume")
    assert run.wait(LIMIT) == 0, (tmp_path / "disturbed.txt").read_text()

    for name in ("model.safetensors", "sampler/sampler.safetensors", "config.json"):
        assert (output / name).read_bytes() == (undisturbed / name).read_bytes()
