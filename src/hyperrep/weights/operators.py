"""What each operator says about labels: which entries it ties, which it keeps where they are, and what it returns.

Every rule takes the trace, the operator's arguments and the shape of its result, and returns labels of the result, or
`None` where the operator is used in a way that it does not know.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .labels import Labels, Matrix, Trace, fixed, one_place, parts_of, varies, varying
from .products import addmm, attention, conv, conv_transpose, linear, matmul


# of functions of one entry: f(-x) = -f(x); f(ax) = a f(x) for positive a; or both
_LINEAR = {"neg", "dropout", "feature_dropout", "alpha_dropout", "contiguous", "clone", "detach", "alias", "to"}
_LINEAR |= {"_to_copy", "lift_fresh_copy", "type_as", "positive"}
_ODD = {"tanh", "sin", "erf", "atan", "asinh", "sinh", "hardshrink", "softshrink"}
_HOMOGENEOUS = {"relu", "leaky_relu"}
_OTHER = {"hardswish", "log_sigmoid"}  # which torch does not say are computed entry by entry
_READ_NOTHING = {"new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "full_like", "fill"}
_REDUCTIONS = {"mean", "sum", "amax", "amin", "var", "std", "logsumexp", "linalg_vector_norm"}


def apply(trace: Trace, name: str, is_pointwise: bool, given: dict[str, Any], shape: Any) -> Any:
    """Labels of what an operator returns, `None` if it is not understood.

    Args:
        trace ([`Trace`])
        name (`str`): without dimensions, such as `conv`.
        is_pointwise (`bool`): whether it computes each entry by itself.
        given (`dict`): all of its arguments.
        shape: of what it returns, of the first where there are several.
    """
    if name in _RULES:
        return _RULES[name](trace, given, shape)
    if name in _REDUCTIONS:
        return _reduced(trace, name, given, shape)
    if name in _READ_NOTHING:
        return fixed(shape)
    if is_pointwise or name in _LINEAR | _OTHER:
        return _pointwise(trace, name, given, shape)
    return None


# normalisation


def _running_norm(trace: Trace, given: dict[str, Any], shape: Any) -> Labels | None:
    """Each channel by its own mean and variance, over the batch or as they were in training."""
    inputs = given["input"]
    if not isinstance(inputs, Labels):
        return None
    channels = one_place(trace, inputs, 1)
    weight, bias, mean, variance = (given[name] for name in ("weight", "bias", "running_mean", "running_var"))
    trace.unscaled.append(channels.factors)  # because of eps
    for part in (weight, bias, mean, variance):
        if isinstance(part, Labels):
            trace.units.join(part.units, channels.units)
        elif part is not None:
            trace.pin(channels)
    if isinstance(mean, Labels):
        trace.factors.join(mean.factors, channels.factors)
    if isinstance(variance, Labels):
        trace.freeze(variance)
    factors = channels.factors
    if isinstance(weight, Labels):  # scales what it returns, whatever came in
        factors = trace.factors.new(len(channels.units))
        trace.ratios.append((weight.factors, factors, channels.factors))
    if isinstance(bias, Labels):
        trace.factors.join(bias.factors, factors)
    spatial = len(shape) - 2
    return Labels(channels.units, factors).map(lambda part: part.reshape(-1, *[1] * spatial).expand(shape))


def _layer_norm(trace: Trace, given: dict[str, Any], shape: Any) -> Labels | None:
    inputs, sizes = given["input"], list(given["normalized_shape"])
    if not isinstance(inputs, Labels):
        return None
    parts_of(trace, inputs.units.reshape(-1, math.prod(sizes)))
    return _rescaled(trace, inputs, given, sizes)


def _group_norm(trace: Trace, given: dict[str, Any], shape: Any) -> Labels | None:
    inputs, groups = given["input"], given["num_groups"]
    if not isinstance(inputs, Labels):
        return None
    channels = one_place(trace, inputs, 1)
    parts_of(trace, channels.units.reshape(groups, -1))
    return _rescaled(trace, inputs, given, [-1, *[1] * (len(shape) - 2)])


def _rescaled(trace: Trace, inputs: Labels, given: dict[str, Any], view: list[int]) -> Labels:
    """What was normalised, times a weight, plus a bias: factors before are 1, those after are its own."""
    trace.freeze(inputs)
    factors, weight, bias = inputs.factors, given.get("weight"), given.get("bias")
    for part in (weight, bias):
        if isinstance(part, Labels):
            trace.units.join(inputs.units, part.units.reshape(view))
        elif part is not None:
            trace.pin(inputs)
    if isinstance(weight, Labels):
        factors = weight.factors.reshape(view).expand(inputs.shape)
    if isinstance(bias, Labels):
        trace.factors.join(bias.factors.reshape(view), factors)
    return Labels(inputs.units, factors)


def _softmax(trace: Trace, given: dict[str, Any], shape: Any) -> Labels | None:
    inputs = given["self"]
    if not isinstance(inputs, Labels):
        return None
    trace.freeze(inputs)
    return inputs


# over places


def _pool(trace: Trace, given: dict[str, Any], shape: Any) -> Labels | None:
    """Windows of a map: what is in one place of a unit is in all of them."""
    inputs = given.get("input", given.get("self"))
    if not isinstance(inputs, Labels) or len(inputs.shape) != len(shape):
        return None
    maps = inputs.units.flatten(2), inputs.factors.flatten(2)  # (batch, channels, places)
    trace.units.join(maps[0], maps[0][..., :1])
    trace.factors.join(maps[1], maps[1][..., :1])
    places = [1] * (len(shape) - 2)
    return Labels(*maps).map(lambda part: part[..., 0].reshape(*part.shape[:-1], *places).expand(shape))


def _max_pool(trace: Trace, given: dict[str, Any], shape: Any) -> Labels | None:
    pooled = _pool(trace, given, shape)
    if pooled is not None:
        trace.unsigned.append(pooled.factors)
    return pooled


def _max_pool_with_indices(trace: Trace, given: dict[str, Any], shape: Any) -> list | None:
    pooled = _max_pool(trace, given, shape)
    return None if pooled is None else [pooled, fixed(shape)]


def _reduced(trace: Trace, name: str, given: dict[str, Any], shape: Any) -> Labels | None:
    """Over axes of one unit each: the unit remains. Over units: a number that no order of them changes."""
    inputs = given["self"]
    if not isinstance(inputs, Labels):
        return None
    axes = given.get("dim")
    axes = list(range(len(inputs.shape))) if axes is None or axes == [] else [axes] if isinstance(axes, int) else axes
    axes = [axis % len(inputs.shape) for axis in axes]
    units = trace.units.find(inputs.units)
    first = tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(len(inputs.shape)))
    if not any(varies(units, axis) for axis in axes):
        factors = trace.factors.find(inputs.factors)
        if name not in ("mean", "sum") or any(varies(factors, axis) for axis in axes):
            trace.freeze(inputs)
        return inputs.map(lambda part: part[first].reshape(shape))
    trace.freeze(inputs)
    kept = [axis for axis in range(len(inputs.shape)) if axis not in axes]
    parts = parts_of(trace, units.permute(*kept, *axes).reshape(math.prod(shape), -1))
    return Labels(parts.reshape(shape), fixed(shape).factors)


# entry by entry


def _pointwise(trace: Trace, name: str, given: dict[str, Any], shape: Any) -> Labels | None:
    operands = [part for part in given.values() if isinstance(part, Labels | Matrix | Tensor)]
    values = [part for part in operands if isinstance(part, Labels)]
    if any(isinstance(part, Matrix) for part in operands):
        return None
    constants = [part for part in operands if isinstance(part, Tensor) and part.numel() > 1]
    if len(values) == 1 and not constants:
        value = values[0]
        scaled = name in ("mul", "div") and value is next(iter(given.values()))
        if name in _ODD:
            trace.unscaled.append(value.factors)
        elif name in _HOMOGENEOUS:
            trace.unsigned.append(value.factors)
        elif name not in _LINEAR and not scaled:
            trace.freeze(value)
        return value.map(lambda part: part.expand(shape))
    units = _tied(trace, [*(v.units for v in values), *(fixed(c.shape).units for c in constants)], shape)
    return Labels(units, _combined(trace, name, values, bool(constants), shape))


def _tied(trace: Trace, units: Sequence[Tensor], shape: Any) -> Tensor:
    """Units of what is combined entry by entry are the same, but for numbers that every unit gets alike."""
    result, *others = (part.reshape(*[1] * (len(shape) - part.ndim), *part.shape) for part in units)
    for other in others:
        ours, theirs = trace.units.find(result), trace.units.find(other)
        if _is_one_number(theirs, varying(ours)):
            trace.units.join(other, 0)
        elif _is_one_number(ours, varying(theirs)):
            trace.units.join(result, 0)
            result = other
        else:
            trace.units.join(result, other)
            result = result.expand(torch.broadcast_shapes(result.shape, other.shape))
    return result.expand(shape)


def _is_one_number(units: Tensor, axes: list[int]) -> bool:
    """Whether it is the same along these axes, of another's units, and has none of its own to speak of."""
    return bool(axes) and all(units.shape[axis] == 1 for axis in axes) and not varying(units)


