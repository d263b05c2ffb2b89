"""The plain loop: one PyTorch model after the other. Slow, and the reference every other engine must follow."""

import torch
from torch import Tensor, nn

from ..networks import Network, hidden_units, learn_statistics, logits_of, new_module
from ..weights import WeightLayout
from .checks import check_epoch, check_evaluation
from .dropout import dropout_factors
from .population import ADAM_BETAS, ADAM_EPSILON, Evaluation, Population


EVALUATION_BATCH = 1000


class LoopEngine:
    """Trains each network with `torch.optim`, exactly as a textbook would."""

    name = "loop"
    models_at_once = 8  # one would do; a shard of a zoo should be worth its file

    def train_epoch(self, population: Population, images: Tensor, labels: Tensor, order: Tensor) -> Evaluation:
        images, labels, order = check_epoch(population, images, labels, order)
        losses, accuracies = [], []
        for i in range(len(population)):
            loss, accuracy = _train_one(population, i, images, labels, order[i])
            losses.append(loss)
            accuracies.append(accuracy)
        population.steps += -(-order.shape[1] // population.recipe.batch_size)
        return Evaluation(torch.tensor(losses), torch.tensor(accuracies))

    @torch.no_grad()
    def evaluate(
        self, network: Network, weights: Tensor, images: Tensor, labels: Tensor, predictions: bool = False
    ) -> Evaluation:
        weights, images, labels = check_evaluation(network, weights, images, labels)
        model = new_module(network).to(weights.dtype).eval()  # made in torch's default, which may be another
        layout = WeightLayout.of(model)
        losses, accuracies, classes = [], [], []
        for vector in weights:
            model.load_state_dict(layout.unvectorize(vector), strict=False)  # buffers are the module's own
            logits = torch.cat([logits_of(model, batch) for batch in images.split(EVALUATION_BATCH)])
            losses.append(nn.functional.cross_entropy(logits, labels))
            classes.append(logits.argmax(1))
            accuracies.append((classes[-1] == labels).float().mean())
        return Evaluation(
            torch.stack(losses), torch.stack(accuracies), torch.stack(classes).int() if predictions else None
        )


def _train_one(population: Population, index: int, images: Tensor, labels: Tensor, order: Tensor):
    """Train model `index` for an epoch and write its weights and optimiser state back into the population."""
    recipe = population.recipe
    model = learn_statistics(new_module(population.network).to(population.weights.dtype))
    layout = WeightLayout.of(model)
    model.load_state_dict(layout.unvectorize(population.weights[index]), strict=False)
    optimizer = _restore_optimizer(population, index, model, layout)

    total_loss, total_correct = 0.0, 0
    dropout = population.dropout()
    for position in torch.arange(len(order)).split(recipe.batch_size):
        batch, factors = order[position], None
        if dropout is not None:
            keys, rates = dropout
            units = hidden_units(population.network)
            factors = dropout_factors(keys[index, None], rates[index, None], position, units)[0]
        logits = logits_of(model, images[batch], factors)
        loss = nn.functional.cross_entropy(logits, labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total_loss += loss.item() * len(batch)
        total_correct += int((logits.argmax(1) == labels[batch]).sum())

    population.weights[index] = layout.vectorize(model.state_dict())
    first = "momentum_buffer" if recipe.optimizer == "sgd" else "exp_avg"
    nothing = layout.unvectorize(torch.zeros_like(population.weights[index]))  # running statistics have no moments
    for moment, kind in (("first_moment", first), ("second_moment", "exp_avg_sq")):
        states = {name: optimizer.state[p][kind] for name, p in model.named_parameters() if kind in optimizer.state[p]}
        getattr(population, moment)[index] = layout.vectorize(nothing | states)
    return total_loss / len(order), total_correct / len(order)


def _restore_optimizer(
    population: Population, index: int, model: nn.Module, layout: WeightLayout
) -> torch.optim.Optimizer:
    """A `torch.optim` optimiser that goes on where the population stands."""
    recipe = population.recipe
    learning_rate = population.per_model("learning_rate")[index].item()
    weight_decay = population.per_model("weight_decay")[index].item()
    first = layout.unvectorize(population.first_moment[index].clone())
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), learning_rate, recipe.momentum, weight_decay=weight_decay)
        # torch starts its buffer with the first gradient, which equals starting from zero
        for name, p in model.named_parameters():
            optimizer.state[p] = {"momentum_buffer": first[name]}
        return optimizer
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    optimizer = kind(model.parameters(), learning_rate, ADAM_BETAS, ADAM_EPSILON, weight_decay)
    second = layout.unvectorize(population.second_moment[index].clone())
    for name, p in model.named_parameters():
        step = torch.tensor(float(population.steps))
        optimizer.state[p] = {"step": step, "exp_avg": first[name], "exp_avg_sq": second[name]}
    return optimizer
