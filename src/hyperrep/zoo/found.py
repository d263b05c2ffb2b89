"""Checkpoints that somebody else left in a folder, in whichever way they lie there, or published on the Hub."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor
from tqdm.auto import tqdm

from ..errors import UserError
from ..files.reading import open_tensors, read_json_lines, read_pytorch
from ..hub import resolve_folder
from ..weights import WeightLayout
from .settings import MAX_SEED


WEIGHTS, OLD_WEIGHTS = "model.safetensors", "pytorch_model.bin"
TRIAL, CHECKPOINT = "result.json", "checkpoint_*"
RUN = "checkpoint.pt"
PICKLED = (".pt", ".pth", ".bin")
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


def found_checkpoints(source: Path, epochs: Collection[int] = ()) -> list[Found]:
    """What lies in a folder, models and epochs in their natural order, or what a file lists.

    Args:
        source (`Path`): a folder, or a text file with a Hub id or a folder of transformers in each line.
        epochs (`Collection[int]`, *optional*): these alone; by default all.

    Raises:
        UserError: if there is no such folder, no checkpoint in it, or it mixes kinds.
    """
    if source.is_file():
        return _listed(source)
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
    found = [one for kind in present for one in kinds[kind] if not epochs or one.epoch in epochs]
    if not found:
        of = f" of epochs {', '.join(map(str, sorted(epochs)))}" if epochs else ""
        raise UserError(
            f"{source} holds no checkpoints{of}: neither */{WEIGHTS}, nor *.safetensors, *.pt, *.pth or *.bin, nor "
            f"*/{TRIAL} with */{CHECKPOINT}/checkpoints, nor */{CHECKPOINT}/{RUN}."
        )
    return found


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


def _listed(source: Path) -> list[Found]:
    """Models of the Hub, `org/name` or `org/name@revision` in each line, or folders that transformers saved; they are
    downloaded as far as they are not in the cache.

    Raises:
        UserError: if a line is no such model, or its weights are not in one file.
    """
    try:
        lines = [line.partition("#")[0].strip() for line in source.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source} is no folder, and no list of models, one in each line: {error}.") from error
    names = list(dict.fromkeys(filter(None, lines)))
    if not names:
        raise UserError(f"{source} lists no models; write a Hub id, such as org/name, in each line.")
    found = []
    for name in tqdm(names, "fetching models", disable=len(names) < 2):
        repo, _, revision = name.partition("@")
        folder, _ = (Path(name), None) if Path(name).is_dir() else resolve_folder(repo, revision=revision or None)
        if not (folder / WEIGHTS).exists():
            raise UserError(f"{name}, in {source}, has no {WEIGHTS}: its weights are of another kind, or in parts.")
        found.append(Found(folder / WEIGHTS, name))
    return found


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


def _place(name: str) -> tuple:
    """Modules in the order that people count in, each weight before its bias."""
    module, _, kind = name.rpartition(".")
    return _counted(module), {"weight": 0, "bias": 1}.get(kind, 2), kind


def _counted(text: str) -> list[tuple[bool, int | str]]:
    return [(part.isdecimal(), int(part) if part.isdecimal() else part) for part in re.split(r"(\d+)", text)]


def _sorted(paths: Iterator[Path]) -> list[Path]:
    """`model-2` before `model-10`."""
    return sorted(paths, key=lambda path: _counted(str(path)))


def layout_in(path: Path) -> WeightLayout:
    """Names and shapes of the floating-point tensors of a checkpoint's file; of safetensors, its header tells."""
    if path.suffix != ".safetensors":
        return WeightLayout(tuple((name, tuple(tensor.shape)) for name, tensor in floats_in(path).items()))
    with open_tensors(path) as file:
        parts = {name: file.get_slice(name) for name in sorted(file.keys(), key=_place)}
        return WeightLayout(
            tuple((name, tuple(part.get_shape())) for name, part in parts.items() if "F" in part.get_dtype())
        )


def floats_in(path: Path) -> dict[str, Tensor]:
    """The floating-point tensors of a checkpoint's file."""
    return {name: tensor for name, tensor in read_state(path).items() if tensor.is_floating_point()}


__all__ = ["OLD_WEIGHTS", "WEIGHTS", "Found", "floats_in", "found_checkpoints", "layout_in", "read_state"]
