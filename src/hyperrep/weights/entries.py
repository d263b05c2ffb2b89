"""Where the entries of a tensor go when a network's units change places, and what they are multiplied by."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Side:
    """To which unit each index of one of a tensor's axes belongs.

    Attributes:
        units (`Tensor`): (n,) of the first axis; (1 or first axis, n) of the second, whose units depend on the row in
            grouped convolutions. -1 is an index that stays.
        places (`Tensor`): the how-many-th index of its unit each is: a unit that was flattened has many.
    """

    units: Tensor
    places: Tensor

    @cached_property
    def codes(self) -> Tensor:
        """Another for each unit and place, -1 for what stays."""
        return self._coded(self.units)

    def moved(self, order: Tensor) -> Tensor:
        """Codes of what comes to each index, if unit `order[i]` comes to the place of unit i."""
        order = torch.cat([order, order.new_zeros(1)])  # for units that stay, of which there may be nothing else
        return self._coded(order[self.units])

    def sources(self, order: Tensor) -> Tensor:
        """Indices from which those of the reordered axis come, row by row."""
        (codes, by_code), wanted = self._by_code, self.moved(order)
        found = by_code.gather(-1, torch.searchsorted(codes, wanted).clamp(max=codes.shape[-1] - 1))
        return torch.where(self.units < 0, torch.arange(codes.shape[-1]), found)

    @cached_property
    def _by_code(self) -> tuple[Tensor, Tensor]:
        codes, by_code = self.codes.sort(dim=-1, stable=True)
        return codes, by_code

    def _coded(self, units: Tensor) -> Tensor:
        return torch.where(self.units < 0, -1, units * (int(self.places.max()) + 1) + self.places)


@dataclass(frozen=True)
class TensorEntries:
    """Units and factors of one tensor, seen as (first axis, second axis, rest); a tensor that is no matrix is its
    entries alone.

    Attributes:
        shape (`tuple`): as it is stored.
        view (`tuple[int, int, int]`): as it is seen here.
        first, second ([`Side`]): `second` is `None` where there is but one.
        factors (`tuple`): pairs of indices of factors, which broadcast to the view's first two axes (-1 where there is
            none), and the exponent they come with, 1 or -1.
        is_parameter (`bool`): not running statistics.
    """

    shape: tuple[int, ...]
    view: tuple[int, int, int]
    first: Side
    second: Side | None
    factors: tuple[tuple[Tensor, int], ...]
    is_parameter: bool

    @property
    def sides(self) -> list[Side]:
        return [self.first] if self.second is None else [self.first, self.second]

    def reordered(self, tensor: Tensor, order: Tensor) -> Tensor:
        """The tensor, with unit `order[i]` in the place of unit i."""
        rows = self.first.sources(order)
        entries = tensor.reshape(self.view)[rows.to(tensor.device)]
        if self.second is None:
            return entries.reshape(self.shape)
        if len(self.second.units) == 1:
            return entries[:, self.second.sources(order)[0].to(tensor.device)].reshape(self.shape)
        # each group of a convolution has channels of its own: those of the row that comes here are looked up
        codes, by_code = self.second.codes[rows].sort(dim=1)
        columns = torch.searchsorted(codes, self.second.moved(order)).clamp(max=codes.shape[1] - 1)
        columns = by_code.gather(1, columns)
        return entries.gather(1, columns[..., None].expand(self.view).to(tensor.device)).reshape(self.shape)

    def is_touched(self, units: Tensor, factors: Tensor) -> bool:
        """Whether any of these units (units,), bool, or factors (factors,), bool, is here."""
        units, factors = (torch.cat([part, part.new_zeros(1)]) for part in (units, factors))
        return any(units[side.units].any() for side in self.sides) or any(
            factors[own].any() for own, _ in self.factors
        )

    def multipliers(self, values: Tensor) -> Tensor:
        """What each entry is multiplied by, in the tensor's shape, if factor i is `values[i]`."""
        padded = torch.cat([values, values.new_ones(1)])
        result = values.new_ones(self.view[:2])
        for factors, exponent in self.factors:
            result = result * padded[factors] ** exponent
        return result[..., None].expand(self.view).reshape(self.shape)


def side_of(units: Tensor) -> Side:
    """With the how-many-th of its unit each index is, row by row."""
    rows = units if units.ndim > 1 else units[None]
    sorted_units, by_unit = rows.sort(dim=1, stable=True)
    starts = torch.searchsorted(sorted_units, sorted_units)
    ranks = torch.arange(rows.shape[1]) - starts
    return Side(units, torch.empty_like(rows).scatter(1, by_unit, ranks).reshape(units.shape))


__all__ = ["Side", "TensorEntries", "side_of"]
