"""Where a file from outside becomes an object: it is whole, of the expected kind and finite, or there is one sentence
that says which file is not, and why."""

import dataclasses
import difflib
import json
import math
import pickle
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import UserError


LARGEST_JSON = 64 * 2**20  # bytes; the index of ten thousand networks takes a hundredth of it
LARGEST_YAML = 2**20  # bytes; settings written by hand
T = TypeVar("T")


def read_json(path: str | Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UserError: if the file cannot be read, is no JSON object, is larger than 64 MB, or holds a key twice or a
            number that is not finite.
    """
    return _parsed(_text(Path(path)), path)


def read_json_lines(path: str | Path) -> list[tuple[str, dict[str, Any]]]:
    """The JSON objects in a file that has one a line, each after its place (`FILE, line 3`), which messages name.

    Raises:
        UserError: as [`read_json`], with the line.
    """
    lines = [(f"{path}, line {number},", line) for number, line in enumerate(_text(Path(path)).split("\n"), 1)]
    return [(where, _parsed(line, where)) for where, line in lines if line.strip()]


def _text(path: Path, largest: int = LARGEST_JSON, kind: str = "JSON") -> str:
    try:
        check_regular(path)
        if path.stat().st_size > largest:
            raise UserError(f"{path} has {path.stat().st_size:,} bytes; no settings file of ours is that large.")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8, and so no {kind}: {error}.") from error


def check_regular(path: str | Path) -> None:
    """Whether a path that is there is an ordinary file: others (a pipe, a device) may have no end, or no beginning.

    Raises:
        UserError: if it is something else.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"{path} is a pipe, a device or a socket; an ordinary file is needed.")


