"""Networks of any size as sequences of tokens of one width, read through windows (SANE, arXiv 2406.09997).

Units are cut into tokens of `token_size` numbers, the last of each filled up with zeros. A transformer sees a window
of them at a time, so that what it needs does not grow with the network; where a whole network is encoded or decoded,
windows overlap, and of each only the middle is kept (haloing): no token is read without its neighbours.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .configuration_hyperrep import HyperRepConfig


WINDOWS_AT_ONCE = 16


def cut(units: Sequence[Tensor], token_size: int) -> Tensor:
    """Neuron tokens, one tensor a layer (batch, num_units, size), as tokens of one width, in the same order.

    Returns:
        `Tensor`: (batch, num_tokens, token_size).
    """
    tokens = []
    for layer in units:
        pieces = math.ceil(layer.shape[2] / token_size)
        padded = nn.functional.pad(layer, (0, pieces * token_size - layer.shape[2]))
        tokens.append(padded.unflatten(2, (pieces, token_size)).flatten(1, 2))
    return torch.cat(tokens, dim=1)


def joined(tokens: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """What [`cut`] did, undone; `shapes` are units and size of each layer."""
    token_size = tokens.shape[2]
    pieces = [math.ceil(size / token_size) for _, size in shapes]
    layers = tokens.split([units * count for (units, _), count in zip(shapes, pieces, strict=True)], dim=1)
    return [
        layer.unflatten(1, (units, -1)).flatten(2)[:, :, :size]
        for layer, (units, size) in zip(layers, shapes, strict=True)
    ]


def places_of(config: HyperRepConfig) -> Tensor:
    """(num_tokens, 3), int64, on the CPU: each token's place in the network, its layer, its place in that layer."""
    counts = torch.tensor([count for _, count in config.tokens_per_layer], device="cpu")
    of_layer = torch.arange(len(counts), device="cpu").repeat_interleave(counts)
    place = torch.arange(len(of_layer), device="cpu")
    return torch.stack([place, of_layer, place - (counts.cumsum(0) - counts)[of_layer]], dim=1)


def in_windows(
    function: Callable[[Tensor, Tensor], Tensor], rows: Tensor, places: Tensor, window: int, halo: int
) -> Tensor:
    """Apply a function to a sequence, window by window.

    Args:
        function: of windows (windows, window, width) and their places (windows, window, 3), to (windows, window, any).
        rows (`Tensor`): (batch, tokens, width).
        places (`Tensor`): (tokens, 3), see [`places_of`].
        window (`int`): its length; what `function` sees is shorter only if the sequence is.
        halo (`int`): tokens at each end of a window that only help with the others, but at the ends of the sequence.

    Returns:
        `Tensor`: (batch, tokens, any).
    """
    length = rows.shape[1]
    window, step = min(window, length), max(1, window - 2 * halo)
    kept = torch.arange(0, length, step)  # where the middle of each window begins
    starts = (kept - halo).clamp(0, length - window)
    results = []
    for network in rows:
        parts = []
        for middles, begins in zip(kept.split(WINDOWS_AT_ONCE), starts.split(WINDOWS_AT_ONCE), strict=True):
            index = begins[:, None] + torch.arange(window)
            found = function(network[index.to(network.device)], places[index])
            for part, middle, begin in zip(found, middles.tolist(), begins.tolist(), strict=True):
                parts.append(part[middle - begin : min(middle + step, length) - begin])
        results.append(torch.cat(parts))
    return torch.stack(results)


__all__ = ["cut", "in_windows", "joined", "places_of"]
