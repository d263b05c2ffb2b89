"""Views of weight vectors for training: permutation, random erasing, noise. Whole batches at once, on their device.

NeurIPS 2022 code: permutation of hidden units, which keeps the function, then erasing, independently for each view.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError
from .graph import WeightGraph
from .layout import WeightLayout
from .symmetry import random_permutations


ERASE_ATTEMPTS = 10  # draws of a block before a vector stays whole


@dataclass(frozen=True)
class Augmentation:
    """How a view is made of a weight vector; the defaults are the published ones.

    Attributes:
        permute (`bool`): reorder hidden units, at random.
        erase_prob (`float`): share of vectors in which a block is set to zero.
        erase_scale (`tuple[float, float]`): range of the block's length, as a share of the vector.
        additive_noise (`float`): standard deviation of Gaussian noise that is added.
        multiplicative_noise (`float`): standard deviation around 1 of Gaussian noise that is multiplied.

    Raises:
        UserError: if a value lies outside its range.
    """

    permute: bool = True
    erase_prob: float = 0.5
    erase_scale: tuple[float, float] = (0.02, 0.33)
    additive_noise: float = 0.0
    multiplicative_noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.erase_prob <= 1:
            raise UserError(f"erase_prob is {self.erase_prob}; it must lie in [0, 1].")
        low, high = self.erase_scale
        if not 0 <= low <= high <= 1:
            raise UserError(f"erase_scale is {list(self.erase_scale)}; it must be two rising shares in [0, 1].")
        if self.additive_noise < 0 or self.multiplicative_noise < 0:
            raise UserError("additive_noise and multiplicative_noise must not be negative.")


def augment(weights: Tensor, layout: WeightLayout, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """One view of each weight vector: [`permute`] if asked for, then [`corrupt`].

    Args:
        weights (`Tensor`): (batch, num_params).
        layout ([`WeightLayout`]): of the networks.
        settings ([`Augmentation`])
        generator (`torch.Generator`): on the weights' device.

    Returns:
        `Tensor`: (batch, num_params), new.
    """
    if settings.permute:
        weights = permute(weights, layout, generator)
    return corrupt(weights, settings, generator)


def permute(
    weights: Tensor, layout: WeightLayout, generator: torch.Generator, graph: WeightGraph | None = None
) -> Tensor:
    """Reorder the hidden units of each network at random; its function stays the same.

    Args:
        weights (`Tensor`): (batch, num_params).
        layout ([`WeightLayout`]), generator (`torch.Generator`): as in [`augment`].
        graph ([`WeightGraph`], *optional*): of their architecture: its groups of units and, where it has such, their
            signs. Without, layers are taken to form a chain, which is quicker: a network at a time takes milliseconds.
    """
    if graph is None:
        return weights.gather(1, random_permutations(layout, len(weights), generator, weights.device))
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    draw = torch.Generator().manual_seed(seed)
    rows = [graph.changed(layout.unvectorize(row), graph.random(draw)) for row in weights]
    return torch.stack([layout.vectorize(tensors) for tensors in rows])


def corrupt(weights: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Noise and random erasing: the part of an augmentation that changes the networks' function."""
    batch, num_params = weights.shape
    if settings.multiplicative_noise:
        noise = torch.randn(batch, num_params, generator=generator, device=weights.device)
        weights = weights * (1 + settings.multiplicative_noise * noise)
    if settings.additive_noise:
        noise = torch.randn(batch, num_params, generator=generator, device=weights.device)
        weights = weights + settings.additive_noise * noise
    if settings.erase_prob:
        weights = weights.masked_fill(erased_blocks(batch, num_params, settings, generator), 0.0)
    return weights


def erased_blocks(batch: int, num_params: int, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Which entries random erasing sets to zero.

    Length and start of a block are uniform; both are drawn again, up to ten times, while the block does not fit into
    the vector, as in the NeurIPS 2022 code. (Blocks near the end are therefore rarer.)

    Returns:
        `Tensor`: (batch, num_params), bool.
    """
    device = generator.device
    low, high = settings.erase_scale
    share = low + (high - low) * torch.rand(batch, ERASE_ATTEMPTS, generator=generator, device=device)
    length = (share * num_params).long()
    start = torch.randint(num_params, (batch, ERASE_ATTEMPTS), generator=generator, device=device)
    fits = start + length < num_params  # (batch, attempts)
    first = fits.int().argmax(dim=1, keepdim=True)  # the first attempt that fits
    start, length = start.gather(1, first), length.gather(1, first)  # (batch, 1)
    drawn = torch.rand(batch, 1, generator=generator, device=device) < settings.erase_prob
    chosen = drawn & fits.any(dim=1, keepdim=True)
    position = torch.arange(num_params, device=device)
    return chosen & (position >= start) & (position < start + length)


__all__ = ["Augmentation", "augment", "corrupt", "permute"]
