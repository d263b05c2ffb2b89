"""All networks at once through `torch.func.vmap`: the engine for any device and any network.

The passes are not compiled: on two CPU cores inductor took as long (67 against 66 us per image and model).
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ..errors import UserError
from ..networks import Network, hidden_units, layout_of, learn_statistics, new_module
from ..weights import WeightLayout, running_statistics
from .checks import check_epoch, check_evaluation
from .dropout import dropout_factors
from .population import ADAM_BETAS, ADAM_EPSILON, Evaluation, Population


logger = logging.getLogger(__name__)

EVALUATION_IMAGES = 500  # images of one evaluation chunk, times models_per_chunk, bounds the memory in use


class VmapEngine:
    """Trains chunks of networks in one stacked forward and backward pass.

    Args:
        models_per_chunk (`int`, *optional*, defaults to 64): networks stacked in one pass; bounds the memory in use.
            Halved, for good, whenever a pass does not fit a GPU's memory.
        device (`str`, *optional*, defaults to `"cpu"`): where the passes run.

    Raises:
        UserError: if `models_per_chunk` is less than 1.
    """

    name = "vmap"

    def __init__(self, models_per_chunk: int = 64, device: str | torch.device = "cpu"):
        if models_per_chunk < 1:
            raise UserError(f"models_per_chunk is {models_per_chunk}; it must be at least 1.")
        self.models_per_chunk = self.models_at_once = models_per_chunk
        self.device = torch.device(device)

    def train_epoch(self, population: Population, images: Tensor, labels: Tensor, order: Tensor) -> Evaluation:
        images, labels, order = check_epoch(population, images, labels, order)
        images, labels = images.to(self.device), labels.to(self.device)
        parts = self._in_chunks(
            len(population), lambda chunk: self._train_chunk(population, chunk, images, labels, order)
        )
        population.steps += -(-order.shape[1] // population.recipe.batch_size)
        return Evaluation.joined(parts)

    def _in_chunks(self, models: int, work: Callable[[Tensor], Evaluation]) -> list[Evaluation]:
        """What `work` makes of one chunk of the models' indices after the other, in chunks that fit the memory."""
        parts: list[Evaluation] = []
        left = torch.arange(models)
        while len(left):
            chunk = left[: self.models_per_chunk]
            try:
                parts.append(work(chunk))
            except torch.OutOfMemoryError:
                if len(chunk) == 1:
                    raise
                self.models_per_chunk = len(chunk) // 2
                logger.warning("out of memory with %d networks in a pass, now %d", len(chunk), self.models_per_chunk)
            else:
                left = left[len(chunk) :]
        return parts

    def _train_chunk(
        self, population: Population, chunk: Tensor, images: Tensor, labels: Tensor, order: Tensor
    ) -> Evaluation:
        gradients = stacked_gradients(population.network, self.device)
        weights, first, second = (
            getattr(population, name)[chunk].to(self.device) for name in ("weights", "first_moment", "second_moment")
        )
        order = order[chunk].to(self.device)
        update = _Optimizer(population, chunk, self.device)
        statistics = layout_of(population.network).statistics.to(self.device)
        total_loss = torch.zeros(len(chunk), device=self.device)
        total_correct = torch.zeros(len(chunk), device=self.device)
        dropout = population.dropout()
        positions = torch.arange(order.shape[1], device=self.device).split(population.recipe.batch_size)
        for step, position in enumerate(positions, start=population.steps + 1):
            batch = order[:, position]
            targets = labels[batch]  # (models, batch)
            factors = None
            if dropout is not None:
                keys, rates = (values[chunk].to(self.device) for values in dropout)
                factors = dropout_factors(keys, rates, position, hidden_units(population.network))
            gradient, (losses, correct, seen) = gradients(weights, images[batch], targets, factors)
            weights = update(step, weights, gradient, first, second)
            if len(statistics):  # they follow the batches, not the gradient, and decay to nothing
                weights[:, statistics] = seen[:, statistics]
                first[:, statistics] = second[:, statistics] = 0
            total_loss += losses * batch.shape[1]
            total_correct += correct
        population.weights[chunk] = weights.to(population.weights.device)
        population.first_moment[chunk] = first.to(population.weights.device)
        population.second_moment[chunk] = second.to(population.weights.device)
        return Evaluation((total_loss / order.shape[1]).cpu(), (total_correct / order.shape[1]).cpu())

    @torch.no_grad()
    def evaluate(
        self, network: Network, weights: Tensor, images: Tensor, labels: Tensor, predictions: bool = False
    ) -> Evaluation:
        weights, images, labels = check_evaluation(network, weights, images, labels)
        logits_of_all = stacked_logits(network, shared_images=True, device=self.device)
        images, labels = images.to(self.device), labels.to(self.device)

        def evaluate_chunk(chunk: Tensor) -> Evaluation:
            stacked = weights[chunk].to(self.device)
            logits = torch.cat([logits_of_all(stacked, batch) for batch in images.split(EVALUATION_IMAGES)], dim=1)
            targets = labels.expand(len(chunk), -1)
            losses = nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(1)
            classes = logits.argmax(-1)
            accuracy = (classes == targets).float().mean(1)
            return Evaluation(losses.cpu(), accuracy.cpu(), classes.int().cpu() if predictions else None)

        return Evaluation.joined(self._in_chunks(len(weights), evaluate_chunk))


