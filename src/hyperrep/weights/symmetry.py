"""Permutations of hidden units: they change the weight vector and leave the network's function as it was."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UserError
from .layout import WeightLayout


def random_permutations(
    layout: WeightLayout,
    batch_size: int,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw a random reordering of all hidden units for each of `batch_size` networks.

    Args:
        layout ([`WeightLayout`]): of the networks.
        batch_size (`int`): how many reorderings, drawn independently.
        generator (`torch.Generator`, *optional*): on `device`.

    Returns:
        `Tensor`: (batch_size, num_params), int64; `weights.gather(1, indices)` is the reordered population.

    Raises:
        UserError: if the layers do not form a chain.
    """
    orders = [
        torch.rand(batch_size, layer.num_units, generator=generator, device=device).argsort(dim=1)
        for layer in layout.layers[:-1]
    ]
    if not orders:  # a single layer has no hidden units to reorder
        return torch.arange(layout.num_params, device=device).expand(batch_size, -1)
    return permutation_indices(layout, orders)


def permutation_indices(layout: WeightLayout, orders: Sequence[Tensor]) -> Tensor:
    """Gather indices that reorder hidden units and leave every network's function unchanged.

    The rows and the bias of a hidden layer are reordered together with the matching input columns of the next layer;
    where a map is flattened, whole blocks of columns move. Inputs and logits keep their order. Layers are taken to
    follow one another in a chain, as in the poster's network.

    Args:
        layout ([`WeightLayout`]): of the networks.
        orders (`Sequence[Tensor]`): for each hidden layer (batch, num_units), int64: which old unit comes to each
            place.

    Returns:
        `Tensor`: (batch, num_params), int64.

    Raises:
        UserError: if a layer's inputs are no multiple of the units before it.
    """
    batch_size, device = len(orders[0]), orders[0].device
    indices = torch.empty(batch_size, layout.num_params, dtype=torch.int64, device=device)
    inputs = layout_inputs(layout, layout.layers[0].name)
    columns = torch.arange(inputs, device=device).expand(batch_size, inputs)  # old input of each new input
    units = inputs
    for i, layer in enumerate(layout.layers):
        inputs = layout_inputs(layout, layer.name)
        if inputs % units:
            raise UserError(
                f"layer {layer.name} has {inputs} inputs, no multiple of the {units} units before it: "
                "the layers do not form a chain."
            )
        columns = _blocks(columns, inputs // units)  # a flattened map: one unit feeds a block of columns
        units = layer.num_units
        rows = orders[i] if i < len(orders) else torch.arange(units, device=device).expand(batch_size, units)
        kernel = layer.fan_in // inputs  # height x width
        weight = _blocks(columns, kernel)[:, None, :] + rows[:, :, None] * layer.fan_in  # (batch, units, fan_in)
        end = layer.start + units * layer.fan_in
        indices[:, layer.start : end] = layer.start + weight.flatten(1)
        if layer.has_bias:
            indices[:, end : layer.stop] = end + rows
        columns = rows
    return indices


def layout_inputs(layout: WeightLayout, layer: str) -> int:
    """Input channels of a convolution, or inputs of a linear layer."""
    return dict(layout.tensors)[f"{layer}.weight"][1]


def _blocks(index: Tensor, size: int) -> Tensor:
    """Indices of units (batch, n) as indices of their blocks of `size` entries (batch, n * size)."""
    return (index[:, :, None] * size + torch.arange(size, device=index.device)).flatten(1)
