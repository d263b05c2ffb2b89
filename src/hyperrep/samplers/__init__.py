"""Densities over the latents of a zoo: fit, sample, save, load."""

from .base import SAMPLER_FOLDER, Sampler
from .kde import KDE_VARIANTS, KDESampler
from .loading import fit_sampler, load_sampler, refit
from .uniform import UniformSampler


__all__ = [
    "KDE_VARIANTS",
    "SAMPLER_FOLDER",
    "KDESampler",
    "Sampler",
    "UniformSampler",
    "fit_sampler",
    "load_sampler",
    "refit",
]
