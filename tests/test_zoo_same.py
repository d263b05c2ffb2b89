"""Which bytes of a zoo are promised: how it is cut, and what decides whether two builds are the same one."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from small_zoo import Interrupting, settings

from hyperrep.errors import UserError
from hyperrep.images import ImageData
from hyperrep.population.loop import LoopEngine
from hyperrep.population.native import NativeEngine, NativeUnavailable
from hyperrep.population.vmap import VmapEngine
from hyperrep.zoo import build_zoo, get_protocol
from hyperrep.zoo import shards as zoo_shards
from hyperrep.zoo.build import _fingerprint, _fingerprint_of
from hyperrep.zoo.dataset import load_config
from hyperrep.zoo.shards import plan_shards, read_shards, train_shard


# ------------------------------------------------------------------------------------------------- how a zoo is cut


@pytest.mark.parametrize("name", ["loop", "native", "vmap"])
def test_how_a_zoo_is_cut(name, images, tmp_path):
    """To the byte for engines that compute a model by itself; up to rounding where models are computed together."""
    protocol = get_protocol("digits")
    protocol = dataclasses.replace(protocol, network=protocol.network | {"dropout": 0.5})
    zoo = settings(protocol=protocol, models=9, epochs=2)
    try:
        engine = {
            "loop": LoopEngine,
            "native": lambda: NativeEngine.for_network(protocol.network_config(images.classes)),
            "vmap": VmapEngine,
        }[name]()
    except NativeUnavailable as reason:
        pytest.skip(f"no native engine here: {reason}")
    rows = []
    for size in (9, 4, 1):
        shards, folder = plan_shards(zoo, size), tmp_path / str(size)
        folder.mkdir()
        for shard in shards:
            train_shard(zoo, shard, images, engine, folder, lambda cost: None)
        rows.append(read_shards(shards, folder))
    for cut in rows[1:]:
        for column, values in rows[0].items():
            if name == "vmap":
                torch.testing.assert_close(cut[column], values, rtol=1e-4, atol=1e-5)
            else:
                assert torch.equal(cut[column], values), column


# ------------------------------------------------------------------------------------------------ what decides bytes


class Elsewhere(LoopEngine):
    device = torch.device("cuda")


def other_classes(images: ImageData) -> ImageData:
    return dataclasses.replace(images, classes=[*images.classes[:-1], "nine"])


def protocol(**changes):
    return settings(protocol=dataclasses.replace(get_protocol("digits"), **changes))


RECIPE = get_protocol("digits").recipe
OTHERS = {
    "models": (settings(models=6), LoopEngine(), None),
    "keep_epochs": (settings(keep_epochs=(0, 2)), LoopEngine(), None),
    "test_epochs": (settings(test_epochs=3, keep_epochs=(0, 1, 2)), LoopEngine(), None),
    "first_seed": (settings(first_seed=2), LoopEngine(), None),
    "protocol": (protocol(recipe=dataclasses.replace(RECIPE, learning_rate=1e-3)), LoopEngine(), None),
    "batch size": (protocol(recipe=dataclasses.replace(RECIPE, batch_size=11)), LoopEngine(), None),
    "network": (protocol(network=get_protocol("digits").network | {"dropout": 0.1}), LoopEngine(), None),
    "grid": (protocol(grid={"train_fraction": (0.5, 1.0)}), LoopEngine(), None),
    "pixels": (protocol(image_processor=get_protocol("mnist").image_processor), LoopEngine(), None),
    "classes": (settings(), LoopEngine(), other_classes),
    "images": (settings(), LoopEngine(), lambda images: dataclasses.replace(images, fingerprint="0" * 16)),
    "engine": (settings(), VmapEngine(), None),
    "device": (settings(), Elsewhere(), None),
}


@pytest.fixture(scope="module")
def unfinished(images, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("unfinished") / "zoo"
    with pytest.raises(KeyboardInterrupt):
        build_zoo(settings(), images, Interrupting(calls=1), output)
    return output


@pytest.fixture(scope="module")
def complete(images, tmp_path_factory) -> Path:
    return build_zoo(settings(), images, LoopEngine(), tmp_path_factory.mktemp("complete") / "zoo")


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("begun", ["unfinished", "complete"])
def test_whatever_decides_a_byte_is_asked_for_again(other, begun, images, request):
    zoo, engine, change = OTHERS[other]
    named = other if other in (*settings().__dict__, "classes", "images", "engine", "device") else "protocol"
    output = request.getfixturevalue(begun)
    with pytest.raises(UserError, match=rf"begun with other settings \([^)]*{named}[^)]* differ\)"):
        build_zoo(zoo, change(images) if change else images, engine, output, resume=True)


@pytest.mark.parametrize("engine", [LoopEngine(), VmapEngine(models_per_chunk=3)])
def test_a_zoo_records_what_its_build_was_asked_for(engine, images, tmp_path):
    grid = dataclasses.replace(get_protocol("digits"), grid={"optimizer": ("adam", "sgd")}, epochs=7)
    zoo = settings(protocol=grid, epochs=1, test_epochs=2, keep_epochs=(0, 1), first_seed=3)
    asked = _fingerprint(zoo, images, engine)
    recorded = _fingerprint_of(load_config(build_zoo(zoo, images, engine, tmp_path / "zoo")))
    for values in (asked, recorded):
        del values["protocol"]["epochs"]  # of the protocol's own; the settings say how long these were trained
    assert json.loads(json.dumps(recorded)) == asked


def test_chunks_that_became_smaller_are_no_other_settings(images, monkeypatch, tmp_path):
    """Where a GPU's memory is too small, the engine halves its chunks while it works."""
    engine = VmapEngine(models_per_chunk=4)
    train = zoo_shards.train_shard

    def train_and_halve(*arguments):
        train(*arguments)
        engine.models_per_chunk = 2

    monkeypatch.setattr("hyperrep.zoo.build.train_shard", train_and_halve)
    output = build_zoo(settings(epochs=0), images, engine, tmp_path / "zoo")
    assert load_config(output).made_with["models_per_chunk"] == "4"
    build_zoo(settings(epochs=0), images, VmapEngine(models_per_chunk=4), output, resume=True)
    with pytest.raises(UserError, match=r"\(models_per_chunk differ\)"):
        build_zoo(settings(epochs=0), images, VmapEngine(models_per_chunk=5), output, resume=True)


def test_what_earlier_versions_did_not_write_down_is_not_missed(images, complete, tmp_path):
    path = complete / "zoo_config.json"
    before = path.read_text()
    config = json.loads(before)
    del config["made_with"]["device"]
    del config["network"]["id2label"]
    del config["network"]["label2id"]
    config["network"]["num_labels"] = 10
    path.write_text(json.dumps(config))
    try:
        build_zoo(settings(), images, Interrupting(calls=1), complete, resume=True)
    finally:
        path.write_text(before)
