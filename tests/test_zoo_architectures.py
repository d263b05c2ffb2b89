"""Networks of several architectures in one folder: a zoo for each of them, which is a configuration of one dataset."""

import json

import datasets
import pytest
import torch
from safetensors.torch import save_file
from tiny_zoo import tiny_network
from torch import nn

from hyperrep import load_zoo
from hyperrep.errors import UserError
from hyperrep.hub import published_files
from hyperrep.networks import SmallCNNConfig, SmallCNNForImageClassification
from hyperrep.representation import HyperRepModel
from hyperrep.zoo import import_zoos, load_zoos


pytestmark = pytest.mark.usefixtures("contained")

SMALL = {**tiny_network().to_dict(), "hidden_sizes": [5]}
LARGE = {**SMALL, "hidden_sizes": [7]}
OTHER = {**SMALL, "hidden_act": "relu" if SMALL["hidden_act"] != "relu" else "tanh"}


def save(settings: dict, folder, name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    module = SmallCNNForImageClassification(SmallCNNConfig(**settings))
    module.save_pretrained(folder / name)
    return module


@pytest.fixture
def theirs(tmp_path):
    """Ten small networks, eight large ones, eight small ones of another activation, and one of its own."""
    folder = tmp_path / "theirs"
    modules = {}
    for number in range(26):
        settings = SMALL if number < 10 else LARGE if number < 18 else OTHER
        modules[f"net-{number}"] = save(settings, folder, f"net-{number}", number)
    save({**SMALL, "hidden_sizes": [11]}, folder, "odd", 99)
    return folder, modules


def test_each_architecture_is_a_configuration_of_one_dataset(theirs, hyperrep, caplog, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    _, modules = theirs
    code, _, error = hyperrep("zoo import theirs --epoch 3 --by-architecture --output mine")
    assert code == 0, error
    zoos = load_zoos(tmp_path / "mine")
    assert [zoo.config.num_models for zoo in zoos] == [10, 8, 8]
    assert {zoo.config.network["hidden_act"] for zoo in zoos} == {SMALL["hidden_act"], OTHER["hidden_act"]}
    assert "odd" in caplog.text + error
    names = datasets.get_dataset_config_names(str(tmp_path / "mine"))
    assert names == json.loads((tmp_path / "mine" / "zoos.json").read_text())["zoos"]
    assert len(set(names)) == 3
    first = 0
    for name, count in zip(names, (10, 8, 8)):
        zoo, data = load_zoo(tmp_path / "mine" / name), datasets.load_dataset(str(tmp_path / "mine"), name)
        own = list(modules.values())[first : first + count]
        first += count
        for split, rows in data.items():
            assert torch.equal(zoo[split].model_id, torch.tensor(rows["model_id"]))
            assert torch.equal(zoo[split].weights, torch.tensor(rows["weights"]))
            for model, weights in zip(rows["model_id"], zoo[split].weights):
                state = own[model].state_dict()
                assert torch.equal(weights, zoo.config.weight_layout().vectorize(state).detach())
    assert hyperrep("zoo info mine")[0] == 0
    assert len(json.loads(hyperrep("zoo info mine --json")[1])) == 3


def test_what_is_published_is_whole(theirs, tmp_path):
    folder = import_zoos(theirs[0], tmp_path / "mine", epoch=3)
    names = published_files(folder, "dataset")
    assert {"README.md", "zoos.json"} <= set(names)
    assert len([name for name in names if name.endswith("/zoo_config.json")]) == 3
    assert not [name for name in names if ".hyperrep" in name]


def test_one_is_to_be_named(theirs, tmp_path):
    folder = import_zoos(theirs[0], tmp_path / "mine", epoch=3)
    with pytest.raises(UserError, match=r"a zoo for each of 3 architectures; name one of them: .*/mine/small-cnn-"):
        load_zoo(folder)
    (folder / "zoos.json").write_text(json.dumps({"zoos": ["../theirs"]}))
    with pytest.raises(UserError, match="no name of a subfolder"):
        load_zoos(folder)


def test_again_it_replaces_its_own_and_nothing_else(theirs, hyperrep, tmp_path):
    command = "zoo import theirs --epoch 3 --by-architecture --output mine"
    assert hyperrep(command)[0] == 0
    assert "exists" in hyperrep(command)[2]
    assert hyperrep(f"{command} --overwrite")[0] == 0
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert "notes.txt" in hyperrep(f"{command} --overwrite")[2]
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
    assert len(load_zoos(tmp_path / "mine")) == 3


def test_a_representation_learns_from_all_of_them(theirs, hyperrep, tmp_path):
    import_zoos(theirs[0], tmp_path / "mine", epoch=3)
    sizes = "--hidden-size 32 --intermediate-size 16 --num-hidden-layers 1 --num-attention-heads 2"
    settings = f"--token-size 8 --window 6 --halo 1 {sizes} --num-train-epochs 1"
    command = f"train windows --zoo mine --output model --epochs [3] --batch-size 4 {settings}"
    code, _, error = hyperrep(command)
    assert code == 0, error
    about = HyperRepModel.from_pretrained(tmp_path / "model").config.zoo
    assert [other["num_train"] for other in about["also"]] == [6, 6]


def test_networks_that_compute_otherwise_are_no_zoo(theirs, hyperrep, tmp_path):
    """Tensors alike, and another activation: as one zoo, half of them would be run wrongly."""
    folder, _ = theirs
    for number in range(10, 18):
        for path in (folder / f"net-{number}").iterdir():
            path.unlink()
    for path in (folder / "odd").iterdir():
        path.unlink()
    error = hyperrep("zoo import theirs --epoch 3 --output mine")[2]
    assert "net-0 has hidden_act" in error
    assert "--by-architecture" in error
    assert hyperrep("zoo import theirs --epoch 3 --like net-20 --output mine")[0] == 0
    assert load_zoo(tmp_path / "mine").config.network["hidden_act"] == OTHER["hidden_act"]


def test_what_training_alone_does_is_no_other_architecture(tmp_path):
    for number in range(8):
        save(SMALL | {"dropout": 0.1 * number}, tmp_path / "theirs", f"net-{number}", number)
    (zoo,) = load_zoos(import_zoos(tmp_path / "theirs", tmp_path / "mine", epoch=3))
    assert zoo.config.num_models == 8


def test_loose_files_are_told_apart_by_their_tensors(hyperrep, tmp_path):
    (tmp_path / "theirs").mkdir()
    for number in range(16):
        state = {"weight": torch.randn(3 + number % 2, 4), "bias": torch.randn(3 + number % 2)}
        save_file(state, tmp_path / "theirs" / f"{number}.safetensors")
    assert hyperrep("zoo import theirs --epoch 1 --by-architecture --output mine")[0] == 0
    assert [zoo.config.weight_layout().num_params for zoo in load_zoos(tmp_path / "mine")] == [15, 20]


@pytest.mark.parametrize("option", ["--protocol mnist", "--images digits", "--like net-3"])
def test_what_is_about_one_architecture_is_refused(option, theirs, hyperrep, tmp_path):
    code, _, error = hyperrep(f"zoo import theirs --epoch 3 --by-architecture {option} --output mine")
    assert code == 2
    assert "leave out --by-architecture" in error
    assert not (tmp_path / "mine").exists()


def test_too_few_of_each(tmp_path):
    for number in range(3):
        save(SMALL, tmp_path / "theirs", f"net-{number}", number)
    with pytest.raises(UserError, match="no architecture has"):
        import_zoos(tmp_path / "theirs", tmp_path / "mine", epoch=3)
    assert not (tmp_path / "mine").exists()
