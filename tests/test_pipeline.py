import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from hyperrep import HyperRepConfig, HyperRepModel, HyperRepPipeline, SmallCNNConfig, SmallCNNForImageClassification
from hyperrep.errors import UserError
from hyperrep.pipeline import seeded
from hyperrep.population import choose_engine
from hyperrep.samplers import KDESampler
from hyperrep.weights import WeightLayout


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_generator_decides(pipe):
    weights = pipe(5, generator=seeded(0)).weights
    assert weights.shape == (5, 2464)
    assert_close(pipe(5, generator=seeded(0)).weights, weights, rtol=0, atol=0)
    assert not torch.equal(pipe(5, generator=seeded(1)).weights, weights)


def test_weights_are_the_decoded_latents(pipe):
    out = pipe(3, generator=seeded(0))
    assert_close(out.latents, pipe.sampler.sample(3, seeded(0)), rtol=0, atol=0)
    with torch.no_grad():
        assert_close(pipe.model.decode(out.latents), out.weights)


def test_emitted_folders_are_ordinary_checkpoints(pipe, tmp_path, digits_images):
    out = pipe(3, generator=seeded(0))
    out.save_pretrained(tmp_path / "samples")
    folder = tmp_path / "samples" / "model-00002"
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "README.md",
    }
    net = AutoModelForImageClassification.from_pretrained(folder)
    assert isinstance(net.config, SmallCNNConfig)
    assert_close(WeightLayout.of(net).vectorize(net.state_dict()), out.weights[2], rtol=0, atol=0)

    # the pixels it was made for, through the engine and through transformers' own pipeline
    images = digits_images.test.pixels[:4]
    predicted = choose_engine("auto", net.config).evaluate(
        net.config, out.weights[2:], images, digits_images.test.labels[:4], predictions=True
    )
    with torch.no_grad():
        assert net(images).logits.argmax(1).tolist() == predicted.predictions[0].tolist()


def test_the_image_classification_pipeline_takes_them(pipe, tmp_path):
    from PIL import Image

    pipe(1, generator=seeded(0)).save_pretrained(tmp_path / "samples")
    folder = tmp_path / "samples" / "model-00000"
    image = Image.effect_noise((32, 32), 64)
    answers = pipeline("image-classification", model=str(folder), top_k=10)(image)
    pixels = AutoImageProcessor.from_pretrained(folder)(image)["pixel_values"]
    net = AutoModelForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        probabilities = net(pixels).logits.softmax(-1)[0]
    best = answers[0]
    assert best["score"] == pytest.approx(probabilities.max().item(), rel=1e-5)
    assert best["label"] == net.config.id2label[probabilities.argmax().item()]


def test_all_folders_are_as_transformers_writes_them(pipe, tmp_path):
    out = pipe(3, generator=seeded(0))
    out.save_pretrained(tmp_path / "samples")
    for i in range(3):
        out.model(i).save_pretrained(tmp_path / "by-transformers")
        for name in ("config.json", "model.safetensors"):
            written = (tmp_path / "samples" / f"model-{i:05d}" / name).read_bytes()
            assert written == (tmp_path / "by-transformers" / name).read_bytes()


def test_the_index_says_how_they_were_made(pipe, tmp_path, representation):
    pipe(2, generator=seeded(7)).save_pretrained(tmp_path / "samples")
    index = json.loads((tmp_path / "samples" / "index.json").read_text())
    assert index["models"] == ["model-00000", "model-00001"]
    assert (index["method"], index["variant"], index["top"], index["seed"]) == ("kde", "independent", 0.3, 7)
    assert index["representation"] == str(representation)


def test_an_existing_folder_is_kept_unless_told(pipe, tmp_path):
    out = pipe(2, generator=seeded(0))
    target = tmp_path / "samples"
    out.save_pretrained(target)
    with pytest.raises(UserError, match="exists"):
        out.save_pretrained(target)
    pipe(1, generator=seeded(1)).save_pretrained(target, overwrite=True)
    assert sorted(path.name for path in target.iterdir()) == [
        ".hyperrep.json",
        "README.md",
        "index.json",
        "model-00000",
    ]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").write_text("years of work")
    with pytest.raises(UserError, match="was not written by hyperrep"):
        out.save_pretrained(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "text").exists()


def test_a_file_is_no_folder(pipe, tmp_path):
    (tmp_path / "samples").write_text("years of work")
    with pytest.raises(UserError, match="is a file"):
        pipe(1, generator=seeded(0)).save_pretrained(tmp_path / "samples", overwrite=True)
    assert contents(tmp_path) == {"samples": b"years of work"}


