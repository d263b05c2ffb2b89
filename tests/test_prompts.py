"""Sampling around a few given networks, with a representation that was trained on others."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from hyperrep import UserError
from hyperrep.networks import SmallCNNConfig, SmallCNNForImageClassification
from hyperrep.pipeline import seeded
from hyperrep.weights import WeightLayout
from hyperrep.weights.augmentation import permute
from hyperrep_cli import app


def test_samples_are_made_of_the_prompts_alone(pipe):
    """Each number of a latent is one of theirs, but for the kernel's width; no training network is left in it."""
    given = pipe(3, generator=seeded(1)).weights
    few = pipe.prompted(given)
    latents = pipe.model.encode(given)
    drawn = few(40, generator=seeded(0)).latents
    away = (drawn[:, None] - latents[None]).abs().amin(dim=1)
    assert away.max() < 6 * few.sampler.bandwidth
    assert len(few.sampler.latents) == 3
    assert few.sampler.settings() == pipe.sampler.settings() | {"top": None}
    assert pipe.prompts is None  # and is as it was
    assert len(pipe.sampler.latents) > 3


def test_the_order_of_their_units_does_not_matter(pipe):
    given = pipe(2, generator=seeded(1)).weights
    layout = WeightLayout.from_list(pipe.model.config.layout)
    reordered = permute(given, layout, seeded(2))
    assert not torch.equal(reordered, given)
    one, other = (pipe.prompted(weights)(3, generator=seeded(0)).weights for weights in (given, reordered))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda weights: weights[:, :-1], "prompts: weights have shape"),
        (lambda weights: weights * torch.nan, "NaN or infinite weights"),
        (lambda weights: weights[:0], "with one row or more"),
    ],
)
def test_what_cannot_be_a_prompt(pipe, spoil, message):
    with pytest.raises(UserError, match=message):
        pipe.prompted(spoil(pipe(2, generator=seeded(0)).weights))


def test_from_a_folder(representation, pipe, tmp_path):
    given = replace(pipe(2, generator=seeded(5)))
    given.save_pretrained(tmp_path / "mine")
    said = ["sample", str(representation), "--num-models", "2", "--prompts", str(tmp_path / "mine")]
    result = CliRunner().invoke(app, [*said, "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert index["prompts"]["networks"] == "mine"
    assert index["prompts"]["number"] == 2
    loaded = SmallCNNForImageClassification.from_pretrained(tmp_path / "out" / "model-00001")
    expected = pipe.prompted(given.weights)(2, generator=seeded(0)).weights[1]
    torch.testing.assert_close(WeightLayout.of(loaded).vectorize(loaded.state_dict()), expected)


@pytest.mark.parametrize("case", ["nothing", "others", "top"])
def test_folders_that_cannot_prompt(representation, tmp_path, case):
    folder, more = tmp_path / "mine", []
    folder.mkdir()
    if case == "others":
        SmallCNNForImageClassification(SmallCNNConfig(hidden_sizes=[7])).save_pretrained(folder / "model-0")
    if case == "top":
        more = ["--top", "0.3"]
    said = ["sample", str(representation), "--output", str(tmp_path / "out"), "--prompts", str(folder), *more]
    result = CliRunner().invoke(app, said)
    assert result.exit_code != 0
    message = {"nothing": "holds no checkpoints", "others": "of its zoo's tensors only", "top": "leave it out"}[case]
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()