def _combined(trace: Trace, name: str, values: list[Labels], has_constants: bool, shape: Any) -> Tensor:
    """Factors of a sum, a product or another function of two and more."""
    first, *others = values
    if name == "mul" and not others:  # by a constant
        return first.factors.expand(shape)
    if name == "mul" and len(others) == 1:
        second = others[0]
        if first.is_parameter:
            first, second = second, first
        if second.is_parameter and not first.is_parameter:  # may take up whatever comes in
            read, written = (trace.factors.new(*second.shape) for _ in range(2))
            trace.factors.join(first.factors, read)
            trace.ratios.append((second.factors, written, read))
            return written.expand(shape)
        for one, other in ((first, second), (second, first)):
            if trace.is_frozen(other):
                return one.factors.expand(shape)
    if name == "div" and len(others) == 1 and trace.is_frozen(others[0]):
        return first.factors.expand(shape)
    if name in ("add", "sub") and not has_constants and others and not trace.is_frozen(others[0]):
        trace.factors.join(first.factors, others[0].factors)
        return first.factors.expand(shape)
    trace.freeze(*values)
    return fixed(shape).factors


def _glu(trace: Trace, given: dict[str, Any], shape: Any) -> Labels | None:
    """One half times the sigmoid of the other."""
    inputs, axis = given["self"], given["dim"]
    if not isinstance(inputs, Labels):
        return None
    trace.freeze(inputs)
    first, second = inputs.units.chunk(2, dim=axis)
    trace.units.join(first, second)
    return Labels(first, fixed(shape).factors)


