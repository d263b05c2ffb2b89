"""Weights of one architecture in another: what generated networks start networks of other shapes with."""

import math
from collections.abc import Collection

from torch import Tensor

from ..errors import UserError
from .layout import WeightLayout


def transplant(
    weights: Tensor,
    source: WeightLayout,
    target: WeightLayout,
    initial: Tensor,
    in_order: bool = False,
    keep: Collection[str] = (),
) -> Tensor:
    """Put the weights of networks into networks of another architecture.

    Layer by layer, the default: a tensor of the target takes what the source's tensor of the same name has at the same
    indices. Of a wider layer the first units, and of these the first inputs, are the source's; of a narrower one only
    the first fit. Everything else keeps its initial numbers: the rest of wider layers, and all of a deeper network's
    new layers and of connections around layers. This is how the paper's code loads generated weights into a network
    with residual connections (`res_load_cnn_check`).

    In order: the weight vector is cut into the target's tensors one after the other, whatever they are called; what it
    does not reach keeps its initial numbers. For the networks of four convolutions in the poster's table no code was
    released; their 2,464 parameters, just as many as generated ones have, leave no other reading.

    Args:
        weights (`Tensor`): (networks, source.num_params).
        source, target ([`WeightLayout`])
        initial (`Tensor`): (networks, target.num_params), drawn from seeds of their own.
        in_order (`bool`, *optional*, defaults to `False`)
        keep (`Collection[str]`, *optional*): tensors of the target that keep their initial numbers in any case.

    Returns:
        `Tensor`: (networks, target.num_params), new.

    Raises:
        UserError: if weights do not have the layouts' sizes, or `keep` names a tensor that the target lacks.
    """
    for name, values, layout in (("weights", weights, source), ("initial weights", initial, target)):
        if values.shape != (len(weights), layout.num_params):
            raise UserError(f"{name} are {tuple(values.shape)}; ({len(weights)}, {layout.num_params}) is needed.")
    if unknown := [name for name in keep if name not in dict(target.tensors)]:
        raise UserError(f"keep names {unknown[0]!r}; the network has {', '.join(dict(target.tensors))}.")
    result, given = initial.clone(), dict(source.tensors)
    start_of = dict(zip(given, _starts(source)))
    taken = 0
    for (name, shape), start in zip(target.tensors, _starts(target)):
        size = math.prod(shape)
        if name in keep:
            continue
        if in_order:
            count = min(size, source.num_params - taken)
            result[:, start : start + count] = weights[:, taken : taken + count]
            taken += count
        elif name in given and len(given[name]) == len(shape):
            theirs = weights[:, start_of[name] : start_of[name] + math.prod(given[name])].unflatten(1, given[name])
            overlap = (slice(None), *(slice(0, min(sizes)) for sizes in zip(shape, given[name])))
            result[:, start : start + size].unflatten(1, shape)[overlap] = theirs[overlap]
    return result


def _starts(layout: WeightLayout) -> list[int]:
    """Where each tensor begins in the weight vector."""
    starts = [0]
    for _, shape in layout.tensors:
        starts.append(starts[-1] + math.prod(shape))
    return starts[:-1]
