"""How new networks are, in what they get wrong and in their weights, held against the zoo's own networks."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..samplers.standard import copying, directions, dispersion
from ..zoo import ZooSplit
from .bench import Bench
from .novelty import error_similarity, expected_similarity, last_rows, nearest_similarity, vote_accuracy


FARNESS = (0.25, 0.5, 1.0, 2.0)  # at least so many times as far from training networks as these are from each other


@dataclass(frozen=True)
class Yardstick:
    """What a zoo's networks say of others.

    Weights are compared in canonical form: hidden units aligned to the representation's reference, where it has one.
    All checkpoints of a network count as that network.

    Args:
        bench ([`Bench`])
        below_mean (`float`): how far below the mean of the training networks' test accuracies a network is good.
    """

    bench: Bench
    below_mean: float

    @cached_property
    def bar(self) -> float:
        """The test accuracy from which on a network is good."""
        return float(self.bench.training.metrics["test_accuracy"].nanmean()) - self.below_mean

    @cached_property
    def training(self) -> Tensor:
        """Training checkpoints in canonical form, (checkpoints, num_params)."""
        return self.bench.model.processor.align(self.bench.training.weights)

    @cached_property
    def held_out(self) -> Tensor:
        """The last checkpoint of each held-out network in canonical form, (networks, num_params)."""
        return self.bench.model.processor.align(last_of_each(self.bench.held_out).weights)

    @cached_property
    def usual_distance(self) -> float:
        """Median distance of a training network, at its last checkpoint, to the nearest checkpoint of any other."""
        models = self.bench.training.model_id
        last = last_rows(models)
        distances = torch.cdist(self.training[last], self.training)
        distances[models[last][:, None] == models[None]] = torch.inf
        return float(distances.amin(dim=1).median())

    @cached_property
    def _of_any_accuracy(self) -> tuple[Tensor, Tensor]:
        """Of held-out checkpoints of all epochs: accuracy, and similarity to the nearest training network."""
        rows = self.bench.zoo["test"].within(torch.inf)
        tested = self.bench.tested(rows.weights, predictions=True)
        assert tested.predictions is not None
        labels = self.bench.images.test.labels
        return tested.accuracy, nearest_similarity(tested.predictions, self.bench.training_answers, labels)

    def of(self, weights: Tensor) -> dict[str, Tensor]:
        """Everything about networks (networks, num_params): one number a network, or one of all, (1,)."""
        labels, trained = self.bench.images.test.labels, self.bench.training_answers
        tested = self.bench.tested(weights, predictions=True)
        accuracy, answers = tested.accuracy, tested.predictions
        assert answers is not None
        similarity, nearest = error_similarity(answers, trained, labels).max(dim=1)
        canonical = self.bench.model.processor.align(weights)
        farness = torch.cdist(canonical, self.training).amin(dim=1) / self.usual_distance
        found = {
            "test_accuracy": accuracy,
            "distance_ratio": farness,
            "nearest_training_similarity": similarity,
            "excess_similarity": similarity - expected_similarity(answers, trained[nearest], labels),
            "nearest_sample_similarity": nearest_similarity(answers, None, labels),
            "ensemble_accuracy": torch.tensor([vote_accuracy(answers, labels)]),
        }
        accuracies, similarities = self._of_any_accuracy
        if len(accuracies):
            match = (accuracy[:, None] - accuracies[None]).abs().argmin(dim=1)
            found["similarity_above_held_out"] = similarity - similarities[match]
        for least in FARNESS:
            found[f"good_and_far_{least:g}"] = ((accuracy >= self.bar) & (farness >= least)).float()
        if len(weights) > 1:
            found["dispersion"] = torch.tensor([dispersion(canonical, self.training)])
            of_each = self.training[last_rows(self.bench.training.model_id)]
            found["directions"] = torch.tensor([directions(canonical, of_each)])
            if len(self.held_out):
                found["data_copying"] = torch.tensor([copying(canonical, self.training, self.held_out)])
        return {what: values for what, values in found.items() if len(values)}


def best_rows(rows: ZooSplit) -> Tensor:
    """Of each network its last checkpoint, the best by validation accuracy first, (networks,); where that is not known
    they come last."""
    last = last_rows(rows.model_id)
    scores = rows.metrics["validation_accuracy"][last].nan_to_num(-1.0)
    return last[scores.argsort(descending=True, stable=True)]


def last_of_each(rows: ZooSplit) -> ZooSplit:
    """The last checkpoint of each network."""
    return rows[last_rows(rows.model_id)]