def test_an_interruption_leaves_what_was_there(pipe, tmp_path, monkeypatch):
    target = tmp_path / "samples"
    pipe(1, generator=seeded(0)).save_pretrained(target)
    before = contents(tmp_path)
    out = pipe(2, generator=seeded(1))

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("hyperrep.generated.save_file", full)  # at the second
    with pytest.raises(OSError, match="no space left"):
        out.save_pretrained(target, overwrite=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("place", ["model-00000/notes.txt", "model-00000/finetuned.safetensors", "index.html"])
def test_overwriting_removes_nothing_of_the_users(pipe, tmp_path, place):
    target = tmp_path / "samples"
    pipe(1, generator=seeded(0)).save_pretrained(target)
    (target / place).write_text("years of work")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=Path(place).name):
        pipe(1, generator=seeded(1)).save_pretrained(target, overwrite=True)
    assert contents(tmp_path) == before


def test_a_web_project_with_an_index_is_not_overwritten(pipe, tmp_path):
    (tmp_path / "index.json").write_text("{}")
    (tmp_path / "app.js").write_text("years of work")
    before = contents(tmp_path)
    with pytest.raises(UserError, match="was not written by hyperrep"):
        pipe(1, generator=seeded(0)).save_pretrained(tmp_path, overwrite=True)
    assert contents(tmp_path) == before


def test_the_whole_appears_at_once(pipe, tmp_path, monkeypatch):
    """Nothing is written in place: until the last network is there, the target holds the old ones or nothing."""
    target = tmp_path / "samples"
    write, seen = SmallCNNForImageClassification.save_pretrained, []

    def watch(write, *arguments, **settings):
        seen.append(sorted(path.name for path in target.iterdir() if not path.name.startswith((".", "tmp"))))
        return write(*arguments, **settings)

    monkeypatch.setattr(SmallCNNForImageClassification, "save_pretrained", lambda *given: watch(write, *given))
    monkeypatch.setattr("hyperrep.generated.save_file", partial(watch, save_file))
    pipe(2, generator=seeded(0)).save_pretrained(target)
    assert seen == [[], []]


def test_an_error_leaves_nothing_behind(pipe, tmp_path):
    out = pipe(2, generator=seeded(0))
    out.network = {"hidden_act": "relu"}
    with pytest.raises(UserError, match="lacks 'model_type'"):
        out.save_pretrained(tmp_path / "samples")
    assert not list(tmp_path.iterdir())


def test_a_saved_pipeline_makes_the_same_networks(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "copy")
    copy = HyperRepPipeline.from_pretrained(tmp_path / "copy")
    # close, not equal: the loaded parameters lie elsewhere in memory
    assert_close(copy(3, generator=seeded(0)).weights, pipe(3, generator=seeded(0)).weights)


def test_another_models_sampler_is_refused(pipe):
    with pytest.raises(UserError, match="have 3 entries"):
        HyperRepPipeline(pipe.model, KDESampler(top=None).fit(torch.zeros(4, 3)))


