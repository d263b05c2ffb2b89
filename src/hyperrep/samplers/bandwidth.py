"""The width of a kernel, chosen by cross-validation."""

import math

import torch
from torch import Tensor


CANDIDATES = torch.logspace(-3, 0, 16).tolist()
FOLDS = 5
MOST_GROUPS = 64  # that are looked at; there may be thousands


@torch.no_grad()
def cross_validated(points: Tensor, groups: Tensor, models: Tensor) -> float:
    """The bandwidth under which held-out points are likeliest, of a density that is a product over groups of
    dimensions, each a Gaussian kernel density of its own.

    All checkpoints of a network are held out together: they are nearly alike, and a density that has seen one of them
    would be chosen as narrow as they are close.

    Args:
        points (`Tensor`): (rows, width).
        groups (`Tensor`): (width,), from 0: the group of each dimension.
        models (`Tensor`): (rows,), of which network each point is a checkpoint.

    Returns:
        `float`: one of [`CANDIDATES`]; the smallest where there is a single network.
    """
    networks = models.unique()
    if len(networks) < 2:
        return CANDIDATES[0]
    folds = [torch.isin(models, part) for part in networks.tensor_split(FOLDS) if len(part)]
    number = int(groups.max()) + 1
    likelihood = torch.zeros(len(CANDIDATES), dtype=torch.float64)
    for group in torch.linspace(0, number - 1, min(number, MOST_GROUPS)).long().unique():
        part = points[:, groups == group].double()
        squares = torch.cdist(part, part).square()
        for held_out in folds:
            distances = squares[held_out][:, ~held_out]
            for i, width in enumerate(CANDIDATES):
                kernels = -distances / (2 * width**2)
                likelihood[i] += kernels.logsumexp(dim=1).sum() - len(distances) * part.shape[1] * math.log(width)
    return CANDIDATES[int(likelihood.argmax())]
