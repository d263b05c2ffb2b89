"""What moves together: every entry of every tensor of a network carries two labels, of a unit and of a factor."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor


class Partition:
    """Labels, of which ever more are found to be the same: a union-find over whole tensors of them.

    Label 0 is that of whatever has to stay as it is.
    """

    def __init__(self) -> None:
        self.roots = torch.zeros(1, dtype=torch.int64)

    def new(self, *shape: int) -> Tensor:
        """Labels of their own for a tensor of this shape."""
        count = int(np.prod(shape, dtype=np.int64))
        labels = len(self.roots) + torch.arange(count)
        self.roots = torch.cat([self.roots, labels])
        return labels.reshape(shape)

    def find(self, labels: Tensor) -> Tensor:
        """The smallest label that is the same as each of these."""
        return self.roots[labels]

    def join(self, first: Tensor, second: Tensor | int) -> None:
        """Entry by entry, these are the same from now on; the shapes broadcast."""
        count = len(self.roots)
        edges = torch.unique(self.find(once(first)) * count + self.find(once(torch.as_tensor(second))))
        edges = torch.stack([edges // count, edges % count])
        edges = edges[:, edges[0] != edges[1]]
        if not edges.shape[1]:
            return
        graph = coo_matrix((np.ones(edges.shape[1]), edges.numpy()), shape=(count, count))
        number, parts = connected_components(graph, directed=False)
        smallest = np.full(number, count)
        np.minimum.at(smallest, parts, np.arange(count))
        self.roots = torch.from_numpy(smallest[parts])[self.roots]


@dataclass(frozen=True)
class Labels:
    """Of a tensor's entries.

    Attributes:
        units (`Tensor`): in its shape. Entries of one unit come and go together.
        factors (`Tensor`): in its shape. Entries of one factor may all be multiplied by one number, if what reads them
            is divided by it.
        is_parameter (`bool`): whether it is a parameter, and not what the network made of one.
    """

    units: Tensor
    factors: Tensor
    is_parameter: bool = False

    @property
    def shape(self) -> torch.Size:
        return self.units.shape

    def parts(self) -> list[Tensor]:
        return [self.units, self.factors]

    def rebuilt(self, parts: list[Tensor]) -> "Labels":
        """With these instead, as when the tensor was turned or cut."""
        return replace(self, units=parts[0], factors=parts[1])

    def map(self, change: Callable[[Tensor], Tensor]) -> "Labels":
        """Of something else that was made of it."""
        return Labels(change(self.units), change(self.factors))

    def sides(self) -> "list[Labels]":
        return [self]


@dataclass(frozen=True)
class Matrix:
    """Labels of a weight that is multiplied with: its entries belong to a unit of one side and to one of the other.

    Attributes:
        name (`str`): of the parameter.
        first, second ([`Labels`]): by its first axis and by its second; of a grouped convolution, the second depends
            on the first. Either of them may be what it reads from.
    """

    name: str
    first: Labels
    second: Labels

    @property
    def shape(self) -> torch.Size:
        return self.first.shape

    def parts(self) -> list[Tensor]:
        return [*self.first.parts(), *self.second.parts()]

    def rebuilt(self, parts: list[Tensor]) -> "Matrix":
        return replace(self, first=self.first.rebuilt(parts[:2]), second=self.second.rebuilt(parts[2:]))

    def sides(self) -> list[Labels]:
        return [self.first, self.second]

    def along(self, axis: int, other: int) -> tuple[int, Labels]:
        """The side whose labels lie along an axis, however the matrix was turned since: `first` is 0, `second` 1."""
        turned = varies(self.second.units, axis) or varies(self.first.units, other)
        if varies(self.first.units, axis) or varies(self.second.units, other):
            turned = False
        elif not turned:  # a single unit on either side
            turned = axis % len(self.shape) == 1
        return int(turned), self.second if turned else self.first


Value = Labels | Matrix


def once(labels: Tensor) -> Tensor:
    """Without the repetitions of an expanded tensor, of which it may have millions."""
    repeated = [axis for axis in range(labels.ndim) if labels.stride(axis) == 0]
    return labels[tuple(slice(0, 1) if axis in repeated else slice(None) for axis in range(labels.ndim))]


def varies(labels: Tensor, axis: int) -> bool:
    """Whether entries differ along an axis."""
    labels = once(labels)
    return labels.shape[axis] > 1 and bool((labels != labels.narrow(axis, 0, 1)).any())


def varying(labels: Tensor) -> list[int]:
    """The axes along which entries differ."""
    return [axis for axis in range(labels.ndim) if varies(labels, axis)]


def values_in(arguments: Any) -> list[Value]:
    """All of them, in lists of lists and dictionaries."""
    if isinstance(arguments, Labels | Matrix):
        return [arguments]
    if isinstance(arguments, dict):
        arguments = list(arguments.values())
    return [value for part in arguments for value in values_in(part)] if isinstance(arguments, list | tuple) else []


def mapped(arguments: Any, change: Callable[[Value], Any]) -> Any:
    """The same lists and dictionaries, with something else in place of each value."""
    if isinstance(arguments, Labels | Matrix):
        return change(arguments)
    if isinstance(arguments, dict):
        return {key: mapped(part, change) for key, part in arguments.items()}
    return [mapped(part, change) for part in arguments] if isinstance(arguments, list | tuple) else arguments


class Trace:
    """Labels of all tensors of a module, and what its operators say about them.

    Attributes:
        units, factors ([`Partition`])
        tensors (`dict[str, Labels | Matrix]`): of parameters and running statistics.
        statistics (`set[str]`): those that are no parameters.
        blocks (`list[tuple[Tensor, Tensor]]`): units, and of which part of an operator each of them is: an operator's
            parts (groups of a convolution, heads) are alike, but nothing moves from one to another on its own. A part
            is itself a unit.
        inputs_of (`dict[str, set[int]]`): sides (0 or 1) by which a matrix reads; it writes by the other one.
        ratios (`list[tuple[Tensor, Tensor, Tensor]]`): factors of parameters that have the second over the third.
        unsigned, unscaled (`list[Tensor]`): factors that cannot be negative; or not other than 1 and -1.
        unknown (`dict[str, str]`): operators that were not understood, and the modules they stand in.
    """

    def __init__(self) -> None:
        self.units, self.factors = Partition(), Partition()
        self.tensors: dict[str, Value] = {}
        self.statistics: set[str] = set()
        self.blocks: list[tuple[Tensor, Tensor]] = []
        self.inputs_of: dict[str, set[int]] = {}
        self.ratios: list[tuple[Tensor, Tensor, Tensor]] = []
        self.unsigned: list[Tensor] = []
        self.unscaled: list[Tensor] = []
        self.unknown: dict[str, str] = {}

    def pin(self, *values: Any) -> None:
        """They stay as they are."""
        for value in values_in(values):
            for side in value.sides():
                self.units.join(side.units, 0)
                self.factors.join(side.factors, 0)

    def freeze(self, *values: Labels) -> None:
        """Their factors stay 1."""
        for value in values:
            self.factors.join(value.factors, 0)

    def is_frozen(self, value: Labels) -> bool:
        return not self.factors.find(once(value.factors)).any()


def one_place(trace: Trace, value: Labels, axis: int) -> Labels:
    """Labels (n,) along an axis; whatever lies elsewhere is the same."""
    units, factors = (part.movedim(axis, 0).flatten(1) for part in value.parts())
    trace.units.join(units, units[:, :1])
    trace.factors.join(factors, factors[:, :1])
    return Labels(units[:, 0], factors[:, 0])


def parts_of(trace: Trace, units: Tensor) -> Tensor:
    """Units (parts, members) of the parts of an operator to labels (parts,) of the parts themselves; 0 where nothing
    tells one from another."""
    rows, inverse = torch.unique(trace.units.find(units).sort(dim=1).values, dim=0, return_inverse=True)
    if len(rows) == 1:
        return torch.zeros(len(units), dtype=torch.int64)
    members = torch.cat([torch.unique(row) for row in rows])
    if len(members) > len(torch.unique(members)):  # they overlap
        trace.units.join(units, 0)
        return torch.zeros(len(units), dtype=torch.int64)
    labels = trace.units.new(len(rows))[inverse]
    trace.blocks.append((units, labels[:, None].expand(units.shape)))
    return labels


def fixed(shape: Any) -> Labels:
    """Of a tensor of which nothing moves."""
    zeros = torch.zeros(1, dtype=torch.int64).expand(1 if not len(shape) else tuple(shape)).reshape(tuple(shape))
    return Labels(zeros, zeros)


__all__ = [
    "Labels",
    "Matrix",
    "Partition",
    "Trace",
    "Value",
    "fixed",
    "mapped",
    "once",
    "one_place",
    "parts_of",
    "values_in",
    "varies",
    "varying",
]
