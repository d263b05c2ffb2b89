"""Align networks to a reference by permuting their hidden units (git re-basin's weight matching, arXiv 2209.04836).

Networks that differ only in the order of their units lie far apart in weight space; aligned, they lie close, and what
a representation has to learn shrinks.
"""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .layout import WeightLayout
from .symmetry import layout_inputs, permutation_indices


MAX_SWEEPS = 20


def align(weights: Tensor, reference: Tensor, layout: WeightLayout) -> Tensor:
    """Reorder the hidden units of each network so that its weights lie as close to the reference's as they can.

    Coordinate descent: one layer's order at a time is solved exactly as a linear assignment, given the others, until
    a sweep changes nothing. The first sweep looks at incoming weights alone, from the input up, so that the result
    does not depend on the order a network's units came in. The functions of the networks stay as they are.

    Args:
        weights (`Tensor`): (networks, num_params).
        reference (`Tensor`): (num_params,).
        layout ([`WeightLayout`]): of all of them.

    Returns:
        `Tensor`: (networks, num_params), a reordered copy.
    """
    if len(layout.layers) == 1:
        return weights.clone()
    return weights.gather(1, permutation_indices(layout, matching_orders(weights, reference, layout)))


def matching_orders(weights: Tensor, reference: Tensor, layout: WeightLayout) -> list[Tensor]:
    """The orders that [`align`] applies: for each hidden layer (networks, num_units)."""
    target = _layer_arrays(reference[None], layout)
    target = [(weight[0], bias[0]) for weight, bias in target]
    sources = _layer_arrays(weights, layout)
    hidden = len(layout.layers) - 1
    orders = [np.empty((len(weights), layer.num_units), np.int64) for layer in layout.layers[:-1]]
    for i in range(len(weights)):
        current = [np.arange(layer.num_units) for layer in layout.layers[:-1]]
        network = [(weight[i], bias[i]) for weight, bias in sources]
        for sweep in range(MAX_SWEEPS):
            changed = sweep == 0
            for depth in range(hidden):
                order = _best_order(network, target, current, depth, outgoing=sweep > 0)
                changed |= not np.array_equal(order, current[depth])
                current[depth] = order
            if not changed:
                break
        for depth in range(hidden):
            orders[depth][i] = current[depth]
    return [torch.from_numpy(order) for order in orders]


def _layer_arrays(weights: Tensor, layout: WeightLayout) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each layer's weight (networks, units, units before, entries a connection) and bias (networks, units)."""
    arrays = []
    before = layout_inputs(layout, layout.layers[0].name)
    for layer in layout.layers:
        end = layer.start + layer.num_units * layer.fan_in
        weight = weights[:, layer.start : end].reshape(len(weights), layer.num_units, before, -1)
        bias = weights[:, end : layer.stop] if layer.has_bias else weights.new_zeros(len(weights), layer.num_units)
        arrays.append((weight.double().numpy(), bias.double().numpy()))
        before = layer.num_units
    return arrays


def _best_order(network: list, target: list, current: list[np.ndarray], depth: int, outgoing: bool) -> np.ndarray:
    """The order of one layer's units with the largest inner product with the target, the other orders given."""
    weight, bias = network[depth]
    if depth > 0:
        weight = weight[:, current[depth - 1]]
    target_weight, target_bias = target[depth]
    units = len(bias)
    gain = target_weight.reshape(units, -1) @ weight.reshape(units, -1).T + np.outer(target_bias, bias)
    if outgoing:
        following, _ = network[depth + 1]
        if depth + 1 < len(current):
            following = following[current[depth + 1]]
        target_following, _ = target[depth + 1]
        gain += target_following.swapaxes(0, 1).reshape(units, -1) @ following.swapaxes(0, 1).reshape(units, -1).T
    return linear_sum_assignment(gain, maximize=True)[1]
