"""Between tokens and the states of a transformer: linear maps, and what tells tokens where they are."""

import torch
from torch import Tensor, nn

from .configuration_hyperrep import PLACE_FEATURES, HyperRepConfig


LONGEST = 1e5  # wavelength, in tokens


class HyperRepTokenEmbeddings(nn.Module):
    """Neuron tokens, one tensor a layer (batch, num_units, token_size), to (batch, num_tokens, hidden_size). All units
    of a layer share one linear map, and so do all tokens where they have one width."""

    def __init__(self, config: HyperRepConfig):
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(size, config.hidden_size) for _, size in config.token_groups)

    def forward(self, tokens: list[Tensor]) -> Tensor:
        return torch.cat([project(units) for project, units in zip(self.projections, tokens, strict=True)], dim=1)


class HyperRepTokenOutputs(nn.Module):
    """States (batch, num_tokens, hidden_size) back to neuron tokens, one tensor a layer."""

    def __init__(self, config: HyperRepConfig):
        super().__init__()
        self.num_units = [count for count, _ in config.token_groups]
        self.projections = nn.ModuleList(nn.Linear(config.hidden_size, size) for _, size in config.token_groups)

    def forward(self, hidden_states: Tensor) -> list[Tensor]:
        one_width = len(self.num_units) == 1  # of which there may be a window only
        layers = [hidden_states] if one_width else hidden_states.split(self.num_units, dim=1)
        return [project(units) for project, units in zip(self.projections, layers, strict=True)]


class HyperRepPositions(nn.Embedding):
    """Adds to each of the tokens (batch, tokens, hidden_size) the embedding of its place."""

    def forward(self, hidden_states: Tensor, places: Tensor | None = None) -> Tensor:
        # under autocast tokens are bf16 from here on
        return hidden_states + self.weight.to(hidden_states.dtype)


class HyperRepPlaceEmbeddings(nn.Module):
    """Adds to each token of windows (batch, window, hidden_size) an embedding of its `places` (batch, window, 3),
    int64: its place in the network, its layer, its place in the layer. It is a linear map of their sines and cosines,
    so that there is no longest network."""

    def __init__(self, config: HyperRepConfig):
        super().__init__()
        self.projection = nn.Linear(3 * 2 * PLACE_FEATURES, config.hidden_size)

    def forward(self, hidden_states: Tensor, places: Tensor) -> Tensor:
        device = hidden_states.device
        frequencies = LONGEST ** -torch.linspace(0, 1, PLACE_FEATURES, device=device)
        angles = places.to(device).float()[..., None] * frequencies  # (batch, window, 3, features)
        features = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(2)
        return hidden_states + self.projection(features.to(self.projection.weight.dtype))


def positions_of(config: HyperRepConfig, tokens: int) -> nn.Module:
    """What tells tokens where they are: learned for each place, or, of windows, computed from it."""
    return (
        HyperRepPositions(tokens, config.hidden_size) if config.token_size is None else HyperRepPlaceEmbeddings(config)
    )


__all__ = [
    "HyperRepPlaceEmbeddings",
    "HyperRepPositions",
    "HyperRepTokenEmbeddings",
    "HyperRepTokenOutputs",
    "positions_of",
]