def stacked_logits(network: Network, shared_images: bool = False, device: torch.device | None = None):
    """Function of weights (models, num_params), images ([models,] batch, ...) and, optionally, factors of dropout
    (models, batch, hidden units): logits (models, batch, classes)."""
    run = _stacked(network, device, learn=False, shared_images=shared_images)
    return lambda weights, images, factors=None: run(weights, images, factors)[0]


def stacked_gradients(network: Network, device: torch.device) -> Callable:
    """Function of weights (models, num_params), images (models, batch, ...), targets (models, batch) and factors of
    dropout or `None`: gradients (models, num_params), and each model's mean loss, number of correct answers, and
    weights with the running statistics that its batch norms have after these images."""
    run = _stacked(network, device, learn=True)

    def total_loss(weights: Tensor, images: Tensor, targets: Tensor, factors: Tensor | None):
        logits, seen = run(weights, images, factors)  # (models, batch, classes)
        losses = nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(1)
        return losses.sum(), (losses, (logits.argmax(-1) == targets).sum(1), seen)

    # one model's weights do not touch another's loss, so the gradient of the sum is each model's own
    return grad(total_loss, has_aux=True)


def stacked_statistics(network: Network, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """Function of weights (models, num_params) and images (batch, ...), the same for all: the weights, with the
    statistics of these images for running ones."""
    run = _stacked(network, device, learn=True, shared_images=True, momentum=1.0)
    return lambda weights, images: run(weights, images)[1]


def _stacked(
    network: Network,
    device: torch.device | None,
    learn: bool,
    shared_images: bool = False,
    momentum: float | None = None,
) -> Callable:
    """Function of weights, images and factors as in [`stacked_logits`]: logits, and the weights, of which running
    statistics are what each model's batch norms remember after these images if they `learn`, with another `momentum`
    than their own if one is given."""
    model = learn_statistics(new_module(network), learn, momentum)
    if next(model.buffers(), None) is not None:  # parameters come with every call
        model = model.to(device)
    layout = WeightLayout.of(model)
    norms = [part for part in model.modules() if running_statistics(part)]
    parameters = dict(model.named_parameters())
    remembered = [name for name, _ in layout.tensors if name not in parameters]
    counts = {name: buffer for name, buffer in model.named_buffers() if name.endswith("num_batches_tracked")}

    def logits(vector: Tensor, batch: Tensor, factors: Tensor | None) -> tuple[Tensor, Tensor]:
        keywords = {} if factors is None else {"dropout_factors": factors}
        tensors = layout.unvectorize(vector)
        if learn:  # batch norms write into what they are given
            tensors |= {name: tensors[name].detach().clone() for name in remembered}
            tensors |= {name: count.clone() for name, count in counts.items()}
        output = functional_call(model, tensors, (batch,), keywords)
        seen = layout.vectorize(tensors).detach() if learn and remembered else vector.detach()
        return output if isinstance(output, Tensor) else output.logits, seen

    def stacked(weights: Tensor, images: Tensor, factors: Tensor | None = None) -> tuple[Tensor, Tensor]:
        in_dims = (0, None if shared_images else 0, None if factors is None else 0)
        for part in norms:
            own = _normalized if weights.requires_grad and not learn else type(part).forward
            part.forward = partial(own, part)
        return vmap(logits, in_dims=in_dims)(weights, images, factors)

    return stacked


def _normalized(part: Any, hidden: Tensor) -> Tensor:
    """What a batch norm makes of activations (batch, units, ...). torch's own has no gradient by statistics that are
    remembered, which a decoder has to learn."""
    scale = (part.running_var + part.eps).rsqrt()
    scale = scale if part.weight is None else part.weight * scale
    shift = -part.running_mean * scale
    shift = shift if part.bias is None else part.bias + shift
    shape = [1, -1] + [1] * (hidden.ndim - 2)
    return hidden * scale.view(shape) + shift.view(shape)


class _Optimizer:
    """Adam, AdamW and SGD with momentum on stacked weight vectors, by the formulas of `torch.optim`."""

    def __init__(self, population: Population, chunk: Tensor, device: torch.device):
        self.recipe = population.recipe
        self.learning_rate = population.per_model("learning_rate")[chunk].to(device)[:, None]
        self.weight_decay = population.per_model("weight_decay")[chunk].to(device)[:, None]

    def __call__(self, step: int, weights: Tensor, gradient: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """New weights; the moments change in place. Everything is (models, num_params)."""
        if self.recipe.optimizer == "adamw":
            weights = weights * (1 - self.learning_rate * self.weight_decay)
        else:
            gradient = gradient + self.weight_decay * weights
        if self.recipe.optimizer == "sgd":
            first.mul_(self.recipe.momentum).add_(gradient)
            return weights - self.learning_rate * first
        beta1, beta2 = ADAM_BETAS
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        denominator = (second.sqrt() / (1 - beta2**step) ** 0.5).add_(ADAM_EPSILON)
        return weights - self.learning_rate / (1 - beta1**step) * first / denominator
