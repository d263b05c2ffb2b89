"""Rules of products: layers and convolutions, whose weights are matrices, and products of activations, as in
attention. See [`~hyperrep.weights.operators`]."""

from typing import Any

import torch
from torch import Tensor

from .labels import Labels, Matrix, Trace, fixed, one_place, parts_of, values_in, varies


# products with weights


def linear(trace: Trace, given: dict[str, Any], shape: Any) -> Labels | None:
    weight, bias = given["weight"], given.get("bias")
    if not isinstance(weight, Matrix) or len(weight.shape) != 2:
        return None
    return _multiplied(trace, given["input"], weight, 1, 0, shape, bias)


def addmm(trace: Trace, given: dict[str, Any], shape: Any) -> Labels | None:
    if not isinstance(given["mat2"], Matrix) or given["beta"] != 1 or given["alpha"] != 1:
        return None
    return _multiplied(trace, given["mat1"], given["mat2"], 0, 1, shape, given["self"])


def _multiplied(
    trace: Trace, inputs: Any, weight: Matrix, reads: int, writes: int, shape: Any, bias: Any = None
) -> Labels | None:
    """The last axis of the inputs by one axis of a matrix."""
    if not isinstance(inputs, Labels):
        return None
    side, columns = weight.along(reads, writes)
    rows = weight.sides()[1 - side]
    columns, rows = _along(columns, reads), _along(rows, writes)
    trace.inputs_of.setdefault(weight.name, set()).add(side)
    if _mixes_positions(trace, inputs.units, -1):  # as the first half of MLP-Mixer does
        trace.pin(columns, rows, bias)
        trace.freeze(inputs)
        return Labels(inputs.units.narrow(-1, 0, 1).expand(shape), fixed(shape).factors)
    trace.units.join(inputs.units, columns.units)
    trace.factors.join(inputs.factors, columns.factors)
    _add_bias(trace, rows, bias)
    return Labels(rows.units.expand(shape), rows.factors.expand(shape))


def conv(trace: Trace, given: dict[str, Any], shape: Any) -> Labels | None:
    return _convolved(trace, given, shape, transposed=False)


def conv_transpose(trace: Trace, given: dict[str, Any], shape: Any) -> Labels | None:
    return _convolved(trace, given, shape, transposed=True)


def _convolved(trace: Trace, given: dict[str, Any], shape: Any, transposed: bool) -> Labels | None:
    inputs, weight, groups = given["input"], given["weight"], given["groups"]
    spatial = len(shape) - 2
    if not isinstance(inputs, Labels) or not isinstance(weight, Matrix) or len(inputs.shape) != len(shape):
        return None
    if _mixes_positions(trace, inputs.units, 1):
        return None
    channels = one_place(trace, inputs, 1)  # (inputs,)
    first, second = _along(weight.first, 0), _of_groups(weight.second, groups)
    reads, writes = (first, second) if transposed else (second, first)
    trace.inputs_of.setdefault(weight.name, set()).add(0 if transposed else 1)
    trace.units.join(channels.units, reads.units)
    trace.factors.join(channels.factors, reads.factors)
    if groups > 1:
        before, after = channels.units.reshape(groups, -1), writes.units.reshape(groups, -1)
        if before.shape[1] == after.shape[1] == 1:  # depthwise: a unit each
            trace.units.join(before, after)
        else:
            parts_of(trace, torch.cat([before, after], dim=1))
    _add_bias(trace, writes, given.get("bias"))
    return writes.map(lambda part: part.reshape(-1, *[1] * spatial).expand(shape))


def _of_groups(side: Labels, groups: int) -> Labels:
    """Labels (groups * channels of a group,) of the second axis of a kernel, of which each group has its own."""
    step = side.shape[0] // groups
    places: Any = (0,) * (len(side.shape) - 2)
    return side.rebuilt([part[(slice(None, None, step), slice(None), *places)].flatten() for part in side.parts()])


def _add_bias(trace: Trace, rows: Labels, bias: Any) -> None:
    if bias is None:
        return
    if not isinstance(bias, Labels):
        trace.pin(rows)
        return
    trace.units.join(bias.units, rows.units)
    trace.factors.join(bias.factors, rows.factors)


