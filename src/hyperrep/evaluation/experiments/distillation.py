"""One network from what a zoo knows."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...networks import initial_weights
from ...population import image_order
from ...population.differentiable import population_cross_entropy, population_logits
from ...representation.batched import decode_rows, encode_rows
from ...results import ResultRow
from ...samplers import settings_class
from ..bench import Bench
from ..curves import Training
from ..experiment import Experiment, Measured, check_least, measured, order_seeds, setting
from ..populations import Population, check_memory, draw_populations, planned
from ..progress import Progress
from ..yardstick import best_rows


METHODS = ("kde-independent",)
LOGITS_AT_ONCE = 50  # networks


@settings_class
class Distillation(Experiment):
    """A single good network, and what it costs beyond the zoo: an epoch of training of one network is the unit.

    Trained on labels by the zoo's recipe: random networks (B_T), the best of the zoo by validation accuracy, the
    average of its best networks, aligned; the decoded mean of their latents; and sampled ones (S_...). Distilled:
    random networks and the best one, trained to give the mean probabilities of the best networks instead of labels.
    """

    name: ClassVar[str] = "distillation"
    title: ClassVar[str] = "Distillation"

    num_models: int = setting(5, "Networks of each kind that there can be several of.")
    epochs: int = setting(5, "Epochs of training.")
    top: float | int = setting(0.3, "Share of the best training networks that are averaged, and that teach.")
    methods: tuple[str, ...] = setting((), "Also draw by these, such as kde-joint. Default: independent KDE.")
    seed: int = setting(0, "Of sampling, of random networks, and of image orders.")

    def __post_init__(self) -> None:
        check_least(self, num_models=1, epochs=0)
        self.order_seeds = order_seeds(self.seed, self.num_models)
        self.draws = [draw for draw in planned(self.methods or METHODS, top=self.top) if draw.space == "latents"]

    def rows(self, bench: Bench, progress: Progress | None = None) -> Iterator[ResultRow]:
        check_memory(bench, self.draws, self.num_models)
        best = self._best(bench)
        random = initial_weights(bench.network, list(self.order_seeds))
        aligned = bench.model.processor.align(best)
        latents = encode_rows(bench.model, aligned, aligned=True)
        average = bench.refreshed(aligned.mean(0, keepdim=True))
        decoded = bench.refreshed(decode_rows(bench.model, latents.mean(0, keepdim=True)))
        labelled = [
            Population("B_T", "", random, {}),
            Population("best network", "", best[:1], {}),
            Population("average", "of the best, aligned", average, {}),
            Population("decoded mean latent", "", decoded, {}),
            *draw_populations(bench, self.draws, self.num_models, self.seed),
        ]
        taught = [
            Population("distilled", "from random", random, {}),
            Population("distilled", "from the best", best[:1], {}),  # one: all see the images in the same order
        ]
        training = Training(bench.network, bench.recipe, bench.images, self.order_seeds, self.epochs)
        fields = bench.fields(self.name, self.seed)
        settings = fields["settings"] | {"num_models": self.num_models, "top": self.top, "teachers": len(best)}
        settings |= training.settings() | {"sampling_seed": self.seed}
        work = self.num_models * self.epochs
        targets: list[Tensor] = []  # made when they are first needed

        def on_labels(weights: Tensor, report: Callable[[int], object]) -> Measured:
            return {"test_accuracy": training.curve(bench, weights, report)}

        def on_answers(weights: Tensor, report: Callable[[int], object]) -> Measured:
            if not targets:
                targets.append(mean_probabilities(bench, best))
            return {"test_accuracy": self._distilled(bench, weights, targets[0], report)}

        for populations, measure in ((labelled, on_labels), (taught, on_answers)):
            for population, outcome in measured(populations, settings, measure, work, progress, "distillation"):
                yield from outcome.rows(method=population.method, variant=population.variant, **fields)

    def _best(self, bench: Bench) -> Tensor:
        """The best training networks after their last epoch, the very best first, (networks, num_params)."""
        best = best_rows(bench.training)
        return bench.training.weights[best[: max(1, round(self.top * len(best)))]]

    def _distilled(
        self, bench: Bench, weights: Tensor, targets: Tensor, report: Callable[[int], object]
    ) -> dict[int, Tensor]:
        """Test accuracies of students by epoch; all see the images in the same order, that of the first seed."""
        students = weights.clone().requires_grad_()
        images, recipe = bench.images.train, bench.recipe
        # these work number by number: on the stacked students they do what they would do on each
        rates: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
        optimizer: torch.optim.Optimizer = {
            "adam": lambda: torch.optim.Adam([students], **rates),
            "adamw": lambda: torch.optim.AdamW([students], **rates),
            "sgd": lambda: torch.optim.SGD([students], momentum=recipe.momentum, **rates),
        }[recipe.optimizer]()
        accuracy = {0: bench.tested(weights).accuracy}
        for epoch in range(1, self.epochs + 1):
            order = image_order(self.order_seeds[:1], epoch, len(images))[0]
            for batch in tqdm(order.split(recipe.batch_size), desc=f"epoch {epoch}", leave=False):
                wanted = targets[batch].expand(len(students), -1, -1)
                loss = population_cross_entropy(bench.network, students, images.pixels[batch], wanted, bench.engine)
                optimizer.zero_grad()
                loss.sum().backward()
                optimizer.step()
            accuracy[epoch] = bench.tested(students.detach()).accuracy
            report(self.num_models)
        return accuracy


def mean_probabilities(bench: Bench, weights: Tensor) -> Tensor:
    """What networks (networks, num_params) answer to the training images on average, (images, classes)."""
    parts = [
        population_logits(bench.network, rows, bench.images.train.pixels, bench.engine).softmax(-1).sum(0)
        for rows in tqdm(weights.split(LOGITS_AT_ONCE), desc="the teachers' answers", leave=False)
    ]
    return torch.stack(parts).sum(0) / len(weights)
