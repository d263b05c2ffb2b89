"""Networks that somebody else trained become a zoo: every kind of folder, and every mistake in one."""

import itertools
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_zoo import tiny_layout, tiny_network
from torch import nn

from hyperrep import load_zoo
from hyperrep.images import load_images
from hyperrep.networks import SmallCNNConfig, SmallCNNForImageClassification
from hyperrep.population import choose_engine
from hyperrep.zoo import ZooSettings, build_zoo, get_protocol
from hyperrep.zoo.settings import SPLITS


pytestmark = pytest.mark.usefixtures("contained")

MODELS = 8


def rows_of(zoo, column):
    return {
        (model, epoch): value
        for split in SPLITS
        for model, epoch, value in zip(zoo[split].model_id.tolist(), zoo[split].epoch.tolist(), column(zoo[split]))
    }


def networks(count: int = MODELS) -> list[nn.Module]:
    models = []
    for seed in range(count):
        torch.manual_seed(seed)
        models.append(SmallCNNForImageClassification(tiny_network()))
    return models


def test_folders_of_transformers(hyperrep, tmp_path):
    models = networks(12)
    for number, model in enumerate(models):
        model.save_pretrained(tmp_path / "theirs" / f"model-{number}")
    code, output, error = hyperrep("zoo import theirs --epoch 7 --output mine")
    assert code == 0, error
    assert "12" in output
    zoo = load_zoo(tmp_path / "mine")
    assert zoo.config.network["model_type"] == "small_cnn"
    assert zoo.config.epochs == [7]
    stored = rows_of(zoo, lambda split: split.weights)
    for number, model in enumerate(models):  # in the order that people count in, and not model-10 after model-1
        assert torch.equal(stored[number, 7], tiny_layout().vectorize(model.state_dict()).detach())


def test_folders_of_older_versions_of_transformers(hyperrep, tmp_path):
    for number, model in enumerate(networks()):
        folder = tmp_path / "theirs" / f"model-{number}"
        model.config.save_pretrained(folder)
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assert hyperrep("zoo import theirs --epoch 7 --output mine")[0] == 0
    assert load_zoo(tmp_path / "mine").config.network["model_type"] == "small_cnn"


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_loose_files(hyperrep, tmp_path, suffix):
    (tmp_path / "theirs").mkdir()
    for number, model in enumerate(networks()):
        state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        path = tmp_path / "theirs" / f"{number}{suffix}"
        if suffix == ".safetensors":
            save_file(state, path)
        else:
            torch.save({"epoch": 3, "model_state_dict": state} if suffix == ".pth" else state, path)
    assert hyperrep("zoo import theirs --epoch 3 --output mine")[0] == 0
    zoo = load_zoo(tmp_path / "mine")
    assert zoo.config.layout == tiny_layout().to_list()
    assert sum(len(zoo[split]) for split in SPLITS) == MODELS
    assert all(zoo[split].metrics["test_accuracy"].isnan().all() for split in SPLITS)


def test_a_network_in_two_formats_is_one_network(hyperrep, tmp_path):
    (tmp_path / "theirs").mkdir()
    for number, model in enumerate(networks()):
        save_file(dict(model.state_dict()), tmp_path / "theirs" / f"net.{number}.safetensors")
        torch.save(model.state_dict(), tmp_path / "theirs" / f"net.{number}.pt")
    assert hyperrep("zoo import theirs --epoch 3 --output mine")[0] == 0
    zoo = load_zoo(tmp_path / "mine")
    assert sum(len(zoo[split]) for split in SPLITS) == MODELS


def write_trials(folder: Path, models: int = MODELS, epochs=(0, 1, 2)) -> dict[tuple[int, int], torch.Tensor]:
    """As the public Model Zoos lie on a disk; names of tensors are those of their code."""
    vectors = {}
    layout = SmallCNNForImageClassification(SmallCNNConfig())
    shapes = {name: tuple(tensor.shape) for name, tensor in layout.state_dict().items()}
    names = [f"module_list.{module}.{kind}" for module in (0, 3, 6, 9, 11) for kind in ("weight", "bias")]
    for model in range(models):
        trial = folder / f"NN_tune_trainable_{model:05d}_seed={model + 1}"
        trial.mkdir(parents=True)
        config = {"seed": model + 1, "model::nlin": "tanh"}
        (trial / "params.json").write_text(json.dumps(config))
        with (trial / "result.json").open("w") as results:
            for epoch in epochs:
                said = {"training_iteration": epoch, "trial_id": f"{model:05d}", "config": config}
                said |= {"train_acc": 0.5 + 0.01 * epoch, "test_acc": 0.4 + 0.01 * model, "test_loss": 1.0}
                results.write(json.dumps(said) + "\n")
                generator = torch.Generator().manual_seed(100 * model + epoch)
                tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
                checkpoint = trial / f"checkpoint_{epoch:06d}"
                checkpoint.mkdir()
                torch.save(dict(zip(names, tensors.values())), checkpoint / "checkpoints")
                torch.save({"state": {}}, checkpoint / "optimizer")
                vectors[model, epoch] = torch.cat([tensor.flatten() for tensor in tensors.values()])
    return vectors


