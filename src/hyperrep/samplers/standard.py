"""What samplers share that train a network: standardised latents, some held out, and how samples compare with them."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import UserError
from .anchored import AnchoredSampler
from .base import Shapes, settings_class


SMALLEST_DEVIATION = 1e-6
FEWEST, HELD_OUT = 10, 0.1  # networks, and the share of them that is held out


@dataclass(frozen=True)
class Standardized:
    """Latents with mean 0 and standard deviation 1 in every dimension, in two parts.

    Attributes:
        train, held_out (`Tensor`): (rows, latent_size).
        train_rows, held_out_rows (`Tensor`): (rows,), which of the anchors they are.
        mean, deviation (`Tensor`): (latent_size,), of the training part.
    """

    train: Tensor
    held_out: Tensor
    train_rows: Tensor
    held_out_rows: Tensor
    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, anchors: Tensor, models: Tensor) -> "Standardized":
        """All checkpoints of a network are in one part: the last networks are held out.

        Raises:
            UserError: if there are fewer than [`FEWEST`] networks.
        """
        networks = models.unique()
        if len(networks) < FEWEST:
            raise UserError(f"latents of {len(networks)} networks are too few to train on: {FEWEST} are needed.")
        count = round(HELD_OUT * len(networks))
        held_out = torch.isin(models, networks[len(networks) - count :])
        train_rows, held_out_rows = (~held_out).nonzero().flatten(), held_out.nonzero().flatten()
        train = anchors[train_rows]
        mean, deviation = train.mean(dim=0), train.std(dim=0, correction=0).clamp_min(SMALLEST_DEVIATION)
        standard = (anchors - mean) / deviation
        return cls(standard[train_rows], standard[held_out_rows], train_rows, held_out_rows, mean, deviation)


@settings_class
class TrainedSampler(AnchoredSampler):
    """A density that is a network, trained for minutes on standardised latents of training networks."""

    tabled: ClassVar[bool] = False
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"top": None}, {"top": 0.3})
    state_shapes: ClassVar[Shapes] = {**AnchoredSampler.state_shapes, "mean": (None,), "deviation": (None,)}

    def _learned(self) -> dict[str, Tensor]:
        data = Standardized.of(self.anchors, self.models[self.chosen])
        return {"mean": data.mean, "deviation": data.deviation, **self._trained(data)}

    @abstractmethod
    def _trained(self, data: Standardized) -> dict[str, Tensor]:
        """The network's tensors."""

    def drawn_from(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.fitted().items() if name not in AnchoredSampler.state_shapes}


def dispersion(samples: Tensor, train: Tensor) -> float:
    """Total variance of samples over that of what they were learned from; 1 is wanted, less is collapse."""
    return float(samples.var(dim=0).sum() / train.var(dim=0).sum().clamp_min(1e-12))


def directions(samples: Tensor, train: Tensor) -> float:
    """In how many directions samples vary, over the same of as many of what they were learned from: participation
    ratios (sum of l)^2 / sum of l^2 of the eigenvalues l of their covariances. 1 is wanted; near 0, samples lie along
    a few lines, whatever their dispersion."""
    count = min(len(samples), len(train))

    def ratio(rows: Tensor) -> float:
        some = rows[torch.linspace(0, len(rows) - 1, count).long()].double()
        eigenvalues = torch.linalg.svdvals(some - some.mean(dim=0)).square()
        return float(eigenvalues.sum().square() / eigenvalues.square().sum().clamp_min(1e-12))

    return ratio(samples) / max(ratio(train), 1e-12)


def copying(samples: Tensor, train: Tensor, held_out: Tensor) -> float:
    """C_T of Meehan, Chaudhuri and Dasgupta (2020), in one cell: the z-score of a Mann-Whitney test that samples lie
    as far from their nearest training latent as held-out latents do. Far below 0 means copying, far above 0 that they
    lie elsewhere."""
    from scipy.stats import mannwhitneyu  # a second, that nobody who draws should wait

    near = torch.cdist(samples, train).amin(dim=1).double().numpy()
    expected = torch.cdist(held_out, train).amin(dim=1).double().numpy()
    m, n = len(near), len(expected)
    statistic = float(mannwhitneyu(near, expected).statistic)
    return (statistic - m * n / 2) / math.sqrt(m * n * (m + n + 1) / 12)
