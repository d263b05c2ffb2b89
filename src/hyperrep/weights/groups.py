"""From labels to groups: which units are alike, so that they may change places."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from .labels import Labels, Partition, Trace, Value, once, varies


Key = Any  # tuples, which can be sorted


def groups_of(trace: Trace) -> list[list[list[int]]]:
    """Groups of members, each of one unit or, for heads and groups of channels, of several.

    Units are alike if as many indices of the same axes of the same tensors are theirs, and if they are in the same
    parts of the same operators. Parts are alike if they hold units of the same axes.
    """
    indices = indices_of(trace)
    parts, parents = _parts(trace)
    alike: dict[Key, list[int]] = defaultdict(list)
    whole = set(parents.values())
    for unit, where in indices.items():
        if unit in whole:  # what it is made of comes along
            continue
        alike[(where, parts.get(unit, frozenset()))].append(unit)
    groups = [[[unit] for unit in sorted(units)] for units in alike.values() if len(units) > 1]

    children: dict[int, list[int]] = defaultdict(list)
    for unit, parent in parents.items():
        children[parent].append(unit)

    def members(unit: int, above: frozenset[int] = frozenset()) -> list[tuple[Key, int]]:
        """What moves with a part, each with what it is alike to, in an order that is the same in all parts."""
        own = [(indices[unit], unit)] if unit in indices else []
        below = sorted(members(child, above | {unit}) for child in children.get(unit, ()) if child not in above)
        return own + [pair for listed in below for pair in listed]

    blocks: dict[Key, list[list[int]]] = defaultdict(list)
    for part in children:
        if pairs := members(part):
            key = (tuple(where for where, _ in pairs), parts.get(part, frozenset()))
            blocks[key].append([unit for _, unit in pairs])
    for group in blocks.values():
        members_of = sorted(group)
        is_known = len(members_of[0]) == 1 and any(members_of == other for other in groups)
        units = [unit for member in members_of for unit in member]
        if len(members_of) > 1 and not is_known and len(set(units)) == len(units):
            groups.append(members_of)
    return groups


def coordinates(value: Value, partition: Partition) -> list[Tensor]:
    """Units along the axes of a tensor: (n,) of the first; (1 or first axis, n) of the second of a matrix."""
    if isinstance(value, Labels):
        return [partition.find(value.units).flatten()]
    places: Any = (slice(None), slice(None), *(0 for _ in value.shape[2:]))
    first, second = (partition.find(once(side.units[places])) for side in value.sides())
    return [first[:, 0], second if varies(second, 0) else second[:1]]


def indices_of(trace: Trace) -> dict[int, Key]:
    """For each unit that moves, how many indices of which axes are its own."""
    found: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
    for name, value in trace.tensors.items():
        for axis, units in enumerate(coordinates(value, trace.units)):
            units = units if units.ndim < 2 else units.unique(dim=0)  # a group of a convolution has many rows
            for unit, count in zip(*(part.tolist() for part in torch.unique(units, return_counts=True))):
                if unit:
                    found[unit].append((name, axis, count))
    return {unit: tuple(where) for unit, where in found.items()}


def _parts(trace: Trace) -> tuple[dict[int, frozenset], dict[int, int]]:
    """For each unit, the parts of operators that it is in, and the part as it is known in the end."""
    while True:  # a unit that is in parts of two operators makes them one
        before, first = trace.units.roots, torch.zeros_like(trace.units.roots)
        pairs = [torch.stack([trace.units.find(units).flatten(), labels.flatten()]) for units, labels in trace.blocks]
        pairs = [pair[:, (pair > 0).all(dim=0)].unique(dim=1) for pair in pairs]
        for units, labels in pairs:
            first[units] = labels
        for units, labels in pairs:
            trace.units.join(first[units], labels)
        if torch.equal(before, trace.units.roots):
            break
    inside: dict[int, set] = defaultdict(set)
    for number, pair in enumerate(pairs):
        for unit, label in pair.T.tolist():
            inside[unit].add((number, label))
    parents = {unit: int(trace.units.roots[next(iter(found))[1]]) for unit, found in inside.items()}
    return {unit: frozenset(found) for unit, found in inside.items()}, parents


__all__ = ["coordinates", "groups_of", "indices_of"]
