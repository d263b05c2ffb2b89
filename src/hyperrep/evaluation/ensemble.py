"""What an ensemble is worth: accuracy, likelihood, calibration, and how much its members disagree."""

import torch
from torch import Tensor, nn

from .novelty import vote_accuracy


BINS = 15  # of confidence (Guo et al. 2017)


def ensemble_measures(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Measures of one ensemble.

    Args:
        probabilities (`Tensor`): (members, images, classes), softmax outputs.
        labels (`Tensor`): (images,)

    Returns:
        `dict[str, float]`: `vote_accuracy` (majority vote), and of the members' mean probability `mean_accuracy`,
        `negative_log_likelihood` (nats) and `calibration_error`; and `disagreement`, the share of images on which two
        members give different classes, on average over pairs (0 for a single member).
    """
    mean = probabilities.mean(dim=0)
    classes = probabilities.argmax(-1)
    members = len(probabilities)
    votes = nn.functional.one_hot(classes, probabilities.shape[-1]).sum(0).double()  # (images, classes)
    agreeing = (votes * (votes - 1)).sum(-1).mean() / max(members * (members - 1), 1)
    return {
        "vote_accuracy": vote_accuracy(classes, labels),
        "mean_accuracy": (mean.argmax(-1) == labels).double().mean().item(),
        "negative_log_likelihood": nn.functional.nll_loss(mean.clamp_min(1e-30).log(), labels).item(),
        "calibration_error": calibration_error(mean, labels),
        "disagreement": 1 - agreeing.item() if members > 1 else 0.0,
    }


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Expected calibration error (Guo et al. 2017, equation 3): the difference between confidence and accuracy in 15
    bins of confidence of equal width, weighted by their share of the images.

    Args:
        probabilities (`Tensor`): (images, classes)
        labels (`Tensor`): (images,)
    """
    confidence, classes = (values for values in probabilities.max(dim=-1))
    right = (classes == labels).double()
    bins = (confidence.double() * BINS).ceil().long().clamp(1, BINS) - 1  # (lower, upper]
    total = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, right - confidence.double())
    return (total.abs().sum() / len(labels)).item()
