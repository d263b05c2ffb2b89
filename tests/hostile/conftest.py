"""Run the `hyperrep` command in this process, beside a small zoo and a representation that may be damaged."""

import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from handling import Outcome
from tiny_zoo import TINY_SETTINGS, write_tiny_zoo

import hyperrep_cli
from hyperrep.pipeline import fit_sampler
from hyperrep.training import TrainingConfig, train


SECONDS = 20  # that a case may take: one that hangs is not handled


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A folder with a zoo, a representation of it, and the settings that made it: made once, never changed."""
    place = tmp_path_factory.mktemp("tiny")
    zoo = write_tiny_zoo(place / "zoo")
    settings = {**TINY_SETTINGS, "num_train_epochs": 1, "hidden_dropout_prob": 0.0}
    (place / "settings.yaml").write_text(yaml.safe_dump(settings))
    train(TrainingConfig.from_dict(settings), zoo, place / "representation")
    fit_sampler(place / "representation", zoo)
    return place


@pytest.fixture
def place(tiny, tmp_path, monkeypatch) -> Path:
    """An empty working folder beside copies of what [`tiny`] holds, which a case may damage."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("zoo", "representation"):
        shutil.copytree(tiny / name, tmp_path / name)
    shutil.copy(tiny / "settings.yaml", tmp_path)
    return tmp_path


@pytest.fixture
def hyperrep(monkeypatch, capsys) -> Callable[..., Outcome]:
    """Run a command given as words; a case that hangs fails."""

    def give_up(*_):
        raise pytest.fail.Exception(f"not done after {SECONDS} seconds")

    def run(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["hyperrep", *map(str, words)])
        before = signal.signal(signal.SIGALRM, give_up)
        signal.alarm(SECONDS)
        code = 0
        try:
            hyperrep_cli.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run
