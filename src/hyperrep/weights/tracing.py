"""Which entries of a module's tensors move together: its operators, one after the other, tie labels.

Every parameter starts with a label for each index of an axis where it is a matrix or a kernel, or for each entry where
it is added or multiplied entry by entry. Labels go through the network as its activations do: what moves entries
(views, slices, concatenation) moves their labels, what combines them ties them, and what is not understood pins them.
"""

import operator
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import UserError
from .labels import Labels, Matrix, Partition, Trace, Value, fixed, mapped, values_in
from .operators import apply


MOVES = {"view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t", "squeeze", "flip"}
MOVES |= {"unsqueeze", "expand", "repeat", "select", "slice", "narrow", "index", "index_select", "cat", "stack"}
MOVES |= {"split", "split_with_sizes", "chunk", "unbind", "roll", "pad", "constant_pad_nd", "pixel_shuffle", "tile"}
MOVES |= {"pixel_unshuffle", "movedim", "swapaxes", "repeat_interleave", "concat", "channel_shuffle", "adjoint"}
NORMS = {"batch_norm", "instance_norm"}  # those that may keep running statistics
_PADS = {"pad", "constant_pad_nd"}
_PRODUCTS = {"linear": (1,), "matmul": (0, 1), "mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2)}


def traced(module: nn.Module, inputs: Tensor, aliases: Mapping[str, str]) -> Trace:
    """Labels of a module's tensors, after all its operators.

    Args:
        module (`nn.Module`): in evaluation mode.
        inputs (`Tensor`): (batch, ...), an example.
        aliases (`Mapping[str, str]`): other names of tied parameters.

    Raises:
        UserError: if `torch.export` cannot trace the module.
    """
    try:
        program = torch.export.export(module, (inputs,), strict=False)
    except Exception as error:  # whatever a module's own code raises
        message = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise UserError(f"{type(module).__name__} cannot be traced by torch.export: {message}") from error
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    names |= signature.inputs_to_lifted_tensor_constants
    stored = {**program.constants, **program.state_dict}
    trace = Trace()
    found: dict[fx.Node, Any] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.users:  # without any, it is another name of a tensor, or of no matter
            name = names.get(node.name)
            if name is None:
                found[node] = fixed(node.meta["val"].shape)
            else:
                found[node] = _tensor(trace, node, aliases.get(name, name), stored[name])
        elif node.op == "output":
            trace.pin([found[leaf] for leaf in node.all_input_nodes])
        elif node.op == "call_function":
            args, kwargs = (fx.node.map_arg(given, found.__getitem__) for given in (node.args, node.kwargs))
            found[node] = _called(trace, node, list(args), dict(kwargs))
    return trace


def _tensor(trace: Trace, node: fx.Node, name: str, tensor: Tensor) -> Value | Tensor:
    """Labels of a parameter or of running statistics. Other buffers are constants: they are what they are."""
    if not isinstance(tensor, nn.Parameter) and not any(operator_name(user) in NORMS for user in node.users):
        return tensor
    if name in trace.tensors:
        return trace.tensors[name]
    if not isinstance(tensor, nn.Parameter):
        trace.statistics.add(name)
    groups = _groups(node) if tensor.ndim > 1 else None
    if groups is None:
        units, factors = (partition.new(*tensor.shape) for partition in (trace.units, trace.factors))
        trace.tensors[name] = Labels(units, factors, is_parameter=True)
        return trace.tensors[name]
    outer, inner, *rest = tensor.shape

    def first(partition: Partition) -> Tensor:
        return partition.new(outer).reshape(outer, 1, *(1 for _ in rest)).expand(tensor.shape)

    def second(partition: Partition) -> Tensor:  # each group of a convolution has its own
        labels = partition.new(groups, inner)
        labels = labels.repeat_interleave(outer // groups, dim=0) if groups > 1 else labels.expand(outer, -1)
        return labels[(..., *(None for _ in rest))].expand(tensor.shape)

    sides = (Labels(side(trace.units), side(trace.factors), is_parameter=True) for side in (first, second))
    trace.tensors[name] = Matrix(name, *sides)
    return trace.tensors[name]


def _padded(trace: Trace, node: fx.Node, args: list, kwargs: dict[str, Any]) -> Any:
    """Zeros around a tensor may go with any unit: each has labels of its own until it meets one."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    given = dict(zip((argument.name for argument in schema), args)) | kwargs
    if given.get("mode", "constant") != "constant" or given.get("value") or not isinstance(args[0], Labels):
        return _moved(node.target, "pad", args, kwargs)
    parts = []
    for part, partition in zip(args[0].parts(), (trace.units, trace.factors)):
        padded = nn.functional.pad(part.double(), given["pad"], value=-1).long()
        padded[padded < 0] = partition.new(int((padded < 0).sum()))
        parts.append(padded)
    return args[0].rebuilt(parts)


def _called(trace: Trace, node: fx.Node, args: list, kwargs: dict[str, Any]) -> Any:
    """Labels of what an operator returns, or the tensor itself where it does not depend on weights and inputs."""
    target: Any = node.target
    if target is operator.getitem:
        return args[0][args[1]]
    values, name = values_in([args, kwargs]), operator_name(node)
    known = isinstance(target, torch._ops.OpOverload)
    if known and not values:
        return target(*args, **kwargs)
    shape = [None if part is None else part.shape for part in _listed(node.meta.get("val"))]
    result = None
    if known and name in MOVES:
        result = _padded(trace, node, args, kwargs) if name in _PADS else _moved(target, name, args, kwargs)
    elif known:
        declared = target._schema.arguments
        given = {argument.name: argument.default_value for argument in declared}
        given |= dict(zip((argument.name for argument in declared), args)) | kwargs
        result = apply(trace, name, torch.Tag.pointwise in target.tags, given, shape[0] if shape else None)
    if result is not None:
        return result
    trace.pin(values)  # an operator that is not understood
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    where, kind = stack[-1] if stack else ("", "")
    kind = kind if isinstance(kind, str) else kind.__name__
    trace.unknown[name] = f"{where!r} ({kind.rpartition('.')[2]})"
    results = [None if part is None else fixed(part) for part in shape]
    return results if isinstance(node.meta.get("val"), list | tuple) else (results or [None])[0]


def operator_name(node: fx.Node) -> str:
    """`conv` of `aten.conv2d.default`, `relu` of `aten.relu_.default`: without dimensions and whether it is in
    place."""
    schema = getattr(node.target, "_schema", None)
    return re.sub(r"[123]d|_$", "", schema.name.partition("::")[2]) if schema else str(node.target)


def _groups(node: fx.Node) -> int | None:
    """How many groups the convolution has that a tensor is the kernel of, 1 where it is a matrix, `None` where it is
    neither: it may be turned, cut and renamed before."""
    for user in node.users:
        name = operator_name(user)
        places = [i for i, argument in enumerate(user.args) if argument is node]
        if name.startswith("conv") and places == [1]:
            return int(user.kwargs.get("groups", user.args[6] if len(user.args) > 6 else 1))  # type: ignore[arg-type]
        if set(places) & set(_PRODUCTS.get(name, ())):
            return 1
        if name in MOVES and (groups := _groups(user)) is not None:
            return groups
    return None


def _moved(target: Any, name: str, args: list, kwargs: dict[str, Any]) -> Any:
    """What moves entries is done to their labels; what is put in from outside has label 0."""
    if name in ("cat", "stack", "concat"):  # constants among them
        args = [[fixed(part.shape) if isinstance(part, Tensor) else part for part in args[0]], *args[1:]]
    elif name in ("view", "_unsafe_view"):  # labels may lie otherwise in memory than what they are of
        target = torch.reshape
    values = values_in([args, kwargs])
    if len({type(value) for value in values}) > 1 or (isinstance(values[0], Matrix) and len(values) > 1):
        return None
    made: list[Any] = []
    for part in range(len(values[0].parts())):
        # padding knows no whole numbers; labels are far below 2 ** 53

        def chosen(value: Value, part: int = part) -> Tensor:
            return value.parts()[part].double()

        moved = target(*mapped(args, chosen), **mapped(kwargs, chosen))
        made.append([entries.long() for entries in moved] if isinstance(moved, list | tuple) else moved.long())
    if isinstance(made[0], list):
        return [values[0].rebuilt([part[i] for part in made]) for i in range(len(made[0]))]
    return values[0].rebuilt(made)


def _listed(value: Any) -> list:
    return list(value) if isinstance(value, list | tuple) else [value]


__all__ = ["traced"]
