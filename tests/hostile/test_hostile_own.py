"""What every command says to a zoo of somebody's own networks, of which nothing but the weights is known."""

import json
from pathlib import Path

import pytest
import torch
from handling import is_refused
from tiny_zoo import EPOCHS, tiny_layout, tiny_network

from hyperrep import write_zoo
from hyperrep.files import is_unchanged


MODELS = 30


@pytest.fixture(params=[False, True], ids=["weights only", "with a configuration"])
def own(request, place) -> Path:
    network = tiny_network() if request.param else None
    rows = torch.randn(MODELS * len(EPOCHS), tiny_layout().num_params, generator=torch.Generator().manual_seed(0))
    model_id = [model for model in range(MODELS) for _ in EPOCHS]
    return write_zoo(place / "own", rows, EPOCHS * MODELS, model_id, layout=tiny_layout(), network=network)


def test_it_is_shown_described_and_written_anew(own, hyperrep):
    outcome = hyperrep("zoo", "info", own)
    assert outcome.code == 0, outcome.err
    assert "30 models of 119 parameters" in " ".join(outcome.out.split())
    assert "nan" not in outcome.out
    outcome = hyperrep("zoo", "info", own, "--json")
    assert json.loads(outcome.out)["test_accuracy"] == []
    before = (own / "README.md").read_text()
    assert hyperrep("card", own, "--repo", "you/own").code == 0
    after = (own / "README.md").read_text()
    assert is_unchanged(after)
    assert after.split("<!--")[0] == before.split("<!--")[0].replace("org/cnn-zoo-own", "you/own")
    assert hyperrep("zoo", "rewrite", own, "--output", own.parent / "copy").code == 0
    assert (own / "zoo_config.json").read_bytes() == (own.parent / "copy" / "zoo_config.json").read_bytes()


def test_it_is_trained_on_and_what_cannot_be_is_one_line(own, hyperrep):
    with_network = "small_cnn" in (own / "zoo_config.json").read_text()
    options = ["--permute", "false", "--align", "false", "--num-train-epochs", "1"]
    assert hyperrep("train", "settings.yaml", "--zoo", own, "--output", "model", *options).code == 0
    assert hyperrep("card", "model").code == 0
    outcome = hyperrep("sample", "model", "--num-models", "2", "--output", "samples")
    assert outcome.code == 0, outcome.err
    assert Path("samples/model-00001/model.safetensors").exists()
    assert Path("samples/model-00001/config.json").exists() == with_network
    if not with_network:
        best_of = ["--best-of", "3", "--images", "digits"]
        is_refused(hyperrep("sample", "model", *best_of, "--output", "x"), "images look")
    aligned = hyperrep("train", "settings.yaml", "--zoo", own, "--output", "aligned", "--align", "true")
    assert aligned.code == (0 if with_network else 2), aligned.err
    for extra in ((), ("--images", "digits")):
        is_refused(hyperrep("evaluate", "finetune", "model", "--zoo", own, "--epochs", "0", *extra), "zoo")
    best = ["--metric-for-best-model", "accuracy", "--load-best-model-at-end", "true"]
    is_refused(hyperrep("train", "settings.yaml", "--zoo", own, "--output", "x", *options, *best), "zoo")
    behavior = ["--behavior-weight", "0.1", "--behavior-images", "2", "--images", "digits"]
    is_refused(hyperrep("train", "settings.yaml", "--zoo", own, "--output", "x", *options, *behavior), "zoo")
    assert not Path("x").exists()
