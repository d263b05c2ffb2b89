"""`hyperrep evaluate transfer`: networks of one data set trained on another."""

import numpy as np
import pytest
import torch
from PIL import Image

from hyperrep import load_zoo
from hyperrep.errors import UserError
from hyperrep.evaluation import read_results
from hyperrep.evaluation.experiments.transfer import Transfer


@pytest.fixture(scope="module")
def upside_down(tmp_path_factory):
    """Scikit-learn's digits, upside down, as a folder of images: another data set of the same shape."""
    from sklearn.datasets import load_digits

    data, folder = load_digits(), tmp_path_factory.mktemp("images") / "upside-down"
    for i, (image, label) in enumerate(zip(data.images[:300], data.target)):
        place = folder / ("test" if i % 5 == 4 else "train") / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image[::-1] * 255 / 16).round().astype(np.uint8)).save(place / f"{i}.png")
    return folder


def test_networks_are_trained_on_the_other_images(hyperrep, representation, digits_zoo, upside_down, tmp_path):
    out = tmp_path / "results"
    settings = "--target digits --num-models 3 --epochs 2 --methods kde-joint --methods uniform"
    command = f"evaluate transfer {representation} --zoo {digits_zoo} {settings} --output {out}"
    code, printed, err = hyperrep(f"{command} --target-images {upside_down}")
    assert code == 0, err
    rows = read_results(out / "transfer.jsonl")
    accuracy = {(row.method, row.epoch): row for row in rows if row.what == "test_accuracy"}
    assert {method for method, _ in accuracy} == {"B_T", "B_F", "B_KDE30", "S_KDE30", "S_U", "S_stored"}
    assert {epoch for _, epoch in accuracy} == {0, 1, 2}
    assert {row.target for row in rows} == {"upside-down"}
    assert {row.n for row in accuracy.values()} == {3}
    settings = accuracy["S_KDE30", 2].settings
    assert (settings["protocol"], settings["target_protocol"]) == ("digits", "digits")
    assert settings["target_fingerprint"] != settings["images_fingerprint"]
    # trained on what is upside down, they get better at it, and start as the wrong way up leaves them
    assert accuracy["B_F", 2].mean > accuracy["B_F", 0].mean
    assert accuracy["B_F", 0].mean < 0.6
    assert accuracy["B_F", 0].p_values.keys() == {"B_T"}
    assert "B_F" in printed
    # the right way up they work from the start
    code, _, err = hyperrep(f"{command}-same")
    assert code == 0, err
    same = {(row.method, row.epoch): row for row in read_results(tmp_path / "results-same" / "transfer.jsonl")}
    assert same["B_F", 0].mean > accuracy["B_F", 0].mean + 0.2


def test_a_zoo_as_target_has_the_networks_from_scratch(hyperrep, representation, digits_zoo, tmp_path):
    out = tmp_path / "results"
    settings = f"--target {digits_zoo} --num-models 2 --epochs 1 --methods kde-joint"
    code, _, err = hyperrep(f"evaluate transfer {representation} --zoo {digits_zoo} {settings} --output {out}")
    assert code == 0, err
    found = {(row.population, row.epoch): row for row in read_results(out / "transfer.jsonl")}
    test = load_zoo(digits_zoo)["test"]
    expected = test.metrics["test_accuracy"][test.epoch == 25].double().mean().item()
    assert found["B_T", 25].mean == pytest.approx(expected)  # trained already, further than here
    assert found["B_F", 1].p_values.keys() >= {"B_T"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "target is missing"),
        ({"target": "mnist", "num_models": 0}, "num_models is 0"),
        ({"target": "mnist", "epochs": -1}, "epochs is -1"),
        ({"target": "mnist", "methods": ("kde-joined",)}, "'kde-joined' is unknown"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(settings, message):
    with pytest.raises(UserError, match=message):
        Transfer(**settings)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("minst", "did you mean 'mnist'"),
        ("nowhere/at-all", "nowhere/at-all"),
        ("digits --target-images /no/such/folder", "/no/such/folder"),
        ("cifar10 --target-images digits", "the zoo's networks tell apart 10 classes of 1 x 28 x 28"),
    ],
)
def test_a_target_that_is_not_there_or_does_not_fit_is_one_sentence(
    hyperrep, representation, digits_zoo, tmp_path, target, message, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = tmp_path / "results"
    command = f"evaluate transfer {representation} --zoo {digits_zoo} --num-models 1 --epochs 0 --output {out}"
    code, _, err = hyperrep(f"{command} --target {target}")
    assert code == 2, err
    assert message in err
    assert "Traceback" not in err
    assert not torch.cuda.is_initialized()
    assert not (out / "transfer.jsonl").exists()