def _mixes_positions(trace: Trace, units: Tensor, axis: int) -> bool:
    """Whether entries along an axis are positions of one unit, and units lie along another axis."""
    units = trace.units.find(units)
    return units.shape[axis] > 1 and bool(units.any()) and not varies(units, axis)


def _along(side: Labels, axis: int) -> Labels:
    """Labels (n,) along an axis, of a side that varies along no other."""
    first: Any = (slice(None), *(0 for _ in side.shape[1:]))
    return side.rebuilt([part.movedim(axis, 0)[first] for part in side.parts()])


# products of activations


def matmul(trace: Trace, given: dict[str, Any], shape: Any) -> Labels | None:
    first, second = given["self"], given.get("other", given.get("mat2"))
    if isinstance(second, Matrix) and len(second.shape) == 2:
        return _multiplied(trace, first, second, 0, 1, shape)
    if not isinstance(first, Labels) or not isinstance(second, Labels):
        return None
    return _product(trace, first, second, shape)


def _product(trace: Trace, first: Labels, second: Labels, shape: Any) -> Labels | None:
    """(..., n, k) by (..., k, m)."""
    if len(shape) < 2 or len(first.shape) < 2 or len(second.shape) < 2:
        return None
    (n, m), k, outer = shape[-2:], first.shape[-1], shape[:-2]
    a = trace.units.find(first.units).expand(*outer, n, k).reshape(-1, n, k)
    b = trace.units.find(second.units).expand(*outer, k, m).reshape(-1, k, m)
    if varies(a, 2) and varies(b, 1):  # a sum over units, as of queries and keys: what is left is a number a part
        trace.units.join(a, b.transpose(1, 2)[:, :1])
        trace.units.join(a[:, :1], b.transpose(1, 2))
        ours, theirs = (
            part.expand(*outer, *part.shape[-2:]) for part in (first.factors, second.factors.transpose(-2, -1))
        )
        trace.factors.join(ours, theirs[..., :1, :])
        trace.factors.join(ours[..., :1, :], theirs)
        trace.unscaled.append(first.factors)  # the one would have to shrink as the other grows
        parts = parts_of(trace, trace.units.find(a[:, 0]))
        return Labels(parts.reshape(*outer, 1, 1).expand(shape), fixed(shape).factors)
    if varies(a, 2) or varies(b, 1) or (varies(a, 1) and varies(b, 2)):
        return None
    values, mixing, axis = (second, a, -1) if varies(b, 2) or not varies(a, 1) else (first, b, -2)
    if not trace.is_frozen(second if values is first else first):
        trace.freeze(first, second)
    units, factors = (part.expand(*outer, *part.shape[-2:]) for part in values.parts())
    other = -2 if axis == -1 else -1
    trace.units.join(units, units.narrow(other, 0, 1))
    trace.factors.join(factors, factors.narrow(other, 0, 1))
    units, factors = units.narrow(other, 0, 1), factors.narrow(other, 0, 1)
    part_of = mixing[:, :1, :1].expand(-1, 1, units.shape[axis]).reshape(-1, units.shape[axis])
    if mixing.any():
        trace.blocks.append((units.movedim(axis, -1).reshape(-1, units.shape[axis]), part_of))
    return Labels(units.expand(shape), factors.expand(shape))


def attention(trace: Trace, given: dict[str, Any], shape: Any) -> Labels | None:
    query, key, value = (given[name] for name in ("query", "key", "value"))
    if not all(isinstance(part, Labels) for part in (query, key, value)) or given.get("enable_gqa"):
        return None
    if values_in(given["attn_mask"]):
        return None
    turned = key.rebuilt([part.transpose(-2, -1) for part in key.parts()])
    scores = _product(trace, query, turned, (*shape[:-1], key.shape[-2]))
    return None if scores is None else _product(trace, scores, value, shape)


__all__ = ["addmm", "attention", "conv", "conv_transpose", "linear", "matmul"]
