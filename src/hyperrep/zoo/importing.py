"""Networks that somebody else trained, as a zoo: a folder of checkpoints, in whichever way they lie there."""

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedConfig

from ..errors import UserError
from ..files.reading import open_tensors, read_json, read_json_lines, read_pytorch
from ..images import ImageData
from ..networks import layout_of, network_from
from ..population import choose_engine
from ..weights import WeightLayout
from .config import CONFIG_NAME
from .dataset import load_zoo
from .own import write_zoo
from .protocol import Protocol
from .settings import MAX_SEED
from .stored import StoredWeights


WEIGHTS, OLD_WEIGHTS = "model.safetensors", "pytorch_model.bin"
TRIAL, CHECKPOINT = "result.json", "checkpoint_*"
RUN = "checkpoint.pt"
PICKLED = (".pt", ".pth", ".bin")
NO_PROTOCOL = "images are shown to networks by the protocol they were trained with: name it (--protocol)."
# what the public Model Zoos (arXiv 2209.14764) call it: ours
METRIC_NAMES = {
    "train_loss": "train_loss",
    "train_acc": "train_accuracy",
    "validation_loss": "validation_loss",
    "validation_acc": "validation_accuracy",
    "val_loss": "validation_loss",
    "val_acc": "validation_accuracy",
    "test_loss": "test_loss",
    "test_acc": "test_accuracy",
}


@dataclass(frozen=True)
class Found:
    """A checkpoint.

    Attributes:
        path (`Path`): its file.
        model (`str`): checkpoints of one model have the same.
        epoch (`int`, *optional*): where the folder tells.
        seed (`int`, *optional*), metrics (`dict[str, float]`): the same.
    """

    path: Path
    model: str
    epoch: int | None = None
    seed: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


class CheckpointVectors:
    """Weight vectors in a file each, read one after the other: see [`~hyperrep.zoo.stored.Vectors`].

    Args:
        paths (`list[Path]`): of the checkpoints.
        layout ([`WeightLayout`]): of the vectors.
    """

    def __init__(self, paths: list[Path], layout: WeightLayout):
        self.paths, self.layout = paths, layout

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def length(self) -> int:
        return self.layout.num_params

    def read(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """As [`~hyperrep.zoo.stored.Vectors.read`].

        Raises:
            UserError: also if a file holds other tensors.
        """
        for position, row in enumerate(rows.tolist()):
            path = self.paths[row]
            vector = self.layout.vectorize(_renamed(_floats(path), self.layout, path)).float()
            yield np.array([position]), vector[None].numpy()


def import_zoo(
    source: str | Path,
    output: str | Path,
    protocol: Protocol | None = None,
    images: ImageData | None = None,
    epoch: int | None = None,
    epochs: Collection[int] = (),
    overwrite: bool = False,
    like: str | None = None,
) -> Path:
    """Write a folder of checkpoints as a zoo.

    Four kinds are known: folders of transformers' checkpoints (`*/config.json` and `*/model.safetensors`, as
    `save_pretrained` leaves them); loose files (`*.safetensors`, or PyTorch's `*.pt`, `*.pth` and `*.bin`), one a
    model; the public Model Zoos (`*/result.json` and `*/checkpoint_000025/checkpoints`); and the CNN Wild Park
    (Kofinas et al. 2024, `*/checkpoint_000025/checkpoint.pt`), a zoo for each of its architectures. PyTorch's files
    are read by `torch.load` with `weights_only`, which builds tensors and runs no code.

    Args:
        source (`str` or `Path`): the folder.
        output (`str` or `Path`): of the zoo.
        protocol ([`Protocol`], *optional*): by which they were trained. It says what networks they are; tensors of
            other names are taken by their order, if their shapes are the network's.
        images ([`ImageData`], *optional*): of the protocol. With them loss and accuracy are measured; without, they
            are what the folder says, if it does.
        epoch (`int`, *optional*): after how many epochs of training they were taken, where the folder does not say.
        epochs (`Collection[int]`, *optional*): these alone; by default all.
        overwrite (`bool`, *optional*): replace a zoo that hyperrep wrote there.
        like (`str`, *optional*): of networks of several architectures those that have the tensors of this model, a
            folder or a file without its suffix.

    Returns:
        `Path`: of the zoo.

    Raises:
        UserError: if there are no checkpoints, one cannot be read or has other tensors than the rest, the epoch is not
            known, or the output is not ours to write to.
    """
    source = Path(source)
    found = [one for one in found_checkpoints(source) if not epochs or one.epoch in epochs]
    found = found if like is None else _alike(found, like)
    if not found:
        of = f" of epochs {', '.join(map(str, sorted(epochs)))}" if epochs else ""
        raise UserError(
            f"{source} holds no checkpoints{of}: neither */{WEIGHTS}, nor *.safetensors, *.pt, *.pth or *.bin, nor "
            f"*/{TRIAL} with */{CHECKPOINT}/checkpoints, nor */{CHECKPOINT}/{RUN}."
        )
    if epoch is None and any(one.epoch is None for one in found):
        raise UserError(
            f"{source} does not say after how many epochs its networks were taken; give epoch (--epoch 25)."
        )
    network = _network(found[0].path, protocol, images)
    layout = None if network is None else layout_of(network)
    layout = layout or _layout(found[0].path)
    files = CheckpointVectors([one.path for one in found], layout)
    for _ in tqdm(files.read(np.arange(len(files))), "checking checkpoints", len(files), disable=len(files) < 100):
        pass  # before anything is written
    weights = StoredWeights(files)  # of large networks, there may be no room for all
    models = {name: number for number, name in enumerate(dict.fromkeys(one.model for one in found))}
    seeds = [one.seed for one in found]
    return write_zoo(
        output,
        weights,
        epoch=[one.epoch if one.epoch is not None else int(epoch or 0) for one in found],
        model_id=[models[one.model] for one in found],
        metrics=_metrics(found) if images is None or network is None else _measured(weights.read(), network, images),
        seed=None if None in seeds else [int(seed) for seed in seeds if seed is not None],
        layout=layout,
        network=network,
        overwrite=overwrite,
        protocol=protocol,
        images=images,
    )


def read_networks(source: str | Path) -> tuple[Tensor, WeightLayout, PreTrainedConfig | None]:
    """Weight vectors (networks, num_params) of a folder of checkpoints, of any kind that [`import_zoo`] knows, models
    in their natural order, or of a zoo's training networks after their last epoch; their layout; and what they are,
    where a configuration lies beside the first.

    Raises:
        UserError: if there are none, or one cannot be read, holds other tensors than the first, or numbers that are
            not finite.
    """
    if (Path(source) / CONFIG_NAME).exists():
        zoo = load_zoo(source)
        rows = zoo["train"].select([int(zoo["train"].epoch.max())]).within(math.inf)
        return rows.weights, zoo.config.weight_layout(), zoo.config.network_config() if zoo.config.network else None
    found = found_checkpoints(Path(source))
    if not found:
        raise UserError(f"{source} holds no checkpoints, such as model-00000/{WEIGHTS}.")
    network = _network(found[0].path, None, None)
    layout = _layout(found[0].path) if network is None else layout_of(network)
    weights = StoredWeights(CheckpointVectors([one.path for one in found], layout)).read()
    if broken := (~torch.isfinite(weights).all(dim=1)).nonzero().flatten().tolist():
        raise UserError(f"{found[broken[0]].path} holds NaN or infinite weights; leave it out.")
    return weights, layout, network


def _layout(path: Path) -> WeightLayout:
    return WeightLayout(tuple((name, tuple(tensor.shape)) for name, tensor in _floats(path).items()))


def _floats(path: Path) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in read_state(path).items() if tensor.is_floating_point()}