def test_a_pickle_is_never_loaded(representation, tmp_path):
    (tmp_path / "config.json").write_text((representation / "config.json").read_text())
    marker = tmp_path / "was-run"

    class Bomb:
        def __reduce__(self):
            return (marker.touch, ())

    torch.save({"weight": Bomb()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model.bin but no model.safetensors"):
        HyperRepPipeline.from_pretrained(tmp_path)
    assert not marker.exists()


def test_the_networks_themselves_are_no_representation(pipe, tmp_path):
    """transformers would take a CNN's folder for a representation, and initialise every weight of it."""
    pipe(1, generator=seeded(0)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="model_type is 'small_cnn'"):
        HyperRepPipeline.from_pretrained(tmp_path / "model-00000")


def test_damaged_weights_are_refused(representation, tmp_path):
    shutil.copytree(representation, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(UserError, match="damaged"):
        HyperRepPipeline.from_pretrained(tmp_path / "cut")


def test_the_same_through_transformers(representation, pipe):
    task = pipeline("weight-generation", model=str(representation))
    assert_close(task(4, generator=seeded(0)).weights, pipe(4, generator=seeded(0)).weights)


def test_no_file_of_a_representation_is_a_pickle(representation):
    kept = {path.suffix for path in representation.rglob("*") if path.is_file()}
    assert kept <= {".json", ".jsonl", ".safetensors"}
    assert load_file(representation / "sampler" / "sampler.safetensors")["latents"].shape[1] == 768


def test_every_emitted_folder_says_what_it_is_and_how_it_loads(pipe, tmp_path):
    pipe(2, generator=seeded(7)).save_pretrained(tmp_path / "samples")
    card = ModelCard.load(tmp_path / "samples" / "model-00001" / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "image-classification"
    for line in (
        "pip install hyperrep",
        "import hyperrep",
        "| seed | 7 |",
        "| number | 1 |",
        "| num_models | 2 |",
        "| variant |",
    ):
        assert line in card.content
    code = card.content.split("```python\n")[1].split("```")[0]
    folder = tmp_path / "samples" / "model-00001"
    outcome = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr


def test_networks_are_indexed_sliced_and_iterated(pipe, tmp_path):
    out = pipe(5, generator=seeded(0))
    weights = [WeightLayout.of(net).vectorize(net.state_dict()) for net in out]
    assert_close(torch.stack(weights), out.weights, rtol=0, atol=0)
    assert isinstance(out[-1], SmallCNNForImageClassification)
    part = out[3:][::-1]
    assert_close(part.weights, out.weights[[4, 3]], rtol=0, atol=0)
    part.save_pretrained(tmp_path / "part")
    index = json.loads((tmp_path / "part" / "index.json").read_text())
    assert (index["seed"], index["num_models"], index["selected"]) == (0, 5, [4, 3])  # which of the five drawn
    assert "| number | 3 |" in (tmp_path / "part" / "model-00001" / "README.md").read_text()
    with pytest.raises(IndexError):
        out[5]


def test_what_is_printed_fits_a_screen(pipe):
    for shown in (repr(pipe), repr(pipe(50, generator=seeded(0))), repr(pipe.sampler)):
        assert len(shown) < 1500
        assert shown.count("\n") < 15
    assert "50 small_cnn networks of 2,464 parameters" in repr(pipe(50, generator=seeded(0)))


@pytest.mark.parametrize("before", ["used", "none", "unseeded"])
def test_the_recorded_seed_makes_the_same_networks_again(pipe, before):
    generator = {"used": seeded(3), "none": None, "unseeded": torch.Generator()}[before]
    if before == "used":
        pipe(1, generator=generator)
    out = pipe(2, generator=generator)
    again = pipe(2, generator=seeded(out.made_by["seed"]))
    assert_close(again.weights, out.weights, rtol=0, atol=0)
    assert not torch.equal(pipe(2, generator=generator).weights, out.weights)


def test_without_a_generator_torchs_own_decides(pipe):
    torch.manual_seed(5)
    first = pipe(2).weights
    torch.manual_seed(5)
    assert_close(pipe(2).weights, first, rtol=0, atol=0)


def test_components_may_be_exchanged_for_ones_that_fit(pipe):
    other = HyperRepPipeline(**pipe.components)
    assert_close(other(2, generator=seeded(0)).weights, pipe(2, generator=seeded(0)).weights, rtol=0, atol=0)
    with pytest.raises(UserError, match="have 3 entries"):
        other.sampler = KDESampler(top=None).fit(torch.zeros(4, 3))
    other.sampler = KDESampler("joint", top=None).fit(pipe.sampler.latents)
    with pytest.raises(UserError, match="the model's 8"):
        other.model = HyperRepModel(HyperRepConfig(hidden_size=8, num_attention_heads=1, latent_size=8))
    assert other.sampler.variant == "joint"


def test_loading_takes_what_transformers_users_give(representation, tmp_path):
    shutil.copytree(representation, tmp_path / "repo [1] é" / "sub")
    pipe = HyperRepPipeline.from_pretrained(
        tmp_path / "repo [1] é", subfolder="sub", dtype="bfloat16", device_map="cpu", local_files_only=True
    )
    assert (pipe.dtype, pipe.device.type) == (torch.bfloat16, "cpu")
    assert pipe(2, generator=seeded(0)).weights.dtype == torch.float32
    with pytest.raises(UserError, match="no subfolder 'other'"):
        HyperRepPipeline.from_pretrained(tmp_path / "repo [1] é", subfolder="other")


def test_networks_that_are_not_finite_are_refused(representation):
    pipe = HyperRepPipeline.from_pretrained(representation)
    with torch.no_grad():
        next(pipe.model.decoder.parameters()).fill_(torch.nan)
    with pytest.raises(UserError, match="3 of 3 networks came out NaN or infinite"):
        pipe(3)


def test_a_pipeline_replaces_only_a_folder_of_ours(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "copy")
    with pytest.raises(UserError, match="exists"):
        pipe.save_pretrained(tmp_path / "copy")
    pipe.save_pretrained(tmp_path / "copy", overwrite=True)
    (tmp_path / "copy" / "model.safetensors").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"model\.safetensors"):
        pipe.save_pretrained(tmp_path / "copy", overwrite=True)
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == b"mine"


def test_the_transformers_pipeline_saves_its_sampler_and_refuses_what_it_does_not_know(representation, pipe, tmp_path):
    task = pipeline("weight-generation", model=str(representation))
    task.save_pretrained(tmp_path / "copy")
    again = HyperRepPipeline.from_pretrained(tmp_path / "copy")
    assert_close(again(2, generator=seeded(0)).weights, pipe(2, generator=seeded(0)).weights, rtol=0, atol=0)
    with pytest.raises(TypeError, match="generatr"):
        task(2, generatr=seeded(0))
    with pytest.raises(UserError, match="where its sampler lies"):
        pipeline("weight-generation", model=HyperRepModel(pipe.model.config.__class__()))


@pytest.mark.parametrize("seed", [-(2**63) - 1, 2**64, 10**30])
def test_seeds_that_torch_does_not_have(seed):
    with pytest.raises(UserError, match="seed is"):
        seeded(seed)
