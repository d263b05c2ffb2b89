"""Initial weights of a network, from its seed alone."""

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from .configuration_small_cnn import SmallCNNConfig
from .initialization import initialize_parameter, initializer_of
from .modeling_small_cnn import SmallCNNForImageClassification
from .modules import fresh_module, layout_of


def initial_weights(config: PreTrainedConfig, seeds: list[int]) -> Tensor:
    """Initial weight vectors of the networks with these seeds: by the initialiser of a small CNN's configuration, by
    its model's own `_init_weights` for any other architecture.

    Args:
        config (`PreTrainedConfig`): their architecture.
        seeds (`list[int]`): one seed a network; equal seeds give equal weights, whatever else is in the list.

    Returns:
        `Tensor`: (len(seeds), num_params), float32, in the order of [`~hyperrep.weights.WeightLayout`].
    """
    if isinstance(config, SmallCNNConfig):
        return _of_small_cnns(config, seeds)
    layout = layout_of(config)
    with torch.device("cpu"):
        return torch.stack([layout.vectorize(fresh_module(config, seed).state_dict()) for seed in seeds]).float()


def _of_small_cnns(config: SmallCNNConfig, seeds: list[int]) -> Tensor:
    with torch.device("meta"):
        parameters = list(SmallCNNForImageClassification(config).named_parameters())
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        tensors = [torch.empty(parameter.shape) for _, parameter in parameters]
        for (name, _), tensor in zip(parameters, tensors, strict=True):
            initialize_parameter(tensor, initializer_of(name, config.initializer), generator)
        rows.append(torch.cat([tensor.flatten() for tensor in tensors]))
    return torch.stack(rows)
