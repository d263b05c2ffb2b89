"""The published recipes by which zoos are trained (Model Zoos data set, arXiv 2209.14764), by name."""

import difflib
import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.image_processing_utils import BaseImageProcessor

from ..errors import UserError
from ..files import construct
from ..networks import DEFAULT_MODEL_TYPE, network_from, processor_from
from ..population import Recipe


NETWORK_FACTORS = ("hidden_act", "initializer", "dropout")
RECIPE_FACTORS = ("optimizer", "learning_rate", "weight_decay")
FACTORS = (*NETWORK_FACTORS, *RECIPE_FACTORS, "train_fraction")  # share of the training images a model sees
GRID_SEED = 42
MAX_COMBINATIONS = 1_000_000


@strict
@dataclass
class Protocol:
    """Everything that is the same for all networks of a zoo. What differs is the seed, and in a grid the generating
    factors.

    Attributes:
        name (`str`)
        title (`str`): for cards and plots.
        images (`str`): the image data set it was published with, as a Hub id (or `digits`).
        network (`dict`): arguments of the networks' configuration, and its `model_type` unless they are small CNNs.
        image_processor (`dict`): arguments of the image processor, and its `image_processor_type` unless it is that of
            the small CNNs.
        recipe ([`Recipe`])
        epochs (`int`): as published for the hyper-representation.
        validation_fraction (`float`): share of the training images held out, seed 42.
        published_accuracy (`dict[int, tuple[float, float]]`): epoch to mean and std of test accuracy in per cent
            (poster, rows B_T), to be printed beside our own.
        grid (`dict[str, tuple]`): values of each generating factor; names in [`FACTORS`]. Every combination comes once
            before any comes again.

    Raises:
        UserError: if a number is out of range, or a factor unknown.
    """

    name: str
    title: str
    images: str
    network: dict[str, Any]
    image_processor: dict[str, Any]
    recipe: Recipe
    epochs: int
    validation_fraction: float
    published_accuracy: dict[int, tuple[float, float]] = field(default_factory=dict)
    grid: dict[str, tuple] = field(default_factory=dict)

    def __post_init__(self):
        if not 0 < self.validation_fraction < 1:
            raise UserError(f"validation_fraction is {self.validation_fraction}; it must lie between 0 and 1.")
        if self.epochs < 0:
            raise UserError(f"epochs is {self.epochs}; it must be 0 or more.")
        if unknown := [name for name in self.grid if name not in FACTORS]:
            raise UserError(f"grid varies {unknown[0]!r}; choose from {', '.join(FACTORS)}.")
        if not 0 < math.prod(map(len, self.grid.values())) <= MAX_COMBINATIONS:
            raise UserError(f"a grid has 1 to {MAX_COMBINATIONS:,} combinations.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Protocol":
        """Inverse of [`to_dict`], also of its JSON; what a zoo adds to it (`test_epochs`, `first_seed`) is ignored.

        Raises:
            UserError: names what does not fit.
        """
        where = "protocol"
        if not isinstance(values.get("recipe"), dict) or not isinstance(values.get("grid", {}), dict):
            raise UserError(f"{where}: recipe and grid must be objects.")
        for name, value in values["recipe"].items():
            if type(value) not in ((str,) if name == "optimizer" else (int, float)):
                raise UserError(f"{where}: recipe has {name} {value!r}.")
        recipe = construct(Recipe, values["recipe"], f"{where}: recipe")
        try:
            changed = {
                "recipe": recipe,
                "published_accuracy": {
                    int(epoch): tuple(map(float, value))
                    for epoch, value in dict(values.get("published_accuracy", {})).items()
                },
                "grid": {name: tuple(choices) for name, choices in values.get("grid", {}).items()},
            }
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: {error}.") from error
        own = {name: value for name, value in values.items() if name not in ("test_epochs", "first_seed")}
        return construct(cls, own | changed, where)

    def factors(self, num_models: int) -> list[dict[str, Any]]:
        """Generating factors of each model, by name; empty where there is no grid.

        Combinations come in an order shuffled with seed 42, so that a zoo smaller than the grid is balanced, too.
        """
        combinations = [dict(zip(self.grid, values)) for values in itertools.product(*self.grid.values())]
        order = torch.randperm(len(combinations), generator=torch.Generator().manual_seed(GRID_SEED)).tolist()
        return [combinations[order[model % len(order)]] for model in range(num_models)]

    def network_config(
        self, classes: list[str], factors: Mapping[str, Any] = MappingProxyType({})
    ) -> PreTrainedConfig:
        """Configuration of the networks with these classes and generating factors.

        Raises:
            UserError: if there is none of that type, or it refuses its arguments or does not know a factor.
        """
        changes = {name: value for name, value in factors.items() if name in NETWORK_FACTORS}
        names: dict[str, Any] = {
            "id2label": dict(enumerate(classes)),
            "label2id": {name: i for i, name in enumerate(classes)},
        }
        values = {"model_type": DEFAULT_MODEL_TYPE} | names | self.network
        where = f"protocol {self.name}: network"
        # a configuration takes any argument: a factor that means nothing to it would be a column that tells a lie
        if changes and (unknown := changes.keys() - network_from(values, where).to_dict()):
            raise UserError(f"{where} of type {values['model_type']!r} has no {min(unknown)!r}; leave it out of grid.")
        return network_from(values | changes, where)

    def recipe_of(self, factors: Mapping[str, Any]) -> Recipe:
        """How the networks with these generating factors are trained."""
        return replace(self.recipe, **{name: value for name, value in factors.items() if name in RECIPE_FACTORS})

    def processor(self) -> BaseImageProcessor:
        return processor_from(self.image_processor, f"protocol {self.name}: image_processor")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


_GREY_NETWORK = {"num_channels": 1, "hidden_act": "tanh", "initializer": "uniform"}
_MNIST_PIXELS = {"num_channels": 1, "image_mean": [0.1307], "image_std": [0.3081]}
_SVHN_PIXELS = {"num_channels": 1, "fit": "crop", "image_mean": [0.5], "image_std": [0.5]}
_RGB_PIXELS = {"num_channels": 3, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "mnist",
            "MNIST",
            images="ylecun/mnist",
            network=_GREY_NETWORK,
            image_processor=_MNIST_PIXELS,
            recipe=Recipe("adam", learning_rate=3e-4, batch_size=10),
            epochs=25,
            validation_fraction=10_000 / 60_000,
            published_accuracy={1: (20.6, 1.6), 25: (83.3, 2.6), 50: (91.1, 2.6)},
        ),
        Protocol(
            "svhn",
            "SVHN",
            images="ufldl-stanford/svhn:cropped_digits",
            network=_GREY_NETWORK,
            image_processor=_SVHN_PIXELS,
            recipe=Recipe("adam", learning_rate=3e-3, batch_size=10),
            epochs=25,
            validation_fraction=13_257 / 73_257,
            published_accuracy={1: (19.4, 0.6), 25: (66.7, 8.5), 50: (70.7, 8.8)},
        ),
        Protocol(
            "cifar10",
            "CIFAR-10",
            images="uoft-cs/cifar10",
            network={"num_channels": 3, "hidden_act": "gelu", "initializer": "kaiming_uniform"},
            image_processor=_RGB_PIXELS,
            recipe=Recipe("adam", learning_rate=1e-4, weight_decay=1e-2, batch_size=10),
            epochs=25,
            validation_fraction=8_000 / 50_000,
            published_accuracy={1: (27.5, 2.1), 25: (46.1, 1.3), 50: (48.7, 1.4)},
        ),
        Protocol(
            "stl10",
            "STL-10",
            images="tanganke/stl10",
            network={"num_channels": 3, "hidden_act": "tanh", "initializer": "kaiming_uniform"},
            image_processor=_RGB_PIXELS,
            recipe=Recipe("adam", learning_rate=1e-4, weight_decay=1e-3, batch_size=10),
            epochs=25,
            validation_fraction=800 / 5_000,
            published_accuracy={1: (15.4, 1.8), 25: (35.0, 1.3), 50: (39.0, 1.0)},
        ),
        # Fashion-MNIST and USPS of the Model Zoos data set, which the poster does not use.
        Protocol(
            "fashion-mnist",
            "Fashion-MNIST",
            images="zalando-datasets/fashion_mnist",
            network=_GREY_NETWORK,
            image_processor={"num_channels": 1, "image_mean": [0.5], "image_std": [0.5]},
            recipe=Recipe("adam", learning_rate=3e-4, batch_size=10),
            epochs=25,
            validation_fraction=10_000 / 60_000,
        ),
        Protocol(
            "usps",
            "USPS",
            images="flwrlabs/usps",
            network=_GREY_NETWORK,
            image_processor=_MNIST_PIXELS,
            recipe=Recipe("adam", learning_rate=3e-4, weight_decay=1e-3, batch_size=10),
            epochs=25,
            validation_fraction=1_291 / 7_291,
        ),
        # Hyper-parameters on a grid, for the prediction of properties. Values follow the Model Zoos data set's grids;
        # the train fraction is ours. 512 combinations.
        Protocol(
            "mnist-grid",
            "MNIST hyper-parameter grid",
            images="ylecun/mnist",
            network=_GREY_NETWORK,
            image_processor=_MNIST_PIXELS,
            recipe=Recipe("adam", learning_rate=1e-3, batch_size=10),
            epochs=25,
            validation_fraction=10_000 / 60_000,
            grid={
                "hidden_act": ("tanh", "relu", "sigmoid", "gelu"),
                "initializer": ("uniform", "normal", "kaiming_uniform", "kaiming_normal"),
                "dropout": (0.0, 0.5),
                "optimizer": ("adam", "sgd"),
                "learning_rate": (1e-3, 1e-4),
                "weight_decay": (0.0, 1e-3),
                "train_fraction": (0.1, 1.0),
            },
        ),
        # Ours, not published: SVHN for a part of its images. From U(0, 1), networks that see a tenth of them learn
        # nothing within 250 epochs, at any learning rate that was tried.
        Protocol(
            "svhn-kaiming",
            "SVHN, Kaiming initialisation",
            images="ufldl-stanford/svhn:cropped_digits",
            network=_GREY_NETWORK | {"initializer": "kaiming_uniform"},
            image_processor=_SVHN_PIXELS,
            recipe=Recipe("adam", learning_rate=3e-3, batch_size=10),
            epochs=25,
            validation_fraction=13_257 / 73_257,
        ),
        # Ours, not published: slim ResNets of transformers, with batch norm, on half of the training images, so that
        # two CPU cores make a zoo of them in half an hour.
        Protocol(
            "cifar10-resnet",
            "CIFAR-10, slim ResNet",
            images="uoft-cs/cifar10",
            network={
                "model_type": "resnet",
                "num_channels": 3,
                "image_size": 32,
                "embedding_size": 8,
                "hidden_sizes": [8, 16, 32],
                "depths": [1, 1, 1],
                "layer_type": "basic",
            },
            image_processor={
                "num_channels": 3,
                "image_size": 32,
                "image_mean": [0.4914, 0.4822, 0.4465],
                "image_std": [0.247, 0.2435, 0.2616],
            },
            recipe=Recipe("adam", learning_rate=3e-3, weight_decay=1e-4, batch_size=64),
            epochs=8,
            validation_fraction=0.5,
        ),
        # Ours, not published: the same network on the images that ship in scikit-learn, for demos and tests. Kaiming
        # initialisation, because 1,150 images are too few to leave the saturation that U(0, 1) starts in.
        Protocol(
            "digits",
            "Digits",
            images="digits",
            network={"num_channels": 1, "hidden_act": "tanh", "initializer": "kaiming_uniform"},
            image_processor={"num_channels": 1, "image_mean": [0.3], "image_std": [0.35]},
            recipe=Recipe("adam", learning_rate=5e-4, batch_size=10),
            epochs=25,
            validation_fraction=0.2,
        ),
    )
}


def get_protocol(name: str) -> Protocol:
    """The protocol of this name.

    Raises:
        UserError: if there is none; names the nearest.
    """
    if name not in PROTOCOLS:
        nearest = difflib.get_close_matches(name.lower(), PROTOCOLS, n=1, cutoff=0.0)[0]
        raise UserError(f"protocol {name!r} is unknown; did you mean {nearest!r}? There are {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]
