"""Does a generator remember its training networks more than noise does? The comparison of arXiv 2506.07998."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...results import Quantity, ResultRow
from ...samplers import fit_to_known, new_sampler, settings_class
from ..bench import Bench
from ..experiment import Experiment, Measured, check_least, measured, setting
from ..novelty import nearest_other_similarity, nearest_similarity
from ..plots import plot_against
from ..populations import Population, check_memory, draw_populations, planned
from ..progress import Progress
from ..yardstick import best_rows, last_of_each


LADDER = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0)  # of noise, in deviations of a layer's weights
AS_GOOD = 0.02  # accuracies that differ by less are equal


@settings_class
class Memorisation(Experiment):
    """Accuracy against the largest similarity to a training network, before any training: of samples, of training
    networks plus noise of several scales, of averages, and of Gaussians over weights; two networks are as similar as
    the sets of test images they get wrong.

    Beside them stand training networks (each held against the others alone), their reconstructions, and held-out ones.
    A bad network is like no other, so similarity says little without accuracy: the last two tables hold each network
    against noisy training networks (0.05 to 1 deviations of a layer's weights) that are as good, within 2 points.
    Above 0, a generator remembers more than noise does.
    """

    name: ClassVar[str] = "memorisation"
    title: ClassVar[str] = "Memorisation"
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "similarity_above_noise": Quantity(
            "Similarity to the nearest training network beyond that of noise copies as good, %", of_all=True
        ),
        "as_good_as_noise": Quantity("Networks that some noise copy is as good as, %", of_all=True),
    }

    num_models: int = setting(100, "Networks in each population.")
    top: float | int = setting(0.3, "Share of the best training models the densities are fitted to.")
    bandwidth: float | int = setting(0.002, "Of the kernel densities.")
    methods: tuple[str, ...] = setting(
        ("kde", "gaussian", "noise", "average"), "Draw by these, such as kde-joint or flow; may come several times."
    )
    seed: int = setting(0, "Of sampling.")

    def __post_init__(self) -> None:
        check_least(self, num_models=1, seed=0)
        self.draws = planned(self.methods, top=self.top, bandwidth=self.bandwidth)

    def rows(self, bench: Bench, progress: Progress | None = None) -> Iterator[ResultRow]:
        check_memory(bench, self.draws, self.num_models)
        fields = bench.fields(self.name, self.seed)
        settings = fields["settings"] | {"num_models": self.num_models, "sampling_seed": self.seed}
        settings |= {"noise_scales": list(LADDER), "as_good": AS_GOOD}
        best = best_rows(bench.training)[: self.num_models]
        yield from self._training(bench, best, fields | {"settings": settings})
        noise_accuracy, noise_similarity = self._noise(bench)

        def measure(weights: Tensor, report: Callable[[int], object]) -> Measured:
            report(1)
            accuracy, similarity = _measured(bench, weights)
            found = {"test_accuracy": accuracy, "nearest_training_similarity": similarity}
            above, as_good = above_noise(accuracy, similarity, noise_accuracy, noise_similarity)
            found |= {"similarity_above_noise": above, "as_good_as_noise": as_good}
            return {what: {0: values} for what, values in found.items() if len(values)}

        chosen = bench.training[best].weights
        given = [Population("reconstructed", "best training models", bench.reconstructed(chosen), {})]
        if len(bench.held_out):
            held_out = last_of_each(bench.held_out).weights[: self.num_models]
            given.append(Population("zoo", "held-out models", held_out, {}))
        populations = [*given, *draw_populations(bench, self.draws, self.num_models, self.seed)]
        for population, outcome in measured(populations, settings, measure, 1, progress, "testing"):
            yield from outcome.rows(method=population.method, variant=population.variant, **fields)

    def _training(self, bench: Bench, best: Tensor, fields: dict[str, Any]) -> Iterator[ResultRow]:
        """The best training networks: what is not copied, and yet from the same zoo."""
        models, labels = bench.training.model_id, bench.images.test.labels
        answers = bench.training_answers
        fields = fields | {"method": "zoo", "variant": "best training models", "epoch": 0, "seconds": 0.0}
        accuracy = (answers[best] == labels).float().mean(dim=1)
        yield ResultRow.of(accuracy, what="test_accuracy", **fields)
        similarity = nearest_other_similarity(answers[best], models[best], answers, models, labels)
        if len(similarity):
            yield ResultRow.of(similarity, what="nearest_training_similarity", **fields)

    def _noise(self, bench: Bench) -> tuple[Tensor, Tensor]:
        """Accuracy and similarity of training networks with noise of every scale; other noise than that which is
        drawn by name."""
        processor = bench.model.processor
        places, weights = processor.places, processor.align(bench.training.weights)
        scores = bench.training.metrics["validation_accuracy"]
        parts = []
        for i, scale in enumerate(LADDER, 1):
            sampler = fit_to_known(new_sampler("noise", scale=scale, top=self.top), weights, scores, places)
            generator = torch.Generator().manual_seed(self.seed + i)
            parts.append(_measured(bench, bench.refreshed(sampler.sample(self.num_models, generator))))
        accuracies, similarities = zip(*parts)
        return torch.cat(accuracies), torch.cat(similarities)

    @classmethod
    def plot(cls, path: Path, rows: Sequence[ResultRow]) -> None:
        plot_against(path, rows, "test_accuracy", "nearest_training_similarity")


def above_noise(
    accuracy: Tensor, similarity: Tensor, noise_accuracy: Tensor, noise_similarity: Tensor
) -> tuple[Tensor, Tensor]:
    """How much more similar networks (networks,) are to training networks than noise copies (copies,) that are as
    good, on average over those that have any; and the share of these. Each (1,); the first is empty if none has."""
    near = (accuracy[:, None] - noise_accuracy[None]).abs() <= AS_GOOD
    matched = near.any(dim=1)
    expected = (near * noise_similarity[None]).sum(dim=1) / near.sum(dim=1).clamp_min(1)
    difference = (similarity - expected)[matched]
    return difference.mean()[None] if len(difference) else difference, matched.float().mean()[None]


def _measured(bench: Bench, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Test accuracy and similarity to the nearest training network, each (networks,)."""
    tested = bench.tested(weights, predictions=True)
    assert tested.predictions is not None
    return tested.accuracy, nearest_similarity(tested.predictions, bench.training_answers, bench.images.test.labels)