def _prelu(trace: Trace, given: dict[str, Any], shape: Any) -> Labels | None:
    inputs, weight = given["self"], given["weight"]
    if not isinstance(inputs, Labels) or not isinstance(weight, Labels):
        return None
    trace.freeze(weight)
    trace.unsigned.append(inputs.factors)
    if weight.shape[0] > 1:
        trace.units.join(inputs.units, weight.units.reshape(-1, *[1] * (len(shape) - 2)))
    else:
        trace.units.join(weight.units, 0)
    return inputs


_RULES: dict[str, Callable[[Trace, dict[str, Any], Any], Any]] = {
    "linear": linear,
    "addmm": addmm,
    "matmul": matmul,
    "mm": matmul,
    "bmm": matmul,
    "conv": conv,
    "conv_transpose": conv_transpose,
    "scaled_dot_product_attention": attention,
    "batch_norm": _running_norm,
    "instance_norm": _running_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "softmax": _softmax,
    "_softmax": _softmax,
    "prelu": _prelu,
    "glu": _glu,
    "max_pool": _max_pool,
    "max_pool_with_indices": _max_pool_with_indices,
    "adaptive_max_pool": _max_pool_with_indices,
    "avg_pool": _pool,
    "adaptive_avg_pool": _pool,
    "upsample_nearest": _pool,
    "upsample_bilinear": _pool,
}


__all__ = ["apply"]
