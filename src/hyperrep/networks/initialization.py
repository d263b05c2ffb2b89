"""Initial weights of a network, from its seed alone."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

# transformers' wrappers leave parameters alone that a checkpoint has just filled, torch's own would overwrite them
from transformers import initialization as init


if TYPE_CHECKING:
    from .configuration_small_cnn import SmallCNNConfig

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


def initial_weights(config: "SmallCNNConfig", seeds: list[int]) -> Tensor:
    """Initial weight vectors of the networks with these seeds.

    Args:
        config ([`SmallCNNConfig`]): their architecture and initialiser.
        seeds (`list[int]`): one seed a network; equal seeds give equal weights, whatever else is in the list.

    Returns:
        `Tensor`: (len(seeds), num_params), float32, in the order of [`~hyperrep.weights.WeightLayout`].
    """
    from .modeling_small_cnn import SmallCNNForImageClassification

    with torch.device("meta"):
        shapes = [p.shape for p in SmallCNNForImageClassification(config).parameters()]
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        tensors = [torch.empty(shape) for shape in shapes]
        for tensor in tensors:
            initialize_parameter(tensor, config.initializer, generator)
        rows.append(torch.cat([tensor.flatten() for tensor in tensors]))
    return torch.stack(rows)
