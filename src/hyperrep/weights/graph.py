"""The symmetries of any network: which entries of its weights may change places, signs or scales, and how.

Found by tracing the module ([`~hyperrep.weights.tracing`]), and tried out on it in float64 before anything is made of
them.
"""

import copy
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..files.reading import listed
from .entries import TensorEntries, side_of
from .groups import coordinates, groups_of, indices_of
from .labels import Matrix, Trace, Value, once
from .layout import unwrapped
from .symmetry import outputs_of
from .tracing import traced


logger = logging.getLogger(__name__)

TOLERANCE = 1e-9  # of the largest output, in float64
TRIALS = 3  # one order of units may keep a function that others change


@dataclass(frozen=True)
class Symmetry:
    """One reordering of units and one set of factors, for [`WeightGraph.apply`].

    Attributes:
        order (`Tensor`): (units,), int64: which unit comes to the place of each.
        factors (`Tensor`): (factors,), float64: by which each is multiplied afterwards.
    """

    order: Tensor
    factors: Tensor


@dataclass(frozen=True)
class WeightGraph:
    """Which units of a network can change places, and which of its factors can change.

    Example:

    ```python
    >>> graph = WeightGraph.of(resnet18(), torch.randn(1, 3, 64, 64))
    >>> same = graph.apply(model.state_dict(), graph.random(torch.Generator().manual_seed(0)))
    ```

    Attributes:
        tensors (`dict[str, TensorEntries]`): of parameters and running statistics.
        groups (`tuple[Tensor, ...]`): (members, units of a member), int64, each. Members may come in any order;
            one of several units is a head of attention or a group of channels, within which there may be groups of
            single units as well.
        signs, scales (`Tensor`): (factors,), bool: which may be -1, and which any positive number.
        num_units (`int`)
        aliases (`dict[str, str]`): names of tied parameters, and those under which they are known here.
        notes (`tuple[str, ...]`): what was not understood, or did not keep the function, a sentence each.
    """

    tensors: dict[str, TensorEntries]
    groups: tuple[Tensor, ...]
    signs: Tensor
    scales: Tensor
    num_units: int
    aliases: dict[str, str]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, module: nn.Module, inputs: Tensor) -> "WeightGraph":
        """The symmetries of a module, as it is in evaluation mode.

        Args:
            module (`nn.Module`): returns a tensor or, as in transformers, one under `logits`; it is not changed.
            inputs (`Tensor`): (batch, ...), an example of what it takes.

        Raises:
            UserError: if it cannot be traced, or takes no such inputs.
        """
        module = copy.deepcopy(unwrapped(module)).cpu().double().eval()
        inputs = inputs.detach().cpu()
        inputs = inputs.double() if inputs.is_floating_point() else inputs
        aliases = _aliases(module)
        trace = traced(module, inputs, aliases)
        notes = (
            f"{name} of module {where} is not known here: what it reads stays."
            for name, where in trace.unknown.items()
        )
        graph = replace(_assembled(trace, aliases), notes=tuple(notes))
        graph = graph._verified(module, inputs)
        for note in graph.notes:
            logger.warning("%s", note)
        return graph

    @property
    def identity(self) -> Symmetry:
        """The one that changes nothing."""
        return Symmetry(torch.arange(self.num_units), torch.ones(len(self.signs), dtype=torch.float64))

    def random(
        self, generator: torch.Generator, permute: bool = True, signs: bool = True, scale: float = 0.0
    ) -> Symmetry:
        """Any of them.

        Args:
            generator (`torch.Generator`)
            permute, signs (`bool`): whether units change places, and factors their signs.
            scale (`float`): standard deviation of the logarithms of positive factors.
        """
        same = self.identity
        order, factors = same.order, same.factors
        # large members first: what lies within them comes along
        for group in sorted(self.groups, key=lambda group: -group.shape[1]) if permute else ():
            order[group] = order[group[torch.randperm(len(group), generator=generator)]]
        if signs:
            drawn = torch.randint(2, (len(factors),), generator=generator) * 2.0 - 1
            factors = torch.where(self.signs, drawn.double(), factors)
        if scale:
            drawn = (scale * torch.randn(len(factors), generator=generator, dtype=torch.float64)).exp()
            factors = torch.where(self.scales, factors * drawn, factors)
        return Symmetry(order, factors)

    def apply(self, tensors: Mapping[str, Tensor], symmetry: Symmetry) -> dict[str, Tensor]:
        """The same network with its units in another order, and other factors.

        Args:
            tensors (`Mapping[str, Tensor]`): such as a state dict; what the graph does not know stays as it is.

        Raises:
            UserError: if one that the graph knows is missing, or has another shape than the module's had.
        """
        self.check(tensors)
        return self.changed(tensors, symmetry)

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Whether these are tensors of such a network, all that the graph knows.

        Raises:
            UserError: as [`apply`].
        """
        given = {self.aliases.get(name, name): tensor for name, tensor in tensors.items()}
        if missing := [name for name in self.tensors if name not in given]:
            raise UserError(
                f"{missing[0]} is missing ({len(missing)} of {len(self.tensors)} tensors are); there are "
                f"{listed(tensors)}."
            )
        for name, entries in self.tensors.items():
            if (shape := tuple(given[name].shape)) != entries.shape:
                raise UserError(f"{name} has shape {list(shape)}, the module's had {list(entries.shape)}.")

    def changed(self, tensors: Mapping[str, Tensor], symmetry: Symmetry) -> dict[str, Tensor]:
        """As [`apply`], of some of the network's tensors, which are taken to be such."""
        result = dict(tensors)
        for name, tensor in tensors.items():
            entries = self.tensors.get(self.aliases.get(name, name))
            if entries is not None:
                moved = entries.reordered(tensor, symmetry.order)
                result[name] = moved * entries.multipliers(symmetry.factors).to(tensor)
        return result

    @torch.no_grad()
    def _verified(self, module: nn.Module, inputs: Tensor) -> "WeightGraph":
        """Without what changes the function of the module with other weights."""
        generator = torch.Generator().manual_seed(0)
        state = {
            name: _stirred(name, tensor, generator) if tensor.is_floating_point() else tensor
            for name, tensor in module.state_dict().items()
        }
        state = {name: tensor for name, tensor in state.items() if name not in self.aliases}
        expected = outputs_of(module, state, inputs)
        largest = expected.abs().max()

        def holds(graph: "WeightGraph", permute: bool = False, signs: bool = False, scale: float = 0.0) -> bool:
            changed = (graph.apply(state, graph.random(generator, permute, signs, scale)) for _ in range(TRIALS))
            errors = ((outputs_of(module, other, inputs) - expected).abs().max() for other in changed)
            return all(error <= TOLERANCE * largest for error in errors)

        graph, notes = self, list(self.notes)
        if not holds(graph, permute=True):
            kept = [group for group in graph.groups if holds(replace(graph, groups=(group,)), permute=True)]
            lost = [group for group in graph.groups if not any(group is other for other in kept)]
            notes += [
                f"{len(g)} units of {graph._where(g)} change the function when they change places." for g in lost
            ]
            graph = replace(graph, groups=tuple(kept))
        if not holds(graph, signs=True):
            notes.append("units of other signs change the function; signs stay as they are.")
            graph = replace(graph, signs=torch.zeros_like(graph.signs))
        if not holds(graph, scale=0.3):
            notes.append("units of other scales change the function; scales stay as they are.")
            graph = replace(graph, scales=torch.zeros_like(graph.scales))
        return replace(graph, notes=tuple(notes))

    def _where(self, group: Tensor) -> str:
        """The first tensor of which a group's units are rows or columns."""
        unit = group[0, 0]
        sides = ((name, side) for name, entries in self.tensors.items() for side in entries.sides)
        return next((name for name, side in sides if (side.units == unit).any()), "nothing")


