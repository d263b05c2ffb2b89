"""Is a generated network a copy? Two networks are as similar as the sets of images they get wrong."""

import torch
from torch import Tensor

from .bench import Bench


def error_similarity(predictions: Tensor, others: Tensor, labels: Tensor) -> Tensor:
    """Intersection over union of the images that two networks misclassify (arXiv 2506.07998).

    Args:
        predictions (`Tensor`): (models, images), predicted classes.
        others (`Tensor`): (other_models, images)
        labels (`Tensor`): (images,)

    Returns:
        `Tensor`: (models, other_models), 0 (no common error) to 1 (the same errors); 1 if neither errs.
    """
    wrong, other_wrong = ((p != labels).float() for p in (predictions, others))
    common = wrong @ other_wrong.T
    union = wrong.sum(1, keepdim=True) + other_wrong.sum(1) - common
    return torch.where(union > 0, common / union.clamp(min=1), 1.0)


def expected_similarity(predictions: Tensor, others: Tensor, labels: Tensor) -> Tensor:
    """What [`error_similarity`] would be, row by row, if both erred as often as they do, but independently: two bad
    networks have many errors in common.

    Args:
        predictions, others (`Tensor`): (models, images), predicted classes.
        labels (`Tensor`): (images,)

    Returns:
        `Tensor`: (models,); 1 if neither errs.
    """
    rates, other_rates = ((p != labels).float().mean(dim=1) for p in (predictions, others))
    common = rates * other_rates
    union = rates + other_rates - common
    return torch.where(union > 0, common / union.clamp(min=1e-12), 1.0)


def nearest_similarity(predictions: Tensor, others: Tensor | None, labels: Tensor) -> Tensor:
    """Similarity of each network to its most similar one among `others`, or, if `None`, among its own population.

    Returns:
        `Tensor`: (models,); 1 minus it is the network's novelty. Empty where there is none to compare with: `others`
        has no row, or the population is a single network.
    """
    if (len(predictions) < 2) if others is None else (not len(others)):
        return torch.empty(0)
    if others is not None:
        return error_similarity(predictions, others, labels).max(dim=1).values
    similarity = error_similarity(predictions, predictions, labels)
    return similarity.fill_diagonal_(-1.0).max(dim=1).values


def nearest_other_similarity(
    predictions: Tensor, models: Tensor, others: Tensor, other_models: Tensor, labels: Tensor
) -> Tensor:
    """Similarity of each checkpoint to its most similar one among those of other networks.

    Args:
        predictions (`Tensor`): (checkpoints, images), predicted classes.
        models (`Tensor`): (checkpoints,), which network each is of.
        others, other_models (`Tensor`): the same of those it is held against.
        labels (`Tensor`): (images,)

    Returns:
        `Tensor`: (checkpoints,); empty where all are of one network.
    """
    same = models[:, None] == other_models[None]
    if same.all():
        return torch.empty(0)
    return error_similarity(predictions, others, labels).masked_fill(same, -1.0).max(dim=1).values


def last_rows(models: Tensor) -> Tensor:
    """Of networks' checkpoints (rows,), the last row of each network, (networks,), in the order of their numbers."""
    return torch.stack([(models == model).nonzero().flatten()[-1] for model in models.unique()])


def vote_accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Accuracy (0 to 1) of the networks' majority vote; of classes with equally many votes, the first.

    Args:
        predictions (`Tensor`): (models, images), predicted classes.
        labels (`Tensor`): (images,)
    """
    return (predictions.mode(dim=0).values == labels).float().mean().item()


def similarities(bench: Bench, answers: Tensor) -> dict[str, dict[int, Tensor]]:
    """How alike networks are before any training, to training networks and to one another, and what their vote is.

    Args:
        bench ([`Bench`])
        answers (`Tensor`): (networks, images), the classes that they give the test images.
    """
    labels = bench.images.test.labels
    found = {
        "nearest_training_similarity": nearest_similarity(answers, bench.training_answers, labels),
        "nearest_sample_similarity": nearest_similarity(answers, None, labels),  # none of a single network
        "ensemble_accuracy": torch.tensor([vote_accuracy(answers, labels)]),
    }
    return {what: {0: values} for what, values in found.items() if len(values)}
