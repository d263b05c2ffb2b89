"""State dict <-> weight vector: where each tensor of a network lies in its flat weight vector.

Layer by layer in forward order; within a layer the weight, flattened row-major (out, in, height, width), then the
bias (NeurIPS 2022 code, `vectorize`).
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import UserError


STATISTICS = ("running_mean", "running_var")

_WRAPPERS = re.compile(r"^((_orig_mod|module)\.)+")  # what torch.compile and DataParallel put before each name


@dataclass(frozen=True)
class Layer:
    """One layer's slice of the weight vector.

    Attributes:
        name (`str`): the module's name, such as `convs.0`.
        start, stop (`int`): its slice of the vector, weight and bias together.
        num_units (`int`): output units (convolution kernels or rows of a linear layer).
        fan_in (`int`): incoming weights of one unit.
        has_bias (`bool`): whether one bias per unit follows the weights.
    """

    name: str
    start: int
    stop: int
    num_units: int
    fan_in: int
    has_bias: bool

    @property
    def token_size(self) -> int:
        """Incoming weights of one unit plus its bias: the width of its neuron token."""
        return self.fan_in + self.has_bias


@dataclass(frozen=True)
class WeightLayout:
    """Names and shapes of a network's tensors in the order of the weight vector.

    Example:

    ```python
    >>> layout = WeightLayout.of(model)
    >>> vector = layout.vectorize(model.state_dict())  # (num_params,)
    >>> model.load_state_dict(layout.unvectorize(vector))
    ```
    """

    tensors: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, module: nn.Module) -> "WeightLayout":
        """Layout of a module's parameters, in the order it lists them, each batch norm's followed by its running
        statistics: without them a network is not whole. Compiled or wrapped for several GPUs, it is the module inside
        that counts."""
        tensors, seen = [], set()
        for prefix, part in unwrapped(module).named_modules():
            own = {**part._parameters, **running_statistics(part)}
            for name, tensor in own.items():
                if tensor is not None and id(tensor) not in seen:  # tied ones come once
                    seen.add(id(tensor))
                    tensors.append((f"{prefix}.{name}" if prefix else name, tuple(tensor.shape)))
        return cls(tuple(tensors))

    @classmethod
    def from_list(cls, tensors: Iterable[Sequence[Any]]) -> "WeightLayout":
        """Inverse of [`to_list`]."""
        return cls(tuple((name, tuple(shape)) for name, shape in tensors))

    def to_list(self) -> list[list]:
        """JSON form: `[["convs.0.weight", [8, 1, 5, 5]], ...]`."""
        return [[name, list(shape)] for name, shape in self.tensors]

    @cached_property
    def num_params(self) -> int:
        return sum(math.prod(shape) for _, shape in self.tensors)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where each tensor lies in the vector."""
        slices, start = {}, 0
        for name, shape in self.tensors:
            slices[name] = slice(start, start + math.prod(shape))
            start += math.prod(shape)
        return slices

    @cached_property
    def statistics(self) -> Tensor:
        """(entries,), int64: where in the vector running statistics of batch norms lie. Training does not follow
        gradients there."""
        slices = [self.slices[name] for name, _ in self.tensors if name.rpartition(".")[2] in STATISTICS]
        return torch.cat([torch.arange(part.start, part.stop) for part in slices]) if slices else torch.arange(0)

    @property
    def num_learned(self) -> int:
        """Of the vector's entries, those that training learns by gradients."""
        return self.num_params - len(self.statistics)

    @property
    def described(self) -> str:
        """`2,464 parameters`, and how many running statistics come with them."""
        of_norms = f" and {len(self.statistics):,} running statistics" if len(self.statistics) else ""
        return f"{self.num_learned:,} parameters{of_norms}"

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Weight and bias of one module together, in forward order.

        Raises:
            UserError: if a bias does not follow its weight, or a tensor is neither.
        """
        layers: list[Layer] = []
        for name, shape in self.tensors:
            module, _, kind = name.rpartition(".")
            start, stop = self.slices[name].start, self.slices[name].stop
            if kind == "weight" and len(shape) >= 2:
                layers.append(Layer(module, start, stop, shape[0], math.prod(shape[1:]), has_bias=False))
            elif kind == "bias" and layers and layers[-1].name == module:
                previous = layers[-1]
                layers[-1] = Layer(module, previous.start, stop, previous.num_units, previous.fan_in, has_bias=True)
            else:
                raise UserError(f"tensor {name!r} of shape {list(shape)} is neither a weight nor the bias after one.")
        return tuple(layers)

    def vectorize(self, state_dict: Mapping[str, Tensor]) -> Tensor:
        """Flatten tensors (..., *shape) into vectors (..., num_params).

        Raises:
            UserError: if a tensor is missing or has another shape than the layout says.
        """
        missing = [name for name, _ in self.tensors if name not in state_dict]
        if missing:  # as it is, unless it is that of a compiled or wrapped module
            state_dict = {_WRAPPERS.sub("", name): tensor for name, tensor in state_dict.items()}
            missing = [name for name, _ in self.tensors if name not in state_dict]
        if missing:
            raise UserError(f"the state dict lacks {', '.join(missing)}; it has {', '.join(state_dict)}.")
        parts = []
        for name, shape in self.tensors:
            tensor = state_dict[name]
            if tuple(tensor.shape[tensor.ndim - len(shape) :]) != shape:
                raise UserError(f"{name} has shape {list(tensor.shape)}, the layout says {list(shape)}.")
            parts.append(tensor.reshape(*tensor.shape[: tensor.ndim - len(shape)], -1))
        return torch.cat(parts, dim=-1)

    def unvectorize(self, vector: Tensor) -> dict[str, Tensor]:
        """Cut vectors (..., num_params) into tensors (..., *shape), as views.

        Raises:
            UserError: if the last dimension is not `num_params`.
        """
        if vector.shape[-1] != self.num_params:
            raise UserError(f"weight vectors have {vector.shape[-1]} entries, the layout has {self.num_params}.")
        return {
            name: vector[..., self.slices[name]].unflatten(-1, shape) if shape else vector[..., self.slices[name]]
            for name, shape in self.tensors
        }


def running_statistics(part: nn.Module) -> dict[str, Tensor]:
    """What a normalisation remembers of the activations of training: `running_mean` and `running_var`, each (units,);
    empty for one that remembers nothing, and for any other module."""
    if not isinstance(part, nn.modules.batchnorm._NormBase):
        return {}
    buffers = {name: part._buffers.get(name) for name in STATISTICS}
    return {name: buffer for name, buffer in buffers.items() if buffer is not None}


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside, if it was compiled or wrapped for several GPUs."""
    while hasattr(module, "_orig_mod") or isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        module = cast(nn.Module, getattr(module, "_orig_mod", None) or module.module)
    return module
