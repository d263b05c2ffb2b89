"""Loading a representation: nothing is filled in, nothing is unpickled, and one sentence says what is wrong."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_representation import some_weights, tiny_model
from transformers import AutoModel

from hyperrep.errors import UserError
from hyperrep.representation import HyperRepModel
from hyperrep.representation.loading import load_representation


LOADERS = {
    "load_representation": lambda folder: load_representation(folder)[0],
    "from_pretrained": HyperRepModel.from_pretrained,
    "AutoModel": AutoModel.from_pretrained,
}
every_loader = pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)


@pytest.fixture
def model():
    return tiny_model(aligned=True)


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(folder, edit) -> None:
    """Edit the tensors of a saved model."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def settings(folder, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def shard(folder, last: str = "model-2.safetensors") -> None:
    """The model in two files; the index calls the second `last`."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    save_file({name: tensors[name] for name in names[:9]}, folder / "model-1.safetensors", {"format": "pt"})
    save_file({name: tensors[name] for name in names[9:]}, folder / "model-2.safetensors", {"format": "pt"})
    files = ["model-1.safetensors"] * 9 + [last] * (len(names) - 9)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": dict(zip(names, files))})
    )


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@every_loader
def test_what_was_saved_comes_back(model, folder, load):
    weights = some_weights(3)
    for _ in ("whole", "in two files"):
        loaded = load(folder)
        assert not loaded.training
        assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
        torch.testing.assert_close(loaded.encode(weights), model.encode(weights))
        if (folder / "model.safetensors").exists():
            shard(folder)


@every_loader
def test_half_precision_comes_back_as_such(model, folder, load):
    model.to(torch.bfloat16).save_pretrained(folder)
    assert load(folder).encoder.bottleneck.weight.dtype == torch.bfloat16


def rename(tensors):
    tensors["encoder.bottleneck.wait"] = tensors.pop("encoder.bottleneck.weight")


@every_loader
@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda tensors: tensors.pop("encoder.bottleneck.weight"), "encoder.bottleneck.weight|are needed"),
        (lambda tensors: tensors.pop("processor.layer_std"), "processor.layer_std|are needed"),
        (rename, "encoder.bottleneck.weight|are needed"),
        (lambda tensors: tensors.update(more=torch.zeros(1)), "more"),
        (lambda tensors: tensors["decoder.outputs.projections.0.bias"].fill_(torch.nan), "NaN or infinite"),
        (lambda tensors: tensors["processor.reference"].fill_(torch.inf), "processor.reference holds NaN or infinite"),
        (
            lambda tensors: tensors.update({"processor.layer_std": torch.ones(7)}),
            "processor.layer_std|size mismatch|ignore_mismatched_sizes",
        ),
    ],
    ids=["missing", "missing buffer", "renamed", "unexpected", "NaN", "infinite", "other shape"],
)
def test_tensors_that_are_not_those_of_the_model_are_refused(folder, load, edit, said):
    change(folder, edit)
    with pytest.raises((ValueError, RuntimeError), match=said):
        load(folder)


def test_whoever_asks_for_loading_info_sees_to_missing_tensors(folder):
    change(folder, lambda tensors: tensors.pop("processor.layer_std"))
    _, info = HyperRepModel.from_pretrained(folder, output_loading_info=True)
    assert info["missing_keys"] == {"processor.layer_std"}


def test_a_state_dict_takes_the_place_of_files(model):
    for choice in ({}, {"use_safetensors": None}):
        loaded = HyperRepModel.from_pretrained(None, config=model.config, state_dict=model.state_dict(), **choice)
        assert torch.equal(loaded.decoder.decompression.weight, model.decoder.decompression.weight)
    with pytest.raises(ValueError, match="tensors are missing: decoder"):
        HyperRepModel.from_pretrained(None, config=tiny_model().config, state_dict={})


# ------------------------------------------------------------------------------------------------------------ pickles


@every_loader
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_a_pickle_in_place_of_safetensors(folder, load, name, tmp_path):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "marker")))
    with pytest.raises((OSError, UserError), match=rf"holds {name} but no model.safetensors") as error:
        load(folder)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "marker").exists()


@every_loader
@pytest.mark.parametrize(
    "place", ["weights.bin", "weights.safetensors.bin", "../weights.safetensors", "a/b.safetensors"]
)
def test_an_index_that_names_a_pickle_or_a_file_elsewhere(model, folder, load, place, tmp_path):
    shard(folder, place)
    (folder / place).parent.mkdir(exist_ok=True)
    if place.endswith(".bin"):  # harmless for once: even torch's restricted reader must not read it
        torch.save(dict(sorted(model.state_dict().items())[9:]), folder / place)
    else:
        (folder / "model-2.safetensors").rename(folder / place)
    with pytest.raises((OSError, UserError), match=r"only safetensors files beside it are read"):
        load(folder)
    (folder / place).write_bytes(pickle.dumps(Bomb(tmp_path / "marker")))
    with pytest.raises((OSError, UserError)):
        load(folder)
    assert not (tmp_path / "marker").exists()


@every_loader
@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"processor.layer_std": 7}}']
)
def test_an_index_that_is_damaged(folder, load, content):
    shard(folder)
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises((OSError, UserError), match=r"index\.json"):
        load(folder)


@every_loader
def test_a_pickle_called_safetensors(folder, load, tmp_path):
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb(tmp_path / "marker")))
    with pytest.raises(Exception, match=r"(?i)header|damaged"):
        load(folder)
    assert not (tmp_path / "marker").exists()


def test_pickles_cannot_be_asked_for(folder):
    with pytest.raises(ValueError, match="use_safetensors=False"):
        HyperRepModel.from_pretrained(folder, use_safetensors=False)


# ------------------------------------------------------------------------------------------------------ configurations


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"hidden_size": -16}, "hidden_size is -16"),
        ({"hidden_size": 10**9, "num_attention_heads": 1}, "parameters; 10,000,000,000 are the limit"),
        ({"hidden_size": 32}, "has shape"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers"),
        ({"num_hidden_layers": 3}, "are needed"),
        ({"latent_size": None}, "latent_size"),
        ({"latents_per": ["network"]}, "latents_per"),
        ({"layout": None}, "layout"),
        ({"layout": [["a.weight", [10**9, 10**9]]]}, "are the limit"),
        ({"hidden_act": "magic"}, "hidden_act 'magic' is unknown"),
        ({"model_type": "bert"}, "model_type is 'bert'"),
        ({"dtype": "float77"}, "float77"),
        ({"id2label": 7}, "config.json"),
        ({"aligned": "yes"}, "aligned"),
    ],
)
def test_impossible_settings_are_one_sentence(folder, values, said):
    settings(folder, **values)
    with pytest.raises(UserError, match=said) as error:
        load_representation(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "[]", '{"model_type": "hyperrep", "temperature": NaN}', "\x00"])
def test_a_configuration_that_is_damaged(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json"):
        load_representation(folder)


def test_the_strict_loader_takes_no_code_from_a_configuration(folder, model):
    settings(
        folder,
        attn_implementation="somebody/kernels",
        quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True},
        auto_map={"AutoModel": "evil.Evil"},
    )
    for load in LOADERS.values():
        loaded = load(folder)
        assert loaded.config._attn_implementation == "sdpa"
        torch.testing.assert_close(loaded.encode(some_weights(2)), model.encode(some_weights(2)))
