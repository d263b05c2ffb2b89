"""Networks that nobody generated, which generated ones are held against: the zoo's own, and their reconstructions."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..results import ResultRow
from ..zoo import Zoo
from .bench import Bench
from .novelty import last_rows, nearest_similarity, vote_accuracy


def trained_from_scratch(zoo: Zoo, fields: dict[str, Any]) -> Iterator[ResultRow]:
    """B_T: a zoo's test split, which was trained from scratch already; every model counts, none is filtered out."""
    fields = fields | {"settings": fields["settings"] | {"epochs_seen": None, "weight_threshold": None}}
    for epoch, accuracies in scratch_accuracies(zoo).items():
        values = torch.tensor(accuracies, dtype=torch.float64)
        yield ResultRow.of(values, what="test_accuracy", method="B_T", variant="", epoch=epoch, seconds=0.0, **fields)


def scratch_accuracies(zoo: Zoo) -> dict[int, list[float]]:
    """Test accuracies (networks,) of the zoo's test split, by epoch."""
    test = zoo["test"]
    accuracy = test.metrics["test_accuracy"]
    return {epoch: accuracy[test.epoch == epoch].tolist() for epoch in sorted(set(test.epoch.tolist()))}


def reconstructions(bench: Bench, fields: dict[str, Any]) -> Iterator[ResultRow]:
    """Accuracy of the zoo's checkpoints and of their reconstructions, training models and held-out ones.

    Raises:
        UserError: if a reconstruction is not finite.
    """
    for name, rows in (("training models", bench.training), ("held-out models", bench.held_out)):
        start = time.perf_counter()
        accuracy = bench.tested(_finite(bench.reconstructed(rows.weights), name)).accuracy
        originals = rows.metrics["test_accuracy"]
        for method, values in (("zoo", originals), ("reconstructed", accuracy)):
            seconds = time.perf_counter() - start
            yield ResultRow.of(
                values, what="test_accuracy", method=method, variant=name, epoch=0, seconds=seconds, **fields
            )


def best_of_the_zoo(bench: Bench, top: float, fields: dict[str, Any]) -> Iterator[ResultRow]:
    """How alike the best training models are, one checkpoint each, and their vote: what samples are held against."""
    training, labels = bench.training, bench.images.test.labels
    scores = training.metrics["validation_accuracy"]
    chosen = (scores >= torch.nanquantile(scores, 1 - top)).nonzero().flatten()  # False for NaN
    chosen = chosen[last_rows(training.model_id[chosen])]
    answers = bench.training_answers[chosen]
    fields = fields | {"method": "zoo", "variant": "best training models", "epoch": 0, "seconds": 0.0}
    fields |= {"settings": fields["settings"] | {"top": top}}
    similarity = nearest_similarity(answers, None, labels)
    if len(similarity):
        yield ResultRow.of(similarity, what="nearest_sample_similarity", **fields)
    vote = torch.tensor([vote_accuracy(answers, labels)])
    yield replace(ResultRow.of(vote, what="ensemble_accuracy", **fields), n=len(chosen))


def _finite(weights: Tensor, name: str) -> Tensor:
    broken = int((~torch.isfinite(weights).all(dim=1)).sum())
    if broken:
        raise UserError(
            f"{broken} of {len(weights)} decoded networks (reconstructed {name}) hold NaN or infinite weights; the "
            "representation cannot be evaluated."
        )
    return weights


__all__ = ["best_of_the_zoo", "reconstructions", "scratch_accuracies", "trained_from_scratch"]
