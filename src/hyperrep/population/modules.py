"""What a population's networks may be: small CNNs by their configuration, or any PyTorch module."""

import copy

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..networks import SmallCNNConfig, SmallCNNForImageClassification


Network = SmallCNNConfig | nn.Module


def new_module(network: Network) -> nn.Module:
    """A module of this architecture, in training mode, for a forward pass without randomness or memory.

    Raises:
        UserError: if a given module has dropout or running statistics, which networks stacked by `vmap` cannot share.
    """
    if isinstance(network, SmallCNNConfig):
        return SmallCNNForImageClassification(network).train()
    for name, part in network.named_modules():
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0:
            raise UserError(f"module {name!r} drops activations with p={part.p}; set it to 0.")
        if isinstance(part, nn.modules.batchnorm._NormBase) and part.track_running_stats:
            raise UserError(
                f"module {name!r} keeps running statistics; give it track_running_stats=False, so that every network "
                "uses those of its own batch, or another normalisation."
            )
    return copy.deepcopy(network).train()


def logits_of(module: nn.Module, images: Tensor, dropout_factors: Tensor | None = None) -> Tensor:
    """Outputs (batch, classes) of a module that returns them as such or, as in transformers, under `logits`."""
    output = module(images) if dropout_factors is None else module(images, dropout_factors=dropout_factors)
    return output if isinstance(output, torch.Tensor) else output.logits


def hidden_units(network: Network) -> int:
    """Hidden activations that dropout acts on; none in a given module, which may not have any."""
    return sum(network.hidden_units) if isinstance(network, SmallCNNConfig) else 0
