"""How parameters start, as in the published zoos."""

from collections.abc import Callable

import torch
from torch import Tensor

# transformers' wrappers leave parameters alone that a checkpoint has just filled, torch's own would overwrite them
from transformers import initialization as init


INITIALIZERS: dict[str, Callable[..., object]] = {
    "uniform": init.uniform_,  # U(0, 1): all weights positive, as in the published MNIST and SVHN zoos
    "normal": init.normal_,
    "kaiming_uniform": init.kaiming_uniform_,
    "kaiming_normal": init.kaiming_normal_,
    "xavier_uniform": init.xavier_uniform_,
    "xavier_normal": init.xavier_normal_,
}
INITIAL_BIAS = 0.01  # whatever the initialiser of the weights (Model Zoos data set)


def initialize_parameter(parameter: Tensor, initializer: str, generator: torch.Generator | None = None) -> None:
    """Fill a weight (two or more dimensions) or a bias (one dimension) in place."""
    if parameter.ndim == 1:
        init.constant_(parameter, INITIAL_BIAS)
    else:
        INITIALIZERS[initializer](parameter, generator=generator)


def initializer_of(name: str, initializer: str) -> str:
    """How a parameter of a network starts: those of skips always Kaiming-uniform, as in the 2022 code."""
    return "kaiming_uniform" if name.startswith("skips.") else initializer
