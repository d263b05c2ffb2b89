"""The width of a kernel, chosen by cross-validation."""

import math

import torch
from torch import Tensor


CANDIDATES = torch.logspace(-3, 0, 16).tolist()
FOLDS = 5
MOST_GROUPS = 64  # that are looked at; there may be thousands


@torch.no_grad()
def cross_validated(points: Tensor, groups: Tensor) -> float:
    """The bandwidth under which held-out points are likeliest, of a density that is a product over groups of
    dimensions, each a Gaussian kernel density of its own.

    Rows are cut into [`FOLDS`] runs, not shuffled: checkpoints of one model, which are nearly alike, stand beside one
    another in a zoo, and a density that has seen one of them would be chosen as narrow as they are close.

    Args:
        points (`Tensor`): (rows, width).
        groups (`Tensor`): (width,), from 0: the group of each dimension.

    Returns:
        `float`: one of [`CANDIDATES`]; the smallest where there is a single row.
    """
    if len(points) < 2:
        return CANDIDATES[0]
    folds = [fold for fold in torch.arange(len(points)).tensor_split(FOLDS) if len(fold)]
    number = int(groups.max()) + 1
    likelihood = torch.zeros(len(CANDIDATES), dtype=torch.float64)
    for group in torch.linspace(0, number - 1, min(number, MOST_GROUPS)).long().unique():
        part = points[:, groups == group].double()
        squares = torch.cdist(part, part).square()
        for held_out in folds:
            others = torch.ones(len(part), dtype=torch.bool)
            others[held_out] = False
            distances = squares[held_out][:, others]
            for i, width in enumerate(CANDIDATES):
                kernels = -distances / (2 * width**2)
                likelihood[i] += kernels.logsumexp(dim=1).sum() - len(held_out) * part.shape[1] * math.log(width)
    return CANDIDATES[int(likelihood.argmax())]
