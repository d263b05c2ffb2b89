"""Permutations of hidden units: they change the weight vector and leave the network's function as it was."""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

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
        UserError: if a layer's inputs are no multiple of the units before it, or a tensor belongs to a skip. What
            names and shapes do not tell, [`verify_symmetry`] does.
    """
    if skips := [name for name, _ in layout.tensors if name.startswith("skips.")]:
        raise UserError(f"{skips[0]} belongs to a skip beside the chain of layers; units cannot be reordered.")
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


@torch.no_grad()
def verify_symmetry(layout: WeightLayout, module: nn.Module, inputs: Tensor) -> None:
    """Whether networks of this architecture may be permuted and aligned: tried out on random ones.

    A layout knows names and shapes; skips without weights, parallel branches and layers that run in another order may
    look like a chain in it.

    Args:
        layout ([`WeightLayout`]): of the module.
        module (`nn.Module`): returns a tensor or, as in transformers, one under `logits`; it is not changed.
        inputs (`Tensor`): (batch, ...), any that the module takes.

    Raises:
        UserError: if a reordering changes the function, or [`permutation_indices`] refuses the layout.
    """
    module = copy.deepcopy(module).double().eval()
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        indices = random_permutations(layout, 1, generator)[0]
        weights = {  # large enough for every unit to matter, small enough not to saturate it
            name: torch.randn(shape, generator=generator, dtype=torch.float64) / math.prod(shape[1:]) ** 0.5
            for name, shape in layout.tensors
        }
        permuted = layout.unvectorize(layout.vectorize(weights)[indices])
        expected, found = (outputs_of(module, tensors, inputs.double()) for tensors in (weights, permuted))
        difference = (found - expected).abs().max()
        if not difference < 1e-6 * (1 + expected.abs().max()):
            raise UserError(
                f"reordering the hidden units of such a network changes its outputs (by up to {difference:.2g}): its "
                "layers form no chain in the order of its tensors, as with skips or parallel branches. Such networks "
                "can be neither permuted nor aligned."
            )


def outputs_of(module: nn.Module, tensors: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """What a module answers with these tensors instead of its own; tied ones are given once."""
    output = torch.func.functional_call(module, tensors, (inputs,))
    return output if isinstance(output, torch.Tensor) else output.logits


def layout_inputs(layout: WeightLayout, layer: str) -> int:
    """Input channels of a convolution, or inputs of a linear layer."""
    return dict(layout.tensors)[f"{layer}.weight"][1]


def _blocks(index: Tensor, size: int) -> Tensor:
    """Indices of units (batch, n) as indices of their blocks of `size` entries (batch, n * size)."""
    return (index[:, :, None] * size + torch.arange(size, device=index.device)).flatten(1)
