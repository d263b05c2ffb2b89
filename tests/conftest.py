"""A small zoo and a representation of it, made once by the library's own functions."""

import sys
from pathlib import Path

import pytest
from training_runs import QUICK

import hyperrep_cli  # before torch: it lets waiting threads sleep, which a busy machine needs
from hyperrep import HyperRepPipeline
from hyperrep.images import ImageData, load_images
from hyperrep.pipeline import fit_sampler
from hyperrep.population import choose_engine
from hyperrep.training import TrainingConfig, train
from hyperrep.zoo import ZooSettings, build_zoo, get_protocol


# in transformers' own tests, which test_transformers_common.py runs
THEIR_MARKS = ("accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test", "torch_compile_test")


def pytest_configure(config: pytest.Config) -> None:
    for mark in THEIR_MARKS:
        config.addinivalue_line("markers", f"{mark}: of transformers")


@pytest.fixture(scope="session")
def digits_images():
    protocol = get_protocol("digits")
    return load_images("digits", protocol.processor(), protocol.validation_fraction, max_images=100)


@pytest.fixture(scope="session")
def digits_zoo(tmp_path_factory, digits_images) -> Path:
    """Twenty networks trained on eighty images; epochs 0, 1 and 21 to 25."""
    protocol = get_protocol("digits")
    engine = choose_engine("auto", protocol.network_config(digits_images.classes))
    settings = ZooSettings(protocol, models=20, epochs=25, keep_epochs=(0, 1, 21, 22, 23, 24, 25))
    return build_zoo(settings, digits_images, engine, tmp_path_factory.mktemp("zoo") / "cnn-zoo-digits")


@pytest.fixture(scope="session")
def representation(tmp_path_factory, digits_zoo) -> Path:
    """A folder as `hyperrep train` leaves it, hardly trained."""
    folder = tmp_path_factory.mktemp("model") / "hyperrep-digits"
    train(TrainingConfig.from_yaml("digits", QUICK), digits_zoo, folder)
    fit_sampler(folder, digits_zoo)
    return folder


@pytest.fixture(scope="module")
def pipe(representation) -> HyperRepPipeline:
    return HyperRepPipeline.from_pretrained(representation)


@pytest.fixture(scope="session")
def images() -> ImageData:
    """Those of the small zoo."""
    from small_zoo import digits

    return digits(get_protocol("digits"))


@pytest.fixture(scope="session")
def folder(images, tmp_path_factory) -> Path:
    """Of the small zoo; nobody changes it."""
    from small_zoo import settings

    from hyperrep.population.loop import LoopEngine

    return build_zoo(settings(), images, LoopEngine(), tmp_path_factory.mktemp("zoos") / "small")


@pytest.fixture
def contained(monkeypatch, tmp_path) -> None:
    """What is read of data sets is kept in the test's own folder, without bars."""
    import datasets

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


@pytest.fixture
def hyperrep(monkeypatch, capsys, tmp_path):
    """Run a command in an empty folder; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def run(command: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hyperrep", *command.split()])
        code = 0
        try:
            hyperrep_cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