def test_public_model_zoos(hyperrep, tmp_path):
    vectors = write_trials(tmp_path / "tune_zoo_mnist_uniform")
    code, _, error = hyperrep("zoo import tune_zoo_mnist_uniform --protocol mnist --epochs 1-2 --output mine")
    assert code == 0, error
    zoo = load_zoo(tmp_path / "mine")
    assert (zoo.config.epochs, zoo.config.num_models) == ([1, 2], MODELS)
    assert zoo.config.network_config().hidden_act == "tanh"
    assert zoo.config.published_accuracy()[25] == (83.3, 2.6)
    stored = rows_of(zoo, lambda split: split.weights)
    assert stored.keys() == {key for key in vectors if key[1] > 0}
    assert all(torch.equal(stored[key], vectors[key]) for key in stored)
    assert rows_of(zoo, lambda split: split.seed.tolist())[3, 1] == 4
    accuracy = rows_of(zoo, lambda split: split.metrics["test_accuracy"].tolist())
    assert accuracy[5, 2] == pytest.approx(0.45)
    gap = rows_of(zoo, lambda split: split.metrics["generalization_gap"].tolist())
    assert gap[5, 2] == pytest.approx(0.52 - 0.45)


def test_on_images_they_measure_what_a_zoo_of_ours_has(hyperrep, tmp_path):
    protocol = get_protocol("digits")
    images = load_images("digits", protocol.processor(), protocol.validation_fraction)
    settings = ZooSettings(protocol, models=MODELS, epochs=1, keep_epochs=(1,))
    engine = choose_engine("auto", protocol.network_config(images.classes))
    ours = load_zoo(build_zoo(settings, images, engine, tmp_path / "ours"))
    (tmp_path / "theirs").mkdir()
    for (model, _), vector in rows_of(ours, lambda split: split.weights).items():
        tensors = ours.config.weight_layout().unvectorize(vector.clone())
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / f"theirs/{model}.safetensors"
        )
    code, _, error = hyperrep("zoo import theirs --protocol digits --images digits --epoch 1 --output mine")
    assert code == 0, error
    mine = load_zoo(tmp_path / "mine")
    assert mine.config.images == ours.config.images
    for name in ("test_accuracy", "validation_accuracy", "validation_loss", "test_loss"):
        found, expected = (rows_of(zoo, lambda split, n=name: split.metrics[n].tolist()) for zoo in (mine, ours))
        assert found == pytest.approx(expected, abs=1e-5)


def write_park(folder: Path, runs: int = 2 * MODELS) -> dict[tuple[str, int], torch.Tensor]:
    """As the CNN Wild Park lies on a disk; every other run has another architecture."""
    vectors = {}
    for run in range(runs):
        for epoch in (2, 5):
            generator = torch.Generator().manual_seed(10 * run + epoch)
            channels = [3, 4 + run % 2, 6]
            state = {}
            for layer, (before, after) in enumerate(itertools.pairwise(channels)):
                state[f"layers.{layer}.weight"] = torch.randn(after, before, 3, 3, generator=generator)
                state[f"layers.{layer}.bias"] = torch.randn(after, generator=generator)
            state |= {"fc.weight": torch.randn(10, 6, generator=generator), "fc.bias": torch.zeros(10)}
            config = {"n_layers": 2, "channels": channels, "activation": ["relu", "relu"]}
            said = {"model": state, "config": config, "iteration": epoch, "last_result": {"test/acc": 0.1 * epoch}}
            place = folder / f"run_{run}" / f"checkpoint_{epoch:06d}"
            place.mkdir(parents=True)
            torch.save(said, place / "checkpoint.pt")
            vectors[f"run_{run}", epoch] = torch.cat([tensor.flatten() for tensor in state.values()])
    return vectors


