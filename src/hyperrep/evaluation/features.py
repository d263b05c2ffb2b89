"""What can be read off a network's weights: statistics, spectra, margins; numbers of each checkpoint."""

import math

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..images import ImageSplit
from ..population import Engine
from ..population.differentiable import population_logits
from ..weights import WeightLayout


PERCENTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
SMALLEST_TAIL = 3  # eigenvalues that a power law is fitted to, at least
LOGITS_AT_ONCE = 500  # checkpoints


def weight_statistics(weights: Tensor, layout: WeightLayout) -> Tensor:
    """Mean, variance and the percentiles 1, 25, 50, 75 and 99 of every layer's weights, and of its biases (Unterthiner
    et al. 2020; percentiles as in the code of arXiv 2110.15288, `use_bias`).

    Args:
        weights (`Tensor`): (checkpoints, num_params).
        layout ([`WeightLayout`])

    Returns:
        `Tensor`: (checkpoints, 7 * tensors).
    """
    parts = []
    for values in layout.unvectorize(weights).values():
        flat = values.flatten(1)
        at = torch.tensor(PERCENTILES, dtype=flat.dtype)
        parts += [flat.mean(1, keepdim=True), flat.var(1, correction=0, keepdim=True), flat.quantile(at, dim=1).T]
    return torch.cat(parts, dim=1)


def spectra(weights: Tensor, layout: WeightLayout) -> Tensor:
    """Of every layer's weight matrix (convolutions as outputs x inputs * height * width): logarithms of its spectral
    and Frobenius norms, stable rank, and exponent of a power law (Martin and Mahoney 2021).

    Layers this small have 4 to 20 eigenvalues: an exponent is a rough number here.

    Args:
        weights (`Tensor`): (checkpoints, num_params).
        layout ([`WeightLayout`])

    Returns:
        `Tensor`: (checkpoints, 4 * layers).
    """
    parts = []
    for values in layout.unvectorize(weights).values():
        if values.ndim < 3:  # a bias has no spectrum
            continue
        eigenvalues = torch.linalg.svdvals(values.flatten(2).double()).square().clamp_min(1e-30)
        largest, total = eigenvalues[:, 0], eigenvalues.sum(1)
        parts += [largest.log() / 2, total.log() / 2, total / largest, power_law_exponent(eigenvalues)]
    return torch.stack(parts, dim=1).to(weights.dtype)


def power_law_exponent(eigenvalues: Tensor) -> Tensor:
    """Exponent alpha of a density proportional to x^-alpha, fitted to the largest eigenvalues.

    As Clauset et al. (2009) do it: alpha = 1 + n / sum(log(x / x_min)) (maximum likelihood), where x_min is that
    eigenvalue from which on the Kolmogorov-Smirnov distance between tail and power law is smallest.

    Args:
        eigenvalues (`Tensor`): (..., count), positive.

    Returns:
        `Tensor`: (...,); 1 where there are too few eigenvalues.
    """
    ascending = eigenvalues.sort(dim=-1).values
    count = ascending.shape[-1]
    best = torch.full(ascending.shape[:-1], math.inf, dtype=ascending.dtype)
    alpha = torch.ones_like(best)
    for start in range(count - SMALLEST_TAIL + 1):
        ratio = (ascending[..., start:] / ascending[..., start : start + 1]).log()
        size = count - start
        exponent = size / ratio.sum(-1).clamp_min(1e-12)  # alpha - 1
        law = 1 - torch.exp(-exponent[..., None] * ratio)
        steps = torch.arange(size + 1, dtype=ascending.dtype) / size
        distance = torch.maximum((law - steps[:-1]).abs(), (law - steps[1:]).abs()).amax(-1)
        alpha = torch.where(distance < best, 1 + exponent, alpha)
        best = torch.minimum(best, distance)
    return alpha


def margins(network: PreTrainedConfig, weights: Tensor, images: ImageSplit, engine: Engine) -> Tensor:
    """Signature of the distribution of output margins on images: the quartiles, and the fences 1.5 times their
    distance beyond (Jiang et al. 2019, who also take hidden layers).

    A margin is the logit of the right class less the largest other one, over the deviation of all of the network's
    logits.

    Args:
        network (`PreTrainedConfig`)
        weights (`Tensor`): (checkpoints, num_params).
        images ([`ImageSplit`])
        engine ([`Engine`])

    Returns:
        `Tensor`: (checkpoints, 5).
    """
    parts = []
    for rows in weights.split(LOGITS_AT_ONCE):
        logits = population_logits(network, rows, images.pixels, engine)
        right = nn.functional.one_hot(images.labels, logits.shape[-1]).bool().expand_as(logits)
        own = logits[right].view(logits.shape[:2])
        margin = (own - logits.masked_fill(right, -math.inf).amax(-1)) / logits.flatten(1).std(1, keepdim=True)
        first, median, third = margin.quantile(torch.tensor([0.25, 0.5, 0.75]), dim=1)
        reach = 1.5 * (third - first)
        parts.append(torch.stack([first - reach, first, median, third, third + reach], dim=1))
    return torch.cat(parts)
