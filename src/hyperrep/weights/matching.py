"""Networks brought into the order and the signs of another, whatever their architecture.

Weight matching as in git re-basin (arXiv 2209.04836), over the groups and signs of a [`WeightGraph`]: the order of one
group at a time is a linear assignment, exact given all others. A unit that may change its sign is matched by what is
larger, its agreement or its opposite; heads of attention by the best order of the units inside each pair of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .entries import TensorEntries
from .graph import Symmetry, WeightGraph


MAX_SWEEPS = 50

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Gains:
    """What is won if one unit comes to the place of another: inner products with the reference.

    Attributes:
        kept (`Tensor`): (units, units), of entries whose sign stays; a row is a place.
        turned (`dict`): the same of entries that share a factor, by the factors (units,) of each place.
    """

    kept: Tensor
    turned: dict[tuple[int, ...], Tensor]

    @property
    def total(self) -> np.ndarray:
        return (self.kept + sum(gain.abs() for gain in self.turned.values())).numpy()


@dataclass(frozen=True)
class Entries:
    """Of a tensor, those that belong to units that are alike.

    Attributes:
        name (`str`): of the tensor.
        view (`tuple[int, int, int]`): as which the tensor is seen.
        axis (`int | None`): along which they lie; `None` in a grouped convolution, where they are scattered.
        rows (`Tensor`): (units, n), indices along the axis, or into the first two axes laid out as one. Those of one
            column correspond to one another.
        other (`Tensor`): the unit on their other side, by the first two axes: (1 or n, 1 or m). -1 where that stays or
            there is none.
        factors (`list`): of factors with a free sign, those that all entries of a unit have, (units,) each.
    """

    name: str
    view: tuple[int, int, int]
    axis: int | None
    rows: Tensor
    other: Tensor
    factors: list[tuple[int, ...]]

    def of(self, tensor: Tensor) -> Tensor:
        """(units, n): the entries of each."""
        tensor = tensor.reshape(self.view)
        if self.axis is None:
            tensor = tensor.flatten(0, 1)
        elif self.axis == 1:
            tensor = tensor.transpose(0, 1)
        return tensor[self.rows].flatten(1)


@torch.no_grad()
def match(graph: WeightGraph, network: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> Tensors:
    """The network, with units in the order, and with the signs, that bring its parameters closest to the reference's.

    Starts twice from outside inwards, from inputs first and from outputs first, where each group of units is matched
    by what lies between it and what is matched already, and once more from the units as they come; the closest end is
    kept.

    Args:
        graph ([`WeightGraph`]): of both.
        network, reference (`Mapping[str, Tensor]`): such as state dicts.

    Returns:
        `dict[str, Tensor]`: the same function as `network`.

    Raises:
        UserError: if a tensor is missing, or has another shape than the graph's.
    """
    matching = Matching(graph, reference)
    result = dict(network)
    for symmetry in matching.closest(network, as_it_comes=True):
        result = graph.apply(result, symmetry)
    return result


def squared_distance(graph: WeightGraph, first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """Between parameters of two networks, without running statistics."""
    names = [name for name, entries in graph.tensors.items() if entries.is_parameter]
    return float(sum((first[name].double() - second[name].double()).square().sum() for name in names))


@dataclass
class Run:
    """A network on its way.

    Attributes:
        tensors (`dict[str, Tensor]`): where it is.
        steps (`list[Symmetry]`): how it came there.
    """

    tensors: Tensors
    steps: list[Symmetry] = field(default_factory=list)


class Matching:
    """The descent for one reference.

    Args:
        graph ([`WeightGraph`])
        reference (`Mapping[str, Tensor]`)
    """

    def __init__(self, graph: WeightGraph, reference: Mapping[str, Tensor]):
        self.graph = graph
        self.target = self.doubled(reference)
        self.groups = _outermost(graph)
        self.columns = [_inner(graph, group) for group in self.groups]
        self.known_entries: dict[tuple[int, ...], list[Entries]] = {}
        self.families = _families(graph)

    def doubled(self, tensors: Mapping[str, Tensor]) -> Tensors:
        """What the graph knows of a network.

        Raises:
            UserError: if something is missing, or of another shape.
        """
        self.graph.check(tensors)
        return {name: tensors[name].detach().cpu().double() for name in self.graph.tensors}

    def agreement(self, network: Tensors) -> float:
        """The inner product with the reference, of these tensors."""
        known = self.graph.tensors
        return float(sum((network[name] * self.target[name]).sum() for name in network if known[name].is_parameter))

    def closest(self, network: Mapping[str, Tensor], as_it_comes: bool = False) -> list[Symmetry]:
        """What leads from a network as close to the reference as any start does: two from outside inwards, which do
        not depend on the order and signs that its units came in, and, if asked for, one that does."""
        tensors = self.doubled(network)
        ends = [self.from_outside(tensors, from_inputs) for from_inputs in (True, False)]
        ends += [Run(tensors)] if as_it_comes else []
        for end in ends:
            self.descend(end)
        return max(ends, key=lambda end: self.agreement(end.tensors)).steps

    def descend(self, run: Run) -> None:
        """One group after the other, until a sweep changes nothing."""
        everything = torch.ones(self.graph.num_units + 1, dtype=torch.bool)
        for _ in range(MAX_SWEEPS):
            before = self.agreement(run.tensors)
            for place in range(len(self.groups)):
                self._better(run, self._matched(place, run.tensors, everything))
            for family in self.families:
                self._better(run, self._signed(family, run.tensors))
            if self.agreement(run.tensors) <= before + 1e-12 * abs(before):
                break

    def from_outside(self, tensors: Tensors, from_inputs: bool) -> Run:
        """Each group once, that first of which most is known: what lies between it and what was matched before. At
        first these are what reads inputs and what outputs read; the former go first, or the latter."""
        run = Run(tensors)
        known = torch.ones(self.graph.num_units + 1, dtype=torch.bool)  # the last is that of what stays
        for group in self.groups:
            known[group] = False
        left = list(range(len(self.groups)))
        while left:
            shares = {place: self._known_share(self.groups[place], known) for place in left}
            place = max(left if from_inputs else reversed(left), key=shares.__getitem__)
            left.remove(place)
            symmetry = self._matched(place, run.tensors, known)
            run.tensors = self.graph.changed(run.tensors, symmetry)
            run.steps.append(symmetry)
            known[self.groups[place]] = True
        return run

    def _better(self, run: Run, symmetry: Symmetry) -> None:
        """Take a step, if it leads closer: an assignment is exact only where tensors have a group on one of their
        sides."""
        same = self.graph.identity
        units, factors = symmetry.order != same.order, symmetry.factors != same.factors
        if not units.any() and not factors.any():
            return
        touched = {
            name: run.tensors[name]
            for name, entries in self.graph.tensors.items()
            if entries.is_touched(units, factors)
        }
        changed = self.graph.changed(touched, symmetry)
        if self.agreement(changed) > self.agreement(touched):
            run.tensors = run.tensors | changed
            run.steps.append(symmetry)

    def _matched(self, place: int, network: Tensors, known: Tensor) -> Symmetry:
        """The best order of the members of a group (its place in `groups`), and of units inside each of them, by what
        lies between it and what is known."""
        group, (inner, alone) = self.groups[place], self.columns[place]
        members = len(group)
        score = np.zeros((members, members))
        gains = {column: self._gains(group[:, column], network, known) for column in alone}
        for of in gains.values():
            score += of.total
        inside: list[tuple[Tensor, Gains, dict[tuple[int, int], np.ndarray]]] = []
        for columns in inner:
            size = len(columns)
            of = self._gains(group[:, columns].flatten(), network, known)
            total = of.total.reshape(members, size, members, size)
            best = {}
            for i, j in np.ndindex(members, members):
                best[i, j] = linear_sum_assignment(total[i, :, j], maximize=True)[1]
                score[i, j] += total[i, np.arange(size), j, best[i, j]].sum()
            inside.append((columns, of, best))
        chosen = linear_sum_assignment(score, maximize=True)[1]
        symmetry = self.graph.identity
        for column, of in gains.items():
            _put(symmetry, group[:, column], chosen, of)
        for columns, of, best in inside:
            sources = [int(chosen[i]) * len(columns) + best[i, int(chosen[i])] for i in range(members)]
            _put(symmetry, group[:, columns].flatten(), np.concatenate(sources), of)
        return symmetry

    def _gains(self, units: Tensor, network: Tensors, known: Tensor) -> Gains:
        """Of units that are alike, over all entries that lie between them and known ones."""
        kept = torch.zeros(len(units), len(units), dtype=torch.float64)
        turned: dict[tuple[int, ...], Tensor] = {}
        for entries in self._entries(units):
            mask = known[entries.other]
            if not mask.any():
                continue
            target = self.target[entries.name]
            if not mask.all():
                target = target.reshape(entries.view) * mask[..., None]
            gain = entries.of(target) @ entries.of(network[entries.name]).T
            if not entries.factors:
                kept += gain
            elif len(entries.factors) == 1:  # else the sign is that of two, which are not chosen together
                turned[entries.factors[0]] = turned.get(entries.factors[0], 0) + gain
        return Gains(kept, turned)

    def _entries(self, units: Tensor) -> list[Entries]:
        """Of parameters, found once."""
        key = tuple(units.tolist())
        if key not in self.known_entries:
            self.known_entries[key] = [
                entries
                for name, tensor in self.graph.tensors.items()
                if tensor.is_parameter
                for is_first in (True, False)
                if (entries := _entries_of(self.graph, name, tensor, is_first, units)) is not None
            ]
        return self.known_entries[key]

    def _known_share(self, group: Tensor, known: Tensor) -> float:
        """Of the matrices that a group's units are rows or columns of, the largest share whose other side is known."""
        columns = (group[:, column] for column in range(group.shape[1]))
        found = (entries for units in columns for entries in self._entries(units))
        matrices = (entries for entries in found if self.graph.tensors[entries.name].second is not None)
        return max((float(known[entries.other].double().mean()) for entries in matrices), default=0.0)

    def _signed(self, family: Tensor, network: Tensors) -> Symmetry:
        """Those of a family's signs are turned that disagree with the reference."""
        gain = torch.zeros(len(self.graph.signs) + 1, dtype=torch.float64)
        for name, entries in self.graph.tensors.items():
            for factors, _ in entries.factors if entries.is_parameter else ():
                if torch.isin(factors, family).any():
                    product = (network[name] * self.target[name]).reshape(entries.view).sum(dim=2)
                    gain.index_add_(0, factors.expand(product.shape).flatten() % len(gain), product.flatten())
        symmetry = self.graph.identity
        symmetry.factors[family[gain[family] < 0]] = -1.0
        return symmetry


