"""Densities over the latents of a zoo: fit, sample, save, load. A file is a method; this folder's are found here."""

from importlib import import_module
from pkgutil import iter_modules

from .anchored import AnchoredSampler, fit_to_known, new_sampler, refit
from .base import CONFIG_NAME, SAMPLER_FOLDER, STATE_NAME, Sampler, sampler_classes, settings_class
from .kde import KDE_VARIANTS, KDESampler
from .uniform import UniformSampler


for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "CONFIG_NAME",
    "KDE_VARIANTS",
    "SAMPLER_FOLDER",
    "STATE_NAME",
    "AnchoredSampler",
    "KDESampler",
    "Sampler",
    "UniformSampler",
    "fit_to_known",
    "new_sampler",
    "refit",
    "sampler_classes",
    "settings_class",
]
