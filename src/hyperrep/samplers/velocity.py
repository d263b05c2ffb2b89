"""The velocity field of a flow: a transformer over tokens, told time and accuracy through its layer norms (adaLN)."""

import math

import torch
from torch import Tensor, nn


NULL = -1.0  # instead of a quantile: none is asked for
HEAD_SIZE = 8  # sizes are multiples of it
FREQUENCIES = 32


class VelocityBlock(nn.Module):
    """Attention and a feed-forward layer, each shifted, scaled and gated by the condition; gates start at zero."""

    def __init__(self, size: int, heads: int):
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(size, 6 * size)
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.up, self.down = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, states: Tensor, condition: Tensor) -> Tensor:
        parts = self.modulation(nn.functional.silu(condition))[:, None].chunk(6, dim=-1)
        attention, feed_forward = parts[:3], parts[3:]
        states = states + attention[2] * self._attend(_modulated(states, *attention[:2]))
        hidden = nn.functional.gelu(self.up(_modulated(states, *feed_forward[:2])))
        return states + feed_forward[2] * self.down(hidden)

    def _attend(self, states: Tensor) -> Tensor:
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(states).chunk(3, dim=-1)
        )
        mixed = nn.functional.scaled_dot_product_attention(queries, keys, values)
        return self.out(mixed.transpose(1, 2).flatten(2))


class VelocityNetwork(nn.Module):
    """
    Args:
        num_tokens (`int`), token_size (`int`): of a latent.
        size (`int`): of the tokens inside, a multiple of 8.
        num_layers (`int`)
    """

    def __init__(self, num_tokens: int, token_size: int, size: int, num_layers: int):
        super().__init__()
        self.inputs, self.outputs = nn.Linear(token_size, size), nn.Linear(size, token_size)
        self.positions = nn.Parameter(0.02 * torch.randn(num_tokens, size))
        self.of_time, self.of_quantile = nn.Linear(2 * FREQUENCIES, size), nn.Linear(2 * FREQUENCIES, size)
        self.unasked = nn.Parameter(torch.zeros(size))
        heads = 4 if size % (4 * HEAD_SIZE) == 0 else 1
        self.blocks = nn.ModuleList(VelocityBlock(size, heads) for _ in range(num_layers))
        self.last = nn.Linear(size, 2 * size)
        for layer in (self.last, self.outputs):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, points: Tensor, times: Tensor, quantiles: Tensor) -> Tensor:
        """Velocities at points (batch, num_tokens, token_size), at times (batch,) from 0 (noise) to 1 (latents), for
        quantiles (batch,) from 0 to 1, or [`NULL`].

        The network adds to what is known before any training: the velocity between two standard Gaussians, which the
        noise is and standardised latents would be if their dimensions were independent.
        """
        asked = self.of_quantile(_waves(quantiles)).where((quantiles != NULL)[:, None], self.unasked)
        condition = self.of_time(_waves(times)) + asked
        states = self.inputs(points) + self.positions
        for block in self.blocks:
            states = block(states, condition)
        learned = self.outputs(_modulated(states, *self.last(nn.functional.silu(condition))[:, None].chunk(2, dim=-1)))
        return learned + ((2 * times - 1) / (times**2 + (1 - times) ** 2))[:, None, None] * points


def velocity_shapes(size: int, num_layers: int) -> dict[str, tuple[int | None, ...]]:
    """The tensors of a [`VelocityNetwork`]; how many tokens there are and how wide they are is left open."""
    with torch.device("meta"):
        tensors = VelocityNetwork(1, 1, size, num_layers).state_dict()
    shapes: dict[str, tuple[int | None, ...]] = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    shapes |= {"positions": (None, size), "inputs.weight": (size, None)}
    return shapes | {"outputs.weight": (None, size), "outputs.bias": (None,)}


def _modulated(states: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return nn.functional.layer_norm(states, states.shape[-1:]) * (1 + scale) + shift


def _waves(values: Tensor) -> Tensor:
    """Sines and cosines (batch, 2 * FREQUENCIES) of numbers from 0 to 1."""
    frequencies = torch.logspace(0, math.log10(1000), FREQUENCIES, device=values.device)
    angles = values[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
