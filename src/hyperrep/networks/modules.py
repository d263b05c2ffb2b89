"""What a network is: a configuration that transformers' Auto classes know, or any PyTorch module. Engines, zoo,
training and evaluation ask here, so that an architecture is one file: configuration, model and their registration."""

import copy
import threading
from itertools import pairwise

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel

from ..errors import UserError
from ..files.reading import wording
from ..weights import WeightLayout, running_statistics
from .configuration_small_cnn import SmallCNNConfig


Network = PreTrainedConfig | nn.Module

REGISTRATIONS = 10  # a tensor may be shared, or replaced, so many times while its module is built


def new_module(network: Network) -> nn.Module:
    """A module of this architecture for a forward pass without randomness. One made from a configuration is in
    evaluation mode: what is dropped in training comes as factors, see [`hidden_units`]. Batch norms use their running
    statistics, until [`learn_statistics`] has them learn these.

    Raises:
        UserError: if it has dropout of its own, or running statistics that are means over all batches there ever were.
    """
    module = network if isinstance(network, nn.Module) else fresh_module(network, seed=0)
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0:
            raise UserError(f"module {name!r} drops activations with p={part.p}; set it to 0.")
        if running_statistics(part) and part.momentum is None:
            raise UserError(
                f"module {name!r} keeps running statistics with momentum None, the mean of all batches that it ever "
                "saw, and no weight vector says how many these were; give it a number, such as 0.1."
            )
    module = copy.deepcopy(module).train() if module is network else module.eval()
    return learn_statistics(module, learn=False)


def learn_statistics(module: nn.Module, learn: bool = True, momentum: float | None = None) -> nn.Module:
    """Have a module's batch norms normalise by each batch, and remember it, as in training, with another `momentum` if
    one is given; or by what they remember. Those that remember nothing go on with each batch. Returns the module,
    changed."""
    for part in module.modules():
        if running_statistics(part):
            part.train(learn)
            if momentum is not None:
                part.momentum = momentum  # type: ignore[assignment]
    return module


def fresh_module(config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """A model with the weights that its own `_init_weights` draws from a seed; torch's generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return AutoModelForImageClassification.from_config(config)


def logits_of(module: nn.Module, images: Tensor, dropout_factors: Tensor | None = None) -> Tensor:
    """Outputs (batch, classes) of a module that returns them as such or, as in transformers, under `logits`."""
    output = module(images) if dropout_factors is None else module(images, dropout_factors=dropout_factors)
    return output if isinstance(output, Tensor) else output.logits


def layout_of(network: Network) -> WeightLayout:
    """Layout of the weight vector of such networks."""
    if isinstance(network, nn.Module):
        return WeightLayout.of(network)
    with torch.device("meta"):
        return WeightLayout.of(AutoModelForImageClassification.from_config(network))


def has_layout(config: PreTrainedConfig, layout: WeightLayout) -> bool:
    """Whether networks of this configuration have this layout. Those that cannot be built have not, nor have those of
    far more tensors: building them is given up."""
    left, here = REGISTRATIONS * len(layout.tensors), threading.get_ident()

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal left
        left -= threading.get_ident() == here
        if left < 0:
            raise ValueError(f"there are more than {len(layout.tensors)} tensors.")

    hook = register_module_parameter_registration_hook(count)
    try:
        return layout_of(config) == layout
    except Exception:  # sizes that no tensor can have, or whatever else a model raises on settings not its own
        return False
    finally:
        hook.remove()


def num_params(network: Network) -> int:
    """Length of a weight vector."""
    if not isinstance(network, SmallCNNConfig):
        return layout_of(network).num_params
    # without a module, which takes milliseconds: the door to the engines asks at every call
    channels, widths = network.map_channels, network.linear_sizes
    count = sum(
        outputs * (inputs * kernel**2 + 1)
        for inputs, outputs, kernel in zip(channels, channels[1:], network.conv_kernel_sizes)
    )
    count += sum((inputs + 1) * outputs for inputs, outputs in pairwise(widths))
    skips = [(channels[source], channels[target]) for source, target, kind in network.skips if kind == "conv"]
    return count + sum((inputs + 1) * outputs for inputs, outputs in skips)


def input_shape(config: PreTrainedConfig) -> tuple[int, int, int]:
    """Channels, height and width of the images, by `num_channels` and `image_size` (one number, or height and width)
    of the configuration.

    Raises:
        UserError: if it does not say them.
    """
    channels, size = (getattr(config, name, None) for name in ("num_channels", "image_size"))
    height, width = size if isinstance(size, list | tuple) and len(size) == 2 else (size, size)
    if not (isinstance(channels, int) and isinstance(height, int) and isinstance(width, int)):
        raise UserError(
            f"{type(config).__name__} has num_channels {channels!r} and image_size {size!r}; whole numbers are needed "
            "to know the images of a network."
        )
    return channels, height, width


def example_images(config: PreTrainedConfig) -> Tensor:
    """Two images that such networks take, the same at every call, for trying out what they do.

    Raises:
        UserError: as [`input_shape`].
    """
    return torch.rand((2, *input_shape(config)), generator=torch.Generator().manual_seed(0))


def num_classes(config: PreTrainedConfig) -> int:
    """`num_labels`, which transformers declares optional."""
    return config.num_labels or 0


def hidden_units(network: Network) -> int:
    """Hidden activations that dropout acts on: the sum of the configuration's `hidden_units`, if it has such a member.
    The model of one that has takes `dropout_factors` (batch, hidden units) beside its images."""
    return sum(getattr(network, "hidden_units", ())) if isinstance(network, PreTrainedConfig) else 0


def dropout_rate(network: Network) -> float:
    """Share of the hidden activations that training sets to zero.

    Raises:
        UserError: if a configuration asks for dropout, but does not say of which units.
    """
    rate = getattr(network, "dropout", 0.0) if isinstance(network, PreTrainedConfig) else 0.0
    if rate and not hidden_units(network):
        raise UserError(f"{type(network).__name__} has dropout {rate}, but no hidden_units to drop; set it to 0.")
    return rate


def check_architecture(config: PreTrainedConfig) -> None:
    """Whether there can be such a network: its attributes may have been set since it was made.

    Raises:
        UserError: says what does not fit.
    """
    try:
        config.validate()
    except StrictDataclassError as error:
        raise UserError(f"the network cannot be: {wording(error)}") from error
    if not isinstance(config, SmallCNNConfig):
        return
    if min(*config.map_channels, *config.feature_sizes, *config.linear_sizes) < 1:
        raise UserError(
            f"the network cannot be: maps of {config.map_channels} channels and sizes {config.feature_sizes}, "
            f"layers of {config.linear_sizes} units."
        )