def found_checkpoints(source: Path) -> list[Found]:
    """What lies in a folder, models and epochs in their natural order.

    Raises:
        UserError: if there is no such folder, or it mixes kinds.
    """
    if not source.is_dir():
        raise UserError(f"there is no folder {source}.")
    kinds = {
        "folders of transformers": [
            Found(path, path.parent.name)
            for path in _sorted(source.glob("*/*"))
            if path.name == WEIGHTS or (path.name == OLD_WEIGHTS and not (path.parent / WEIGHTS).exists())
        ],
        "loose files": [
            Found(path, path.stem)
            for path in _sorted(source.iterdir())
            if path.suffix in (".safetensors", *PICKLED) and path.is_file() and not _is_superseded(path)
        ],
        "trials of a Model Zoo": [one for path in _sorted(source.glob(f"*/{TRIAL}")) for one in _trial(path.parent)],
        "runs of the CNN Wild Park": [_run(path) for path in _sorted(source.glob(f"*/{CHECKPOINT}/{RUN}"))],
    }
    present = [kind for kind, found in kinds.items() if found]
    if len(present) > 1:
        raise UserError(f"{source} holds {' and '.join(present)}; put each kind into a folder of its own.")
    return kinds[present[0]] if present else []


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint's file, by name.

    Raises:
        UserError: if it cannot be read, is damaged, or holds anything else.
    """
    if path.suffix == ".safetensors":
        with open_tensors(path) as file:  # which holds tensors in no order
            return {name: file.get_tensor(name) for name in sorted(file.keys(), key=_place)}
    state = read_pytorch(path)
    for key in ("state_dict", "model_state_dict", "model"):  # beside an optimiser's
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise UserError(f"{path} holds no state dict of tensors.")
    return {str(name): tensor for name, tensor in state.items()}


def _is_superseded(path: Path) -> bool:
    """Whether the same network lies beside it as safetensors, because somebody converted it."""
    return path.suffix in PICKLED and path.with_suffix(".safetensors").exists()


def _trial(folder: Path) -> Iterator[Found]:
    """Checkpoints of one model of the public Model Zoos, with what was measured when they were taken."""
    lines = {values.get("training_iteration"): values for _, values in read_json_lines(folder / TRIAL)}
    for path in _sorted(folder.glob(f"{CHECKPOINT}/checkpoints")):
        number = path.parent.name.rpartition("_")[2]
        if not number.isdecimal():
            continue
        said = lines.get(int(number), {})
        config = said.get("config")
        seed = config.get("seed") if isinstance(config, dict) else None
        known = {
            ours: float(said[name])
            for name, ours in METRIC_NAMES.items()
            if isinstance(said.get(name), int | float) and not isinstance(said.get(name), bool)
        }
        fine = isinstance(seed, int) and 0 <= seed <= MAX_SEED
        yield Found(path, folder.name, int(number), seed if fine else None, known)


def _run(path: Path) -> Found:
    """A checkpoint of the CNN Wild Park, with its epoch and accuracy, which stand beside its tensors."""
    said = read_pytorch(path)
    said = said if isinstance(said, Mapping) else {}
    epoch, result = said.get("iteration"), said.get("last_result")
    accuracy = result.get("test/acc") if isinstance(result, Mapping) else None
    known = {"test_accuracy": float(accuracy)} if isinstance(accuracy, int | float) else {}
    return Found(path, path.parent.parent.name, epoch if isinstance(epoch, int) else None, metrics=known)


def _alike(found: list[Found], like: str) -> list[Found]:
    """The checkpoints whose tensors have the names and shapes of a model's.

    Raises:
        UserError: if there is no such model.
    """
    names = dict.fromkeys(one.model for one in found)
    if like not in names:
        raise UserError(f"like names {like!r}; models are {', '.join(list(names)[:10])}{', ...' * (len(names) > 10)}.")
    wanted = _layout(next(one.path for one in found if one.model == like))
    return [one for one in found if _layout(one.path) == wanted]


def _place(name: str) -> tuple:
    """Modules in the order that people count in, each weight before its bias."""
    module, _, kind = name.rpartition(".")
    return _counted(module), {"weight": 0, "bias": 1}.get(kind, 2), kind


def _counted(text: str) -> list[tuple[bool, int | str]]:
    return [(part.isdecimal(), int(part) if part.isdecimal() else part) for part in re.split(r"(\d+)", text)]


def _sorted(paths: Iterator[Path]) -> list[Path]:
    """`model-2` before `model-10`."""
    return sorted(paths, key=lambda path: _counted(str(path)))


def _network(path: Path, protocol: Protocol | None, images: ImageData | None) -> PreTrainedConfig | None:
    """What the networks are: by their protocol, or by the configuration beside the first of them."""
    if protocol is not None:
        classes = [str(label) for label in range(10)] if images is None else images.classes
        return protocol.network_config(classes)
    if images is not None:
        raise UserError(NO_PROTOCOL)
    beside = path.parent / "config.json"
    if path.name not in (WEIGHTS, OLD_WEIGHTS) or not beside.exists():
        return None
    return network_from(read_json(beside), str(beside))


def _renamed(state: dict[str, Tensor], layout: WeightLayout, path: Path) -> dict[str, Tensor]:
    """With the layout's names: by name, or by order where shapes are the same.

    Raises:
        UserError: if it fits neither way.
    """
    shapes = dict(layout.tensors)
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if given == shapes:
        return state
    if set(given) == set(shapes) or list(given.values()) != list(shapes.values()):
        found, wanted = (json.dumps({name: list(shape) for name, shape in of.items()})[:300] for of in (given, shapes))
        raise UserError(
            f"{path} holds {found}; networks of this zoo have {wanted}. Choose those of "
            "one architecture by one of them: like (--like MODEL)."
        )
    return dict(zip(shapes, state.values()))


def _metrics(found: list[Found]) -> dict[str, list[float]]:
    """What the folder says of all checkpoints, or of some."""
    names = sorted({name for one in found for name in one.metrics})
    known = {name: [one.metrics.get(name, float("nan")) for one in found] for name in names}
    return known | _gap(known)


def _measured(weights: Tensor, network: PreTrainedConfig, images: ImageData) -> dict[str, list[float]]:
    """Loss and accuracy on all images of the three splits."""
    engine = choose_engine("auto", network)
    known = {}
    splits = {"train": images.train, "validation": images.validation, "test": images.test}
    for name, split in tqdm(splits.items(), desc="measuring"):
        outcome = engine.evaluate(network, weights, split.pixels, split.labels)
        known[f"{name}_loss"], known[f"{name}_accuracy"] = outcome.loss.tolist(), outcome.accuracy.tolist()
    return known | _gap(known)


def _gap(known: Mapping[str, list[float]]) -> dict[str, list[float]]:
    train, test = known.get("train_accuracy"), known.get("test_accuracy")
    return {} if train is None or test is None else {"generalization_gap": [a - b for a, b in zip(train, test)]}


__all__ = ["Found", "found_checkpoints", "import_zoo", "read_networks", "read_state"]