def test_an_architecture_of_the_cnn_wild_park(hyperrep, tmp_path):
    vectors = write_park(tmp_path / "park")
    code, _, error = hyperrep("zoo import park --output all")
    assert code == 2
    assert "choose those of one architecture by one of them, like (--like MODEL)" in error
    code, _, error = hyperrep("zoo import park --like run_7 --epochs 5 --output odd")
    assert code == 0, error
    zoo = load_zoo(tmp_path / "odd")
    assert (zoo.config.epochs, zoo.config.num_models) == ([5], MODELS)
    assert zoo.config.layout[2] == ["layers.1.weight", [6, 5, 3, 3]]
    stored = rows_of(zoo, lambda split: split.weights)
    odd = [f"run_{run}" for run in range(1, 2 * MODELS, 2)]
    assert all(torch.equal(stored[number, 5], vectors[name, 5]) for number, name in enumerate(odd))
    accuracy = rows_of(zoo, lambda split: split.metrics["test_accuracy"].tolist())
    assert list(accuracy.values()) == pytest.approx([0.5] * MODELS)
    code, _, error = hyperrep("zoo import park --like run_70 --output none")
    assert code == 2
    assert "like names 'run_70'; models are run_0, run_1" in error


class Surprise:
    """Code that a pickle would run."""

    def __reduce__(self):
        return (Path("surprise").write_text, ("it ran",))


def test_a_pickle_with_code_is_not_read(hyperrep, tmp_path):
    (tmp_path / "theirs").mkdir()
    torch.save({"weight": torch.zeros(2), "more": Surprise()}, tmp_path / "theirs" / "0.pt")
    (tmp_path / "theirs" / "1.pt").write_bytes(pickle.dumps(Surprise()))
    code, _, error = hyperrep("zoo import theirs --epoch 1 --output mine")
    assert code == 2
    assert "0.pt is no file of tensors alone, and is not read" in error
    assert not (tmp_path / "surprise").exists()
    assert not (tmp_path / "mine").exists()


def spoil_nothing(folder):
    folder.mkdir()


def spoil_shape(folder):
    folder.mkdir()
    for number in range(MODELS):
        save_file({"weight": torch.zeros(2 + number // 7, 3)}, folder / f"{number}.safetensors")


def spoil_bytes(folder):
    spoil_shape(folder)
    (folder / "0.safetensors").write_bytes(b"no tensors")


def spoil_file(folder):
    folder.mkdir()
    (folder / "net.pt").write_bytes(b"PK\x03\x04 no archive")


def spoil_mixture(folder):
    spoil_shape(folder)
    networks(1)[0].save_pretrained(folder / "model-0")


def spoil_kind(folder):
    folder.mkdir()
    torch.save([1, 2, 3], folder / "0.pt")


@pytest.mark.parametrize(
    ("spoil", "options", "said"),
    [
        (None, "", "there is no folder theirs"),
        (spoil_nothing, "", "theirs holds no checkpoints: neither */model.safetensors"),
        (spoil_shape, "", "give epoch (--epoch 25)"),
        (spoil_shape, "--epochs 3", "theirs holds no checkpoints of epochs 3"),
        (
            spoil_shape,
            "--epoch 1",
            '7.safetensors holds {"weight": [3, 3]}; networks of this zoo have {"weight": [2, 3]}',
        ),
        (spoil_shape, "--epoch 1 --protocol mnist", "0.safetensors holds"),
        (spoil_shape, "--epoch 1 --images digits", "name it (--protocol)"),
        (spoil_bytes, "--epoch 1", "0.safetensors is damaged"),
        (spoil_file, "--epoch 1", "net.pt is damaged, or no file of PyTorch"),
        (spoil_kind, "--epoch 1", "0.pt holds no state dict of tensors"),
        (spoil_mixture, "--epoch 1", "holds folders of transformers and loose files"),
    ],
)
def test_mistakes(hyperrep, tmp_path, spoil, options, said):
    if spoil:
        spoil(tmp_path / "theirs")
    code, _, error = hyperrep(f"zoo import theirs --output mine {options}")
    assert code == 2
    assert said in " ".join(error.split())
    assert "Traceback" not in error
    assert not (tmp_path / "mine").exists()
