"""Networks that somebody else trained, as a zoo."""

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedConfig

from ..errors import UserError
from ..files.reading import read_json
from ..images import ImageData
from ..networks import layout_of, network_from
from ..population import choose_engine
from ..weights import WeightLayout
from .config import CONFIG_NAME
from .dataset import load_zoo
from .found import OLD_WEIGHTS, WEIGHTS, Found, floats_in, found_checkpoints, layout_in
from .own import write_zoo
from .protocol import Protocol
from .stored import FileVectors, StoredWeights


NO_PROTOCOL = "images are shown to networks by the protocol they were trained with: name it (--protocol)."
EITHER_WAY = "choose those of one architecture by one of them, like (--like MODEL), or write each (--by-architecture)."
BOOKKEEPING = {"architectures", "transformers_version", "dtype", "torch_dtype", "auto_map", "id2label", "label2id"}


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
    are read by `torch.load` with `weights_only`, which builds tensors and runs no code. Models of the Hub are named by
    a list, a text file with an id in each line.

    Args:
        source (`str` or `Path`): the folder, or the list.
        output (`str` or `Path`): of the zoo.
        protocol ([`Protocol`], *optional*): by which they were trained. It says what networks they are; tensors of
            other names are taken by their order, if their shapes are the network's.
        images ([`ImageData`], *optional*): of the protocol. With them loss and accuracy are measured; without, they
            are what the folder says, if it does.
        epoch (`int`, *optional*): after how many epochs of training they were taken, where the folder does not say.
        epochs (`Collection[int]`, *optional*): these alone; by default all.
        overwrite (`bool`, *optional*): replace a zoo that hyperrep wrote there.
        like (`str`, *optional*): of networks of several architectures those that have the tensors of this model, a
            folder or a file without its suffix, and its configuration, where there is one.

    Returns:
        `Path`: of the zoo.

    Raises:
        UserError: if there are no checkpoints, one cannot be read or has other tensors or another configuration than
            the rest, the epoch is not known, or the output is not ours to write to.
    """
    source = Path(source)
    found = found_checkpoints(source, epochs)
    if like is not None:
        found = _alike(found, like)
    elif protocol is None:
        _check_configurations(found)
    return write_found(found, source, output, protocol, images, epoch, overwrite, alike=like is not None)


def write_found(
    found: list[Found],
    source: Path,
    output: str | Path,
    protocol: Protocol | None = None,
    images: ImageData | None = None,
    epoch: int | None = None,
    overwrite: bool = False,
    repo: str | None = None,
    alike: bool = False,
) -> Path:
    """[`import_zoo`] for checkpoints that were found in `source`; `alike` are those whose tensors are known to have
    the same names and shapes, so that the first tells of all."""
    if epoch is None and any(one.epoch is None for one in found):
        raise UserError(
            f"{source} does not say after how many epochs its networks were taken; give epoch (--epoch 25)."
        )
    network = _network(found[0].path, protocol, images)
    layout = None if network is None else layout_of(network)
    layout = layout or layout_in(found[0].path)
    checked = found[:1] if alike else found  # before anything is written
    for one in tqdm(checked, "checking checkpoints", disable=len(checked) < 100):
        _names(dict(layout_in(one.path).tensors), layout, one.path)
    weights = StoredWeights(_vectors(found, layout))  # of large networks, there may be no room for all
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
        repo=repo,
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
    network = _network(found[0].path, None, None)
    layout = layout_in(found[0].path) if network is None else layout_of(network)
    weights = StoredWeights(_vectors(found, layout)).read()
    if broken := (~torch.isfinite(weights).all(dim=1)).nonzero().flatten().tolist():
        raise UserError(f"{found[broken[0]].path} holds NaN or infinite weights; leave it out.")
    return weights, layout, network


def _alike(found: list[Found], like: str) -> list[Found]:
    """The checkpoints of a model's architecture.

    Raises:
        UserError: if there is no such model.
    """
    for group in by_architecture(found):
        if any(one.model == like for one in group):
            return group
    names = dict.fromkeys(one.model for one in found)
    raise UserError(f"like names {like!r}; models are {', '.join(list(names)[:10])}{', ...' * (len(names) > 10)}.")


def by_architecture(found: list[Found]) -> list[list[Found]]:
    """Checkpoints of one architecture together: those whose tensors have the same names and shapes and whose
    configurations, where there are such, say the same of what networks compute."""
    groups: dict[Any, list[Found]] = {}
    for one in found:
        groups.setdefault((layout_in(one.path).tensors, json.dumps(configuration_of(one.path))), []).append(one)
    return list(groups.values())


def configuration_of(path: Path) -> dict[str, Any]:
    """What the configuration beside a checkpoint says of the function: not where it came from, how training began, or
    what training alone does."""
    beside = _beside(path)
    values = {} if beside is None else read_json(beside)
    aside = ("drop", "init")
    return {
        name: value
        for name, value in sorted(values.items())
        if name not in BOOKKEEPING and not name.startswith("_") and not any(part in name for part in aside)
    }


def _check_configurations(found: list[Found]) -> None:
    """Whether networks with tensors alike compute alike.

    Raises:
        UserError: if configurations differ.
    """
    first = configuration_of(found[0].path)
    for one in found[1:]:
        its = configuration_of(one.path)
        if other := [name for name in {**first, **its} if first.get(name) != its.get(name)]:
            raise UserError(
                f"{found[0].model} has {other[0]} {first.get(other[0])!r} in its configuration and {one.model} has "
                f"{its.get(other[0])!r}: {EITHER_WAY}"
            )


def _vectors(found: list[Found], layout: WeightLayout) -> FileVectors:
    def read_one(path: Path) -> Tensor:
        state = floats_in(path)
        names = _names({name: tuple(tensor.shape) for name, tensor in state.items()}, layout, path)
        return layout.vectorize({names[name]: tensor for name, tensor in state.items()})

    return FileVectors([one.path for one in found], read_one, layout.num_params)


def _network(path: Path, protocol: Protocol | None, images: ImageData | None) -> PreTrainedConfig | None:
    """What the networks are: by their protocol, or by the configuration beside the first of them."""
    if protocol is not None:
        classes = [str(label) for label in range(10)] if images is None else images.classes
        return protocol.network_config(classes)
    if images is not None:
        raise UserError(NO_PROTOCOL)
    beside = _beside(path)
    return None if beside is None else network_from(read_json(beside), str(beside))


def _beside(path: Path) -> Path | None:
    """The configuration beside a checkpoint of transformers."""
    beside = path.parent / "config.json"
    return beside if path.name in (WEIGHTS, OLD_WEIGHTS) and beside.exists() else None


def _names(given: Mapping[str, tuple[int, ...]], layout: WeightLayout, path: Path) -> dict[str, str]:
    """What the layout calls each tensor of a file: the same or, where shapes are the same, by their order.

    Raises:
        UserError: if it fits neither way.
    """
    shapes = dict(layout.tensors)
    if given == shapes:
        return {name: name for name in given}
    if set(given) == set(shapes) or list(given.values()) != list(shapes.values()):
        found, wanted = (json.dumps({name: list(shape) for name, shape in of.items()})[:300] for of in (given, shapes))
        raise UserError(f"{path} holds {found}; networks of this zoo have {wanted}: {EITHER_WAY}")
    return dict(zip(given, shapes))


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


__all__ = ["NO_PROTOCOL", "by_architecture", "configuration_of", "import_zoo", "read_networks", "write_found"]
