"""Weight space: vectors of network weights, their layout, and the symmetries that keep a network's function."""

from .graph import Symmetry, WeightGraph
from .layout import Layer, WeightLayout, running_statistics
from .matching import match
from .symmetry import permutation_indices, random_permutations, verify_symmetry
from .transplant import transplant


__all__ = [
    "Layer",
    "Symmetry",
    "WeightGraph",
    "WeightLayout",
    "match",
    "permutation_indices",
    "random_permutations",
    "running_statistics",
    "transplant",
    "verify_symmetry",
]
