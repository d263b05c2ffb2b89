"""Weight space: vectors of network weights, their layout, and the symmetries that keep a network's function."""

from .layout import Layer, WeightLayout
from .symmetry import permutation_indices, random_permutations, verify_symmetry
from .transplant import transplant


__all__ = ["Layer", "WeightLayout", "permutation_indices", "random_permutations", "transplant", "verify_symmetry"]
