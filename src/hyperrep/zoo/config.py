"""What all checkpoints of a zoo share: `zoo_config.json`, beside the data, holds what columns cannot."""

import json
import math
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.image_processing_utils import BaseImageProcessor

from ..errors import UserError
from ..images import PREPROCESSING, ImageData
from ..networks import DEFAULT_MODEL_TYPE, has_layout, network_from, processor_from
from ..weights import WeightLayout
from .protocol import Protocol
from .settings import MAX_EPOCHS, MAX_MODELS, SPLITS
from .split import COLUMNS, METRICS


CONFIG_NAME = "zoo_config.json"
OPTIONAL = ("seed", *METRICS)  # columns that a zoo of somebody's own may lack
MAX_PARAMS = 2**31 - 1  # a Parquet list holds no more
MAX_PIXELS = 2**15  # of one side
FILE_NAME = re.compile(r"data/[\w-][\w.-]*\.parquet")


@strict
@dataclass(repr=False)
class ZooConfig:
    """What all checkpoints of a zoo share, as stored in `zoo_config.json`.

    Attributes:
        network (`dict`): the networks' configuration, with `model_type` and without what varies among them.
        layout (`list`): names and shapes of their tensors in the order of the weight vector.
        image_processor (`dict`): preprocessing, as in `preprocessor_config.json`.
        protocol (`dict`): how they were trained: a [`Protocol`] and `test_epochs` and `first_seed`, or less.
        images (`dict`): name, fingerprint and sizes of the images.
        num_models (`int`), epochs (`list[int]`): what was stored.
        made_with (`dict`): engine, device and versions.
        files (`dict[str, list[str]]`, *optional*): the data files of each split; zoos of earlier versions do not name
            them.
        unknown (`list[str]`, *optional*): the columns, of `seed` and [`METRICS`], that the zoo does not have.

    Raises:
        UserError: names what does not fit.
    """

    network: dict[str, Any]
    layout: list[list]
    image_processor: dict[str, Any]
    protocol: dict[str, Any]
    images: dict[str, Any]
    num_models: int
    epochs: list[int]
    made_with: dict[str, str]
    files: dict[str, list[str]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    def __post_init__(self):
        if not 1 <= self.num_models <= MAX_MODELS:
            raise UserError(f"num_models is {self.num_models}; a zoo has 1 to {MAX_MODELS:,}.")
        if not self.epochs or self.epochs != sorted(set(self.epochs)):
            raise UserError(f"epochs {self.epochs} are not in order, each once.")
        if not 0 <= self.epochs[0] <= self.epochs[-1] <= MAX_EPOCHS:
            raise UserError(f"epochs {self.epochs[0]} to {self.epochs[-1]} do not lie in 0 to {MAX_EPOCHS:,}.")
        self._check_layout()
        if "recipe" in self.protocol:
            Protocol.from_dict(self.protocol)
        _check_mapping("grid", self.factors(), list)
        for name, choices in self.factors().items():
            kinds = {type(choice) for choice in choices}
            if name in COLUMNS or not (kinds <= {int, float} or kinds == {str}):
                raise UserError(
                    f"grid: {name!r} has {choices!r}; a factor has texts or numbers, and a name that is no column of "
                    f"every zoo ({', '.join(COLUMNS)})."
                )
        numbers = {name: self.protocol[name] for name in ("test_epochs", "first_seed") if name in self.protocol}
        _check_mapping("protocol", numbers, int)
        # zoos of earlier versions name one of the values that a factor has
        self.network = {name: value for name, value in self.network.items() if name not in self.factors()}
        if self.network.get("model_type") == DEFAULT_MODEL_TYPE:  # another may be unknown here, until it is run
            self.architecture()
        if self.images.get("fingerprint") is not None:
            _check_mapping("images", {key: self.images.get(key) for key in ("name", "fingerprint")}, str)
            _check_mapping("images", {key: self.images.get(key) for key in ("train", "validation")}, int)
        self._check_processor()
        if strange := [name for name in self.unknown if name not in OPTIONAL or self.unknown.count(name) > 1]:
            raise UserError(f"unknown names {strange[0]!r}; each of {', '.join(OPTIONAL)} may come once.")
        if self.files and set(self.files) != set(SPLITS):
            raise UserError(f"files names splits {', '.join(self.files)}; {', '.join(SPLITS)} are needed.")
        names = [name for names in self.files.values() for name in names]
        if wrong := [name for name in names if not FILE_NAME.fullmatch(name)]:
            raise UserError(f"files names {wrong[0]!r}; data files are called data/....parquet.")
        if len(set(names)) < len(names) or not all(self.files.values()):
            raise UserError("files names a file twice, or none for a split.")

    def __repr__(self) -> str:
        kind = self.network.get("model_type", "unknown")
        return (
            f"ZooConfig({self.num_models:,} networks of type {kind} with {self.weight_layout().described}, "
            f"epochs {listed(self.epochs)}, images {self.images.get('name')!r})"
        )

    def weight_layout(self) -> WeightLayout:
        return WeightLayout.from_list(self.layout)

    def architecture(self) -> PreTrainedConfig:
        """What is the same in all networks; what they differ in is as the configuration has it by default.

        Raises:
            UserError: if none is given, no such type is registered, or its layout is not the one that is stored.
        """
        if not self.network:
            raise UserError("this zoo does not say what its networks are, so that they cannot be run.")
        network = network_from(self.network)
        if not has_layout(network, self.weight_layout()):
            raise UserError("the network has another layout than the one that is stored beside it.")
        return network

    def network_config(self) -> PreTrainedConfig:
        """The architecture all networks share; initialiser and dropout, which decide no output, may vary.

        Raises:
            UserError: if they have different activations, or as [`architecture`].
        """
        if "hidden_act" in self.factors():
            raise UserError("the networks of this zoo differ in hidden_act; they cannot be run as one architecture.")
        try:
            return self.architecture()
        except UserError as error:
            if not self.network:
                raise
            kind = self.network.get("model_type")
            raise UserError(f"the networks of this zoo are of type {kind!r} and cannot be run: {error}") from error

    def image_processor_object(self) -> BaseImageProcessor:
        """The preprocessing of the images."""
        return processor_from(self.image_processor)

    def factors(self) -> dict[str, list]:
        """Values of each generating factor, empty unless the zoo is a grid."""
        return self.protocol.get("grid", {})

    def published_accuracy(self) -> dict[int, tuple[float, float]]:
        """Epoch to mean and std of the published test accuracy in per cent; may be empty."""
        return Protocol.from_dict(self.protocol).published_accuracy if "recipe" in self.protocol else {}

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    def _check_processor(self) -> None:
        values = self.image_processor
        for name in ("image_mean", "image_std"):
            numbers = values.get(name) or []
            if not isinstance(numbers, list | tuple) or not all(type(number) in (int, float) for number in numbers):
                raise UserError(f"image_processor has {name} {numbers!r}; a list of numbers is needed.")
        sizes: dict[str, Any] = {name: values[name] for name in ("num_channels", "image_size") if name in values}
        for name in ("size", "crop_size"):
            if isinstance(values.get(name), dict):
                sizes |= {f"{name}.{side}": size for side, size in values[name].items() if size is not None}
        for name, size in sizes.items():
            if not (type(size) is int and 1 <= size <= MAX_PIXELS):
                raise UserError(f"image_processor has {name} {size!r}; it is a whole number from 1 to {MAX_PIXELS:,}.")
        self.image_processor_object()

    def _check_layout(self) -> None:
        for entry in self.layout:
            if (
                len(entry) != 2
                or not isinstance(entry[0], str)
                or not isinstance(entry[1], list)
                or not all(type(size) is int and size > 0 for size in entry[1])
            ):
                raise UserError(f"layout has {str(entry)[:80]}; a name and a list of positive sizes are needed.")
        names = [name for name, _ in self.layout]
        if not names or len(set(names)) < len(names):
            raise UserError("layout names no tensor, or one twice.")
        if (total := sum(math.prod(shape) for _, shape in self.layout)) > MAX_PARAMS:
            raise UserError(f"layout has {total:,} parameters; a row holds {MAX_PARAMS:,} at most.")


def _check_mapping(name: str, values: Any, kind: type) -> None:
    if not isinstance(values, dict):
        raise UserError(f"{name} is {values!r}; an object is needed.")
    for key, value in values.items():
        if type(value) not in ((kind, tuple) if kind is list else (kind,)):
            raise UserError(f"{name} has {key} {value!r}; {kind.__name__} is needed.")


def listed(epochs: list[int]) -> str:
    """`0,1,21-25`, as `--keep-epochs` takes them."""
    runs: list[list[int]] = []
    for epoch in epochs:
        if runs and epoch == runs[-1][-1] + 1:
            runs[-1].append(epoch)
        else:
            runs.append([epoch])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)


def image_facts(images: ImageData) -> dict[str, Any]:
    """What a zoo says of the images that its networks were trained and measured on."""
    return {
        "name": images.name,
        "fingerprint": images.fingerprint,
        "preprocessing": PREPROCESSING,
        "label_column": images.label_column,
        "train": len(images.train),
        "validation": len(images.validation),
        "test": len(images.test),
    }
