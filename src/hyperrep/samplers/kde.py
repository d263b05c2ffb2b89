"""Kernel density estimation over latents (paper, S_KDE)."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .base import Sampler, settings_class


KDE_VARIANTS = ("independent", "joint", "as_released")
LARGEST_BANDWIDTH = 10


@settings_class
class KDESampler(Sampler):
    r"""
    A Gaussian kernel density, by scikit-learn, in one of three variants.

    - `independent`: a density for each latent dimension, drawn from independently, as the paper's text says. Samples
      combine dimensions of different training models, so they are new.
    - `joint`: one density over whole latents: a training latent plus noise, independent in every dimension.
    - `as_released`: a density for each dimension, but all drawn with one random state, as the paper's published code
      does. Every dimension then picks the same training model and the same noise: a sample is a training latent plus
      one tiny offset, shared by all dimensions. For comparison only.

    Args:
        variant (`str`, *optional*, defaults to `"independent"`)
        bandwidth (`float`, *optional*, defaults to 0.002): standard deviation of the kernel; the paper's code has
            0.002.
        top, score: see [`Sampler`].
    """

    method: ClassVar[str] = "kde"

    variant: str = "independent"
    bandwidth: float | int = 0.002
    top: float | int | None = 0.3
    score: str = "validation_accuracy"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in KDE_VARIANTS:
            raise UserError(f"variant {self.variant!r} is unknown; choose from {', '.join(KDE_VARIANTS)}.")
        if not 0 < self.bandwidth <= LARGEST_BANDWIDTH:
            raise UserError(
                f"bandwidth is {self.bandwidth}; it must be positive, and at most {LARGEST_BANDWIDTH}: latents lie "
                "between -1 and 1."
            )

    def _sample(self, num_samples: int, generator: torch.Generator | None) -> Tensor:
        anchors = self.anchors.double().numpy()
        dimensions = anchors.shape[1]
        # scikit-learn takes integers: one for each density that is drawn from on its own
        states = torch.randint(2**31 - 1, (dimensions,), generator=generator).tolist()
        if self.variant == "joint":
            drawn = self._draw(anchors, num_samples, states[0])
        else:
            if self.variant == "as_released":
                states = states[:1] * dimensions
            columns = [self._draw(anchors[:, [i]], num_samples, states[i]) for i in range(dimensions)]
            drawn = np.concatenate(columns, axis=1)
        return torch.from_numpy(drawn).float()

    def _draw(self, points: np.ndarray, num_samples: int, random_state: int) -> np.ndarray:
        from sklearn.neighbors import KernelDensity

        density = KernelDensity(kernel="gaussian", bandwidth=self.bandwidth).fit(points)
        return density.sample(num_samples, random_state=random_state)
