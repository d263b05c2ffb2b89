"""What strangers reported of libraries like this one, tried here. Each test names the reports it comes from."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_zoo import TINY_SETTINGS, write_tiny_zoo
from torch import nn
from training_runs import tiny_config

from hyperrep import HyperRepModel, HyperRepPipeline
from hyperrep.errors import UserError
from hyperrep.files import check_output, output_folder
from hyperrep.networks import SmallCNNConfig
from hyperrep.pipeline import fit_sampler
from hyperrep.population import Population, Recipe, choose_engine, image_order
from hyperrep.training import TrainingConfig, train
from hyperrep.weights import WeightLayout
from hyperrep.zoo import ZooSettings, get_protocol


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 3))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("strangers")
    train(TrainingConfig.from_dict(TINY_SETTINGS), write_tiny_zoo(folder / "zoo"), folder / "representation")
    fit_sampler(folder / "representation", folder / "zoo")
    return folder / "representation"


# pytorch #101107, nanoGPT #325, root_painter #184: names of a compiled or wrapped module have a prefix
WRAPPINGS = {
    "torch.compile": lambda module: torch.compile(module, backend="eager"),
    "DataParallel": nn.DataParallel,
    "both": lambda module: nn.DataParallel(torch.compile(module, backend="eager")),
}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_a_compiled_or_wrapped_network_has_the_layout_and_the_weights_of_the_one_inside(wrap):
    inside = network()
    wrapped, layout = wrap(inside), WeightLayout.of(inside)
    assert WeightLayout.of(wrapped) == layout
    assert torch.equal(layout.vectorize(wrapped.state_dict()), layout.vectorize(inside.state_dict()))


def test_a_submodule_that_is_called_module_keeps_its_name():
    module = nn.Module()
    module.module = nn.Linear(3, 2)
    layout = WeightLayout.of(module)
    assert [name for name, _ in layout.tensors] == ["module.weight", "module.bias"]
    assert layout.vectorize(module.state_dict()).shape == (8,)


# safetensors #782, sentence-transformers #4010, datasets #2065: files that nobody else of the group can read
@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_files_are_made_with_the_permissions_that_the_user_gives_files(trained, tmp_path):
    before = os.umask(0o002)
    try:
        HyperRepPipeline.from_pretrained(trained)(2).save_pretrained(tmp_path / "samples")
        train(tiny_config(), trained.parent / "zoo", tmp_path / "representation")
        fit_sampler(tmp_path / "representation", trained.parent / "zoo")
    finally:
        os.umask(before)
    modes = {
        str(path.relative_to(tmp_path)): oct(path.stat().st_mode & 0o777)
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert "representation/sampler/sampler.safetensors" in modes
    assert "samples/model-00001/model.safetensors" in modes
    assert set(modes.values()) == {"0o664"}, modes


# filelock #67, BOINC #1563: NFS and Lustre mounted without locks
@pytest.mark.skipif(os.name != "posix", reason="flock of POSIX")
@pytest.mark.parametrize("code", ["ENOLCK", "EOPNOTSUPP", "ENOSYS"])
def test_where_the_file_system_knows_no_locks_a_file_stands_for_one(tmp_path, monkeypatch, code):
    def flock(*_):
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    monkeypatch.setattr("fcntl.flock", flock)
    with output_folder(tmp_path / "out", "zoo") as output:
        output.write_text("a.txt", "one")
        with (
            pytest.raises(UserError, match="another run is writing"),
            output_folder(tmp_path / "out", "zoo", "resume"),
        ):
            pass
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.txt", ".hyperrep.json"}
    with output_folder(tmp_path / "out", "zoo", "resume") as output:
        output.write_text("a.txt", "two")
    assert (tmp_path / "out" / "a.txt").read_text() == "two"


# MACE #306, nessai #108: a script that has set torch's default to float64
@pytest.mark.parametrize("name", ["loop", "vmap", "native"])
def test_engines_train_whatever_torchs_default_type_is(name):
    config = SmallCNNConfig(initializer="kaiming_uniform")
    if name == "native" and choose_engine("auto", config).name != "native":
        pytest.skip("the kernels cannot be compiled here")
    images, labels = torch.rand(20, 1, 28, 28), torch.arange(20) % 10
    results = []
    for default in (torch.float32, torch.float64):
        engine = choose_engine(name, config)
        weights = 0.1 * torch.randn(2, 2464, generator=torch.Generator().manual_seed(0))
        torch.set_default_dtype(default)
        try:
            population = Population.start(config, Recipe("adam", learning_rate=1e-3), weights)
            order = image_order(range(2), epoch=1, num_images=20)
            engine.train_epoch(population, images, labels, order)
            evaluation = engine.evaluate(config, population.weights, images, labels)
        finally:
            torch.set_default_dtype(torch.float32)
        assert population.weights.dtype == torch.float32
        results.append((population.weights, evaluation.loss.float()))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-6)


# streamlit #5073, shap #898, dgl #1170: run from a thread, where no handler of signals may be set
def test_training_in_a_thread(trained, tmp_path):
    raised = []

    def run() -> None:
        try:
            train(tiny_config(), trained.parent / "zoo", tmp_path / "representation")
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not raised
    assert (tmp_path / "representation" / "model.safetensors").read_bytes() == (
        trained / "model.safetensors"
    ).read_bytes()


# the same kind in every library that counts: a sweep over np.arange, a shape from an array
def test_numbers_of_numpy_are_numbers(trained):
    assert len(HyperRepPipeline.from_pretrained(trained)(np.int64(3))) == 3
    config = TrainingConfig.from_yaml(
        "digits", {"batch_size": np.int64(8), "learning_rate": np.float32(0.5), "epochs": np.arange(21, 26)}
    )
    assert config == TrainingConfig.from_yaml(
        "digits", {"batch_size": 8, "learning_rate": 0.5, "epochs": [21, 22, 23, 24, 25]}
    )
    settings = ZooSettings(get_protocol("digits"), models=np.int64(8), epochs=np.int32(3), keep_epochs=np.arange(2))
    assert settings == ZooSettings(get_protocol("digits"), models=8, epochs=3, keep_epochs=(0, 1))


# a filter that leaves nothing is an empty batch, as everywhere in torch
def test_no_networks_have_no_latents(trained):
    model = HyperRepModel.from_pretrained(trained)
    latents = model.encode(torch.zeros(0, model.config.num_params))
    assert latents.shape == (0, model.config.latent_size)
    assert model.decode(latents).shape == (0, model.config.num_params)


@pytest.mark.parametrize("kind", [np.asarray, np.ndarray.tolist], ids=["array", "list"])
def test_weights_that_are_no_tensor_are_told_what_they_must_be(trained, kind):
    model = HyperRepModel.from_pretrained(trained)
    with pytest.raises(TypeError, match=r"torch\.as_tensor"):
        model.encode(kind(np.zeros((2, model.config.num_params), np.float32)))


# huggingface_hub #4487, optimum #2470: a part of a repository is in the cache, and the network is away
PARTLY = """
import os, shutil, sys
from pathlib import Path
from fake_hub import FakeHub
folder, work = Path(sys.argv[1]), Path(sys.argv[2])
shutil.copytree(folder, work / "copy")
(work / "copy/README.md").write_text("a card")
with FakeHub() as hub:
    os.environ |= hub.environment(work / "hf")
    from hyperrep import HyperRepModel, HyperRepPipeline, UserError
    from hyperrep.hub import push_folder
    push_folder(work / "copy", "org/model")
    HyperRepModel.from_pretrained("org/model")
    for _ in range(2):
        try:
            print(HyperRepPipeline.from_pretrained("org/model", local_files_only=True).source)
        except UserError as error:
            print(error)
        HyperRepPipeline.from_pretrained("org/model")
"""


def test_a_cache_that_holds_the_model_alone(trained, tmp_path):
    command = [sys.executable, "-c", PARTLY, str(trained), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    outcome = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    refused, loaded = outcome.stdout.splitlines()
    assert "load the pipeline once while the Hub can be reached" in refused
    assert loaded == "org/model"


# a locale of ASCII reads a name in UTF-8 as something that cannot be written; known only after the work, it was lost
def test_a_name_that_the_locale_cannot_spell_is_refused_before_the_work(tmp_path):
    name = os.fsencode("zoo-ä").decode("ascii", errors="surrogateescape")  # as Python reads it there
    with pytest.raises(UserError, match="PYTHONUTF8=1"):
        check_output(tmp_path / name, "zoo", "new")