def _families(graph: WeightGraph) -> list[Tensor]:
    """Factors with a free sign, those together that one tensor was the first to have."""
    seen = torch.cat([~graph.signs, torch.ones(1, dtype=torch.bool)])
    families = []
    for entries in graph.tensors.values():
        for factors, _ in entries.factors:
            fresh = factors.unique()
            fresh = fresh[~seen[fresh]]
            if len(fresh):
                seen[fresh] = True
                families.append(fresh)
    return families


def _outermost(graph: WeightGraph) -> list[Tensor]:
    """Groups that lie in no other's members."""
    large = [group for group in graph.groups if group.shape[1] > 1]
    inside = set(torch.cat([group.flatten() for group in large]).tolist()) if large else set()
    return [*large, *(group for group in graph.groups if group.shape[1] == 1 and int(group[0, 0]) not in inside)]


def _inner(graph: WeightGraph, group: Tensor) -> tuple[list[Tensor], list[int]]:
    """Columns of a group whose units may change places within each member, and columns that are alone."""
    places = {int(unit): column for column, unit in enumerate(group[0])}
    inner = [
        torch.tensor(sorted(places[int(unit)] for unit in other[:, 0]))
        for other in graph.groups
        if other.shape[1] == 1 and other is not group and all(int(unit) in places for unit in other[:, 0])
    ]
    taken = {int(column) for columns in inner for column in columns}
    return inner, [column for column in range(group.shape[1]) if column not in taken]


