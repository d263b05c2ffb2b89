"""`hyperrep fit` and the settings of `hyperrep sample`: what the command line makes of every kind of sampler."""

import json
import shutil

import pytest
import torch

from hyperrep import HyperRepPipeline, load_zoo
from hyperrep.files import read_json
from hyperrep.representation.batched import encode_rows


def test_a_fitted_sampler_takes_the_place_of_the_one_that_was_there(hyperrep, representation, digits_zoo, tmp_path):
    folder = shutil.copytree(representation, tmp_path / "model")
    code, out, err = hyperrep(f"fit {folder} --zoo {digits_zoo} --method gaussian --top 0.5 --set rank=3")
    assert code == 0, err
    assert "GaussianSampler(" in out
    config = read_json(folder / "sampler" / "sampler_config.json")
    assert (config["class_name"], config["top"], config["rank"]) == ("GaussianSampler", 0.5, 3)
    pipe = HyperRepPipeline.from_pretrained(folder)
    latents = pipe.sampler.latents
    exact = encode_rows(pipe.model, load_zoo(digits_zoo)["train"].weights)
    exact = exact[torch.cdist(latents, exact).argmin(1)]  # training has a filter of its own
    assert 0 < (latents - exact).abs().max() <= 2**-12
    assert (folder / "sampler" / "sampler.safetensors").stat().st_size < 3 * latents.numel() + 20_000
    assert torch.equal(latents, HyperRepPipeline.from_pretrained(representation).sampler.latents)
    assert len(pipe.sampler.models.unique()) == 14  # of 20 networks, 70 % to train on
    assert torch.equal(pipe.sampler.places, pipe.model.latent_places)


def test_another_folder_gets_model_and_sampler_and_the_first_stays(hyperrep, representation, digits_zoo, tmp_path):
    before = {path: path.read_bytes() for path in representation.rglob("*") if path.is_file()}
    line = f"fit {representation} --zoo {digits_zoo} --method kde --variant layer --set score=test_accuracy --output"
    assert hyperrep(f"{line} other")[0] == 0
    assert {path: path.read_bytes() for path in representation.rglob("*") if path.is_file()} == before
    pipe = HyperRepPipeline.from_pretrained(tmp_path / "other")
    assert pipe.sampler.variant == "layer"
    assert pipe.sampler.score == "test_accuracy"
    assert (tmp_path / "other" / "README.md").exists()
    code, _, err = hyperrep(f"{line} other")
    assert code == 2
    assert "exists" in err


def test_latents_of_some_epochs_alone(hyperrep, representation, digits_zoo, tmp_path):
    *_, last = load_zoo(digits_zoo)["train"].epoch.unique().tolist()
    assert hyperrep(f"fit {representation} --zoo {digits_zoo} --epochs {last} --output few")[0] == 0
    few = HyperRepPipeline.from_pretrained(tmp_path / "few").sampler
    every = HyperRepPipeline.from_pretrained(representation).sampler
    assert len(few.latents) == len(few.models.unique()) == 14 < len(every.latents)
    assert torch.cdist(few.latents, every.latents).amin(1).max() < 1e-3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("fit {model} --zoo {zoo} --epochs 3-1 --output new", "epochs '3-1' are not a list such as"),
        ("fit {model} --zoo {zoo} --epochs 999 --output new", "epochs [999] are not in the zoo"),
        ("fit org/model --zoo org/zoo", "is no folder here: say where the sampler goes with output"),
        ("fit {model} --zoo {zoo} --method kd", "did you mean 'kde'"),
        ("fit {model} --zoo {zoo} --method flow --set stps=3", "no setting stps; it has"),
        ("fit {model} --zoo {zoo} --method noise --set scale", "give a name and a value"),
        ("fit {model} --zoo {zoo} --set score=shoe_size --output new", "no column 'shoe_size' of numbers"),
        ("sample {model} --set quantile=0.9 --output new", "method kde has no setting quantile"),
        ("sample {model} --best-of 3 --output new", "--best-of is 3: give 2 or more, and --images"),
        ("sample {model} --images digits --output new", "--best-of is 1"),
        ("sample {model} --best-of 0 --output new", "--best-of is 0"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(hyperrep, representation, digits_zoo, tmp_path, line, message):
    code, _, err = hyperrep(line.format(model=representation, zoo=digits_zoo))
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_settings_and_the_best_of_many_from_the_command_line(hyperrep, representation, tmp_path):
    assert hyperrep(f"sample {representation} --num-models 2 --method noise --set scale=0.1 --output noisy")[0] == 0
    index = json.loads((tmp_path / "noisy" / "index.json").read_text())
    assert (index["method"], index["scale"]) == ("noise", 0.1)
    assert len(index["nearest"]) == 2
    code, out, err = hyperrep(f"sample {representation} --num-models 2 --best-of 3 --images digits --output best")
    assert code == 0, err
    assert "2 networks in best, the best of 6" in out
    index = json.loads((tmp_path / "best" / "index.json").read_text())
    assert index["best_of"]["drawn"] == 6
    assert len(index["models"]) == len(index["selected"]) == 2
