"""Weight space: vectors of network weights, their layout, and the symmetries that keep a network's function."""

from .alignment import align
from .layout import Layer, WeightLayout
from .symmetry import permutation_indices, random_permutations


__all__ = ["Layer", "WeightLayout", "align", "permutation_indices", "random_permutations"]