def _put(symmetry: Symmetry, units: Tensor, chosen: np.ndarray, gains: Gains) -> None:
    """Write an order of these units, and the signs that go with it, into a symmetry."""
    order = torch.from_numpy(chosen)
    symmetry.order[units] = units[order]
    for factors, gain in gains.turned.items():
        agrees = gain[torch.arange(len(units)), order] >= 0
        symmetry.factors[torch.tensor(factors)] = torch.where(agrees, 1.0, -1.0).double()


def _entries_of(graph: WeightGraph, name: str, tensor: TensorEntries, is_first: bool, units: Tensor) -> Entries | None:
    """Those of one side of a tensor; `None` if it has none."""
    side = tensor.first if is_first else tensor.second
    if side is None or not torch.isin(side.units, units).any():
        return None
    outer, inner, _ = tensor.view
    place = torch.full((graph.num_units + 1,), -1)
    place[units] = torch.arange(len(units))
    axis = 0 if is_first else 1 if len(side.units) == 1 else None
    member, at = (place[side.units].flatten(), side.places.flatten())
    found = (member >= 0).nonzero()[:, 0]
    found = found[(member * (int(at.max()) + 1) + at)[found].sort(stable=True).indices]
    other = torch.full((1, 1), -1)
    if tensor.second is not None:
        other = tensor.second.units if is_first else tensor.first.units[:, None]
    rows = found.reshape(len(units), -1)
    own = []
    for factors, _ in tensor.factors:
        labels = factors.expand(outer, inner)
        labels = labels.flatten() if axis is None else labels.movedim(axis, 0)
        of = labels[rows].flatten(1)
        if (of == of[:, :1]).all() and (of >= 0).all() and graph.signs[of[:, 0]].all():
            own.append(of[:, 0])
    distinct = [tuple(of.tolist()) for of in own if len(of.unique()) == len(of)]
    return Entries(name, tensor.view, axis, rows, other, distinct)


__all__ = ["Matching", "Run", "match", "squared_distance"]