def _parsed(text: str, where: str | Path) -> dict[str, Any]:
    try:
        values = json.loads(
            text, parse_constant=_not_finite, parse_float=_finite, object_pairs_hook=_without_repetition
        )
    except (ValueError, RecursionError) as error:  # of JSON, of our own hooks
        raise UserError(f"{where} is damaged or no JSON: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        raise UserError(f"{where} holds a {type(values).__name__}; an object in braces is needed.")
    return values


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number that a setting may have")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _not_finite(text)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"key {counts.most_common(1)[0][0]!r} comes twice")
    return values


class _Loader(yaml.SafeLoader):
    """What settings need of YAML: plain values. No key twice, no references, which may grow without bounds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError(f"alias *{self.peek_event().anchor} is no plain value; write it out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        _without_repetition([(self.construct_object(key, deep=True), None) for key, _ in node.value])
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, where: str | Path) -> Any:
    """The value that a YAML text stands for; nothing is executed.

    Args:
        text (`str`)
        where (`str` or `Path`): where it comes from, for the message.

    Raises:
        UserError: if it is no YAML, or holds a key twice, an alias, or a tag of a programming language.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{where} is not YAML: {' '.join(str(error).split())}.") from error


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The settings `key: value` in a YAML file; none if it is empty.

    Raises:
        UserError: as [`parse_yaml`], or if the file cannot be read, is no text in UTF-8, is larger than 1 MB, or holds
            something else.
    """
    path = Path(path)
    values = parse_yaml(_text(path, LARGEST_YAML, "YAML"), path)
    if not isinstance(values, dict | None):
        raise UserError(f"{path} holds a {type(values).__name__}; it should hold lines `key: value`.")
    return values or {}


def construct(cls: type[T], values: Mapping[str, Any], where: str | Path) -> T:
    """A dataclass from values that came from outside; no key too many, none missing.

    Types are checked where the class is `strict` (huggingface_hub's decorator), ranges by its own `__post_init__`.

    Args:
        cls (`type`): a dataclass.
        values (`Mapping`): its arguments.
        where (`str` or `Path`): where they come from, for the message.

    Raises:
        UserError: names the key, its value and the file.
    """
    fields = [field for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]
    names = [field.name for field in fields]
    if unknown := [key for key in values if key not in names]:
        nearest = difflib.get_close_matches(str(unknown[0]), names, n=1, cutoff=0.0)[0]
        raise UserError(f"{where}: key {unknown[0]!r} is unknown; did you mean {nearest!r}?")
    required = [
        field.name
        for field in fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing := [name for name in required if name not in values]:
        raise UserError(f"{where} lacks {', '.join(missing)}.")
    try:
        return cls(**{key: plain(value) for key, value in values.items()})
    except (StrictDataclassError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{where}: {wording(error)}") from error


def plain(value: Any) -> Any:
    """A setting as JSON would hold it: NumPy's numbers as Python's, tuples, ranges and arrays as lists."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple | range):
        return [plain(item) for item in value]
    return value


def wording(error: BaseException) -> str:
    """The sentence inside an error, on one line: strict dataclasses wrap it."""
    cause = error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ else error
    return " ".join(str(cause).split()) or type(cause).__name__


def read_tensors(
    path: str | Path, shapes: Mapping[str, Sequence[int | None]], integers: Collection[str] = ()
) -> dict[str, Tensor]:
    """The tensors of a safetensors file, as float32 on the CPU.

    Args:
        path (`str` or `Path`)
        shapes (`Mapping`): every tensor that is expected, and its shape; `None` stands for any size.
        integers (`Collection`, *optional*): names of tensors of int64 among them, which stay what they are.

    Raises:
        UserError: if the file cannot be read or is damaged, or a tensor is missing, too many, of another shape, no
            floating-point numbers, or not finite.
    """
    tensors = stored_tensors(path, shapes)
    for name, tensor in tensors.items():
        if name in integers and tensor.dtype == torch.int64:
            continue
        if not tensor.is_floating_point():
            raise UserError(f"{path}: {name} holds {tensor.dtype}; floating-point numbers are needed.")
        try:
            tensors[name] = tensor.float()
        except RuntimeError as error:  # of bits that torch can hold and not read
            raise UserError(f"{path}: {name} holds {tensor.dtype}, which cannot be read as float32.") from error
        if not torch.isfinite(tensors[name]).all():
            raise UserError(f"{path}: {name} holds NaN or infinite numbers.")
    return tensors


def stored_tensors(path: str | Path, shapes: Mapping[str, Sequence[int | None]]) -> dict[str, Tensor]:
    """The tensors of a safetensors file as they are, of any type and with any numbers.

    Args:
        path (`str` or `Path`)
        shapes (`Mapping`): as in [`read_tensors`].

    Raises:
        UserError: if the file cannot be read or is damaged, or a tensor is missing, too many or of another shape.
    """
    with open_tensors(path) as file:
        if set(file.keys()) != set(shapes):
            raise UserError(f"{path} holds tensors {listed(file.keys())}; {listed(shapes)} are needed.")
        for name, shape in shapes.items():
            found = file.get_slice(name).get_shape()
            if len(found) != len(shape) or any(s is not None and s != f for s, f in zip(shape, found)):
                wanted = ", ".join("any" if size is None else str(size) for size in shape)
                raise UserError(f"{path}: {name} has shape {list(found)}; [{wanted}] is needed.")
        return {name: file.get_tensor(name) for name in shapes}


@contextmanager
def open_tensors(path: str | Path) -> Iterator[Any]:
    """A safetensors file, as `safe_open` gives it, of which nothing is known yet.

    Raises:
        UserError: if it cannot be read, or turns out to be damaged.
    """
    check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except SafetensorError as error:
        raise UserError(f"{path} is damaged: {error}.") from error


def read_pytorch(path: str | Path) -> Any:
    """What a file of PyTorch holds. `weights_only` builds tensors and plain containers, and runs no code.

    Raises:
        UserError: if it cannot be read, is damaged, or holds more than that.
    """
    check_regular(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is no file of tensors alone, and is not read: what else it holds could run code."
        ) from error
    except (RuntimeError, ValueError, EOFError, KeyError) as error:
        raise UserError(f"{path} is damaged, or no file of PyTorch: {str(error).splitlines()[0]}") from error


def listed(names: Any) -> str:
    """Names in their order, the first eight of them."""
    names = sorted(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "none"
