"""Align networks to a reference by permuting their hidden units (git re-basin's weight matching, arXiv 2209.04836).

Networks that differ only in the order of their units lie far apart in weight space; aligned, they lie close, and what
a representation has to learn shrinks. It goes with the model: one that learned from aligned networks reads no others.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


MAX_SWEEPS = 20

# a network's layer: weight (units, units before, entries a connection) and bias, (units,) or empty
LayerArrays = tuple[np.ndarray, np.ndarray]


def align(weights: Tensor, reference: Tensor, layout: Sequence[Sequence]) -> Tensor:
    """Reorder the hidden units of each network so that its weights lie as close to the reference's as they can.

    Coordinate descent: one layer's order at a time is solved exactly as a linear assignment, given the others, until
    a sweep changes nothing. It starts twice, from the input up by incoming weights alone and from the output down by
    outgoing ones, and the closer end is kept: so the result does not depend on the order a network's units came in,
    and lies nearly as close as after ten random restarts. The functions of the networks stay as they are.

    Args:
        weights (`Tensor`): (networks, num_params), on any device; gradients flow through.
        reference (`Tensor`): (num_params,).
        layout (`list`): names and shapes of the networks' tensors, `[["convs.0.weight", [8, 1, 5, 5]], ...]`, of
            layers that follow one another in a chain.

    Returns:
        `Tensor`: (networks, num_params), a reordered copy.

    Raises:
        ValueError: if the layers form no chain, or a weight is NaN or infinite.
    """
    check_chain(layout)
    sources = weights.detach().cpu().double()
    finite = torch.isfinite(sources).all(dim=1)
    if not finite.all():
        raise ValueError(
            f"{int((~finite).sum())} of {len(weights)} networks hold NaN or infinite weights: they cannot be aligned. "
            "Leave them out."
        )
    target = layer_arrays(reference.detach().cpu().double().numpy(), layout)
    places = layer_arrays(np.arange(weights.shape[1]), layout)
    indices = np.empty(weights.shape, np.int64)
    for i, source in enumerate(sources.numpy()):
        indices[i] = reordered(places, matching_orders(layer_arrays(source, layout), target))
    return weights.gather(1, torch.from_numpy(indices).to(weights.device))


def check_chain(layout: Sequence[Sequence]) -> None:
    """What alignment takes for granted: each layer reads from the one before it and from nothing else.

    Raises:
        ValueError: if a layer's inputs are no multiple of the units before it, or it is a skip.
    """
    units = 0
    for name, shape in layout:
        if name.startswith("skips."):
            raise ValueError(f"{name} belongs to a skip beside the chain of layers; units cannot be reordered.")
        if len(shape) > 1:
            if units and shape[1] % units:
                raise ValueError(
                    f"{name} has {shape[1]} inputs, no multiple of the {units} units before it: the layers do not "
                    "form a chain, and units cannot be reordered."
                )
            units = shape[0]


def layer_arrays(vector: np.ndarray, layout: Sequence[Sequence]) -> list[LayerArrays]:
    """A vector (num_params,) cut into its layers. Where a map is flattened, a connection has as many more entries."""
    layers: list[LayerArrays] = []
    before, start = 1, 0  # to the first layer, the input is one unit
    for _, shape in layout:
        values = vector[start : start + math.prod(shape)]
        start += len(values)
        if len(shape) > 1:
            layers.append((values.reshape(shape[0], before, -1), values[:0]))
            before = shape[0]
        else:
            layers[-1] = (layers[-1][0], values)
    return layers


def matching_orders(network: list[LayerArrays], target: list[LayerArrays]) -> list[np.ndarray]:
    """The orders that [`align`] applies: for each hidden layer (units,), which old unit comes to each place."""
    ends = [descend(network, target, upwards) for upwards in (True, False)]
    goal = reordered(target, [np.arange(len(order)) for order in ends[0]])
    return max(ends, key=lambda orders: float(reordered(network, orders) @ goal))


def descend(network: list[LayerArrays], target: list[LayerArrays], upwards: bool) -> list[np.ndarray]:
    """Where coordinate descent ends that starts at the input (upwards) or at the output."""
    orders = [np.arange(len(weight)) for weight, _ in network[:-1]]
    depths = range(len(orders))
    for depth in depths if upwards else reversed(depths):
        orders[depth] = _best_order(network, target, orders, depth, incoming=upwards, outgoing=not upwards)
    for _ in range(MAX_SWEEPS):
        before = list(orders)
        for depth in depths:
            orders[depth] = _best_order(network, target, orders, depth)
        if all(map(np.array_equal, orders, before)):
            break
    return orders


def reordered(network: list[LayerArrays], orders: list[np.ndarray]) -> np.ndarray:
    """The vector (num_params,) of a network whose hidden units were put in these orders."""
    parts = []
    columns = np.zeros(1, np.int64)
    for depth, (weight, bias) in enumerate(network):
        rows = orders[depth] if depth < len(orders) else np.arange(len(weight))
        parts += [weight[rows[:, None], columns].ravel(), bias[rows] if len(bias) else bias]
        columns = rows
    return np.concatenate(parts)


def _best_order(
    network: list[LayerArrays],
    target: list[LayerArrays],
    orders: list[np.ndarray],
    depth: int,
    incoming: bool = True,
    outgoing: bool = True,
) -> np.ndarray:
    """The order of one layer's units with the largest inner product with the target, the other orders given."""
    (weight, bias), (target_weight, target_bias) = network[depth], target[depth]
    units = len(weight)
    gain = np.outer(target_bias, bias) if len(bias) else np.zeros((units, units))
    if incoming:
        if depth > 0:
            weight = weight[:, orders[depth - 1]]
        gain += target_weight.reshape(units, -1) @ weight.reshape(units, -1).T
    if outgoing:
        (following, _), (target_following, _) = network[depth + 1], target[depth + 1]
        if depth + 1 < len(orders):
            following = following[orders[depth + 1]]
        gain += target_following.swapaxes(0, 1).reshape(units, -1) @ following.swapaxes(0, 1).reshape(units, -1).T
    return linear_sum_assignment(gain, maximize=True)[1]


__all__ = ["align"]
