"""Initial weights of a network, from its seed alone."""

import torch
from torch import Tensor

from .configuration_small_cnn import SmallCNNConfig
from .initialization import initialize_parameter
from .modeling_small_cnn import SmallCNNForImageClassification


def initial_weights(config: SmallCNNConfig, seeds: list[int]) -> Tensor:
    """Initial weight vectors of the networks with these seeds.

    Args:
        config ([`SmallCNNConfig`]): their architecture and initialiser.
        seeds (`list[int]`): one seed a network; equal seeds give equal weights, whatever else is in the list.

    Returns:
        `Tensor`: (len(seeds), num_params), float32, in the order of [`~hyperrep.weights.WeightLayout`].
    """
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
