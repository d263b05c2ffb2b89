"""Small training runs, in this process and in another."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_zoo import TINY_SETTINGS

from hyperrep.training import TrainingConfig
from hyperrep.training.step import TrainingStep


ROOT = Path(__file__).parent.parent
QUICK = {"num_train_epochs": 1, "behavior_images": 2, "hidden_size": 32, "intermediate_size": 32}


@pytest.fixture(autouse=True)
def one_thread():
    """Matrices of 16 columns gain nothing from more, and lose much when tests share the cores. Import it to use it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_config(**kwargs) -> TrainingConfig:
    return TrainingConfig.from_dict(TINY_SETTINGS | kwargs)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def script(config: Path, zoo: Path, output: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), str(config)]
    command += ["--zoo", str(zoo), "--output", str(output), *arguments]
    python_path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": python_path, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition, run: subprocess.Popen) -> None:
    while not condition():
        assert run.poll() is None, f"the run ended early: {run.stderr.read()}"
        time.sleep(0.005)


class Killed(BaseException):
    """As a kill ends a run: nothing that handles exceptions sees it."""


def killed_at(monkeypatch, last: int) -> None:
    """From now on a run dies before its step `last`, counted from 0."""

    def dies(self, step, stop=False):
        if step == last:
            raise Killed
        return advance(self, step, stop)

    advance = TrainingStep.__call__
    monkeypatch.setattr(TrainingStep, "__call__", dies)