def _stirred(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Other weights of the same size: what is 0 or 1 everywhere would hide what it does."""
    noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
    if name.endswith("running_var"):
        return tensor * (noise / 2).exp()
    size = tensor.square().mean().sqrt() if tensor.numel() else tensor.new_zeros(())
    return tensor + 0.5 * (size if size > 0 else 0.2) * noise


def _aliases(module: nn.Module) -> dict[str, str]:
    """Names of tied parameters to the first of each."""
    first: dict[int, str] = {}
    names = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        known = first.setdefault(id(parameter), name)
        if known != name:
            names[name] = known
    return names


def _assembled(trace: Trace, aliases: dict[str, str]) -> WeightGraph:
    """From what the trace found: units numbered, groups of them, factors numbered."""
    groups = groups_of(trace)  # ties labels of parts
    known = sorted(indices_of(trace))
    number = torch.full((len(trace.units.roots),), -1)
    number[known] = torch.arange(len(known))
    exponents = {name: _exponents(trace, name, value) for name, value in trace.tensors.items()}
    may = _free(trace)
    used = [trace.factors.find(once(labels)).flatten() for pairs in exponents.values() for labels, _ in pairs]
    used = torch.cat([*used, torch.zeros(1, dtype=torch.int64)]).unique()
    used = used[(may["signs"] | may["scales"])[used] & (used > 0)]
    factor = torch.full((len(trace.factors.roots),), -1)
    factor[used] = torch.arange(len(used))
    tensors = {}
    for name, value in trace.tensors.items():
        sides = [side_of(number[units]) for units in coordinates(value, trace.units)]
        shape = tuple(value.shape)
        view = (shape[0], shape[1], math.prod(shape[2:])) if len(sides) > 1 else (math.prod(shape), 1, 1)
        at_first: Any = (slice(None), slice(None), *(0 for _ in shape[2:])) if len(sides) > 1 else (...,)
        factors = tuple(
            (factor[trace.factors.find(once(labels[at_first]))], exponent) for labels, exponent in exponents[name]
        )
        factors = tuple(
            (labels if len(sides) > 1 else labels.expand(shape).reshape(-1, 1), exponent)
            for labels, exponent in factors
            if (labels >= 0).any()
        )
        tensors[name] = TensorEntries(
            shape, view, sides[0], sides[1] if len(sides) > 1 else None, factors, name not in trace.statistics
        )
    return WeightGraph(
        tensors,
        tuple(number[torch.tensor(group)] for group in groups),
        may["signs"][used],
        may["scales"][used],
        len(known),
        aliases,
    )


def _exponents(trace: Trace, name: str, value: Value) -> list[tuple[Tensor, int]]:
    """Labels of the factors that a tensor's entries have, and whether they are multiplied or divided by them."""
    if isinstance(value, Matrix):
        reads = trace.inputs_of.get(name, set())
        if len(reads) != 1:  # never multiplied with, or in both directions
            trace.freeze(*value.sides())
        return [(side.factors, -1 if i in reads else 1) for i, side in enumerate(value.sides())]
    own, over = value.factors, torch.zeros_like(value.factors)
    sizes = torch.bincount(trace.factors.roots, minlength=len(trace.factors.roots))
    for entries, written, read in trace.ratios:
        is_own = torch.isin(own, entries)
        if not is_own.any():
            continue
        if (sizes[trace.factors.find(entries)] > 1).any():  # it has another use as well
            for labels in (entries, written, read):
                trace.factors.join(labels, 0)
            continue
        place = torch.full((len(trace.factors.roots),), -1)
        place[entries.flatten()] = torch.arange(entries.numel())
        at = place[own]
        over = torch.where(is_own, read.expand(entries.shape).flatten()[at], over)
        own = torch.where(is_own, written.expand(entries.shape).flatten()[at], own)
    return [(own, 1), (over, -1)]


def _free(trace: Trace) -> dict[str, Tensor]:
    """Which labels of factors may be negative, and which other than 1 and -1."""
    free = {}
    for kind, barred in (("signs", trace.unsigned), ("scales", trace.unscaled)):
        free[kind] = torch.ones(len(trace.factors.roots), dtype=torch.bool)
        free[kind][0] = False
        for labels in barred:
            free[kind][trace.factors.find(labels)] = False
    return free


__all__ = ["Symmetry", "WeightGraph"]
