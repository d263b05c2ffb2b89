"""One update of a hyper-representation: views of a batch, losses, gradients, optimiser."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, optim

from ..errors import UserError
from ..representation import HyperRepModel
from ..weights import WeightGraph, WeightLayout
from ..weights.augmentation import corrupt, permute
from .behavior import BehavioralLoss
from .config import TrainingConfig
from .data import epoch_order
from .others import Examples
from .streams import Purpose, seed_of


class TrainingStep:
    """Takes the model from one step to the next.

    Everything random comes from (seed, step, rank) alone, so that a step does the same in a run that was resumed.

    Args:
        config ([`TrainingConfig`])
        accelerator (`Accelerator`)
        model ([`HyperRepModel`]), optimizer (`optim.Optimizer`): on the accelerator's device; changed in place.
        weights (`Tensor`): (checkpoints, num_params), the training split, on the device.
        layout ([`WeightLayout`]): of the weights.
        behavior ([`BehavioralLoss`], *optional*)
        graph ([`WeightGraph`], *optional*): by which networks are permuted; by default they are chains of layers.
        examples (`Sequence`): what windows are drawn from, where networks are read through them; else nothing.
    """

    def __init__(
        self,
        config: TrainingConfig,
        accelerator: Accelerator,
        model: HyperRepModel,
        optimizer: optim.Optimizer,
        weights: Tensor,
        layout: WeightLayout,
        behavior: BehavioralLoss | None,
        graph: WeightGraph | None = None,
        examples: Sequence[Examples] = (),
    ):
        self.config, self.accelerator, self.model, self.optimizer = config, accelerator, model, optimizer
        self.weights, self.layout, self.behavior, self.graph = weights, layout, behavior, graph
        # the schedule is a function of the step and stays out of accelerate, which would run it once per process
        self.wrapped_model, self.wrapped_optimizer = accelerator.prepare(model, optimizer)
        self.wrapped_model.train()
        self.generators: dict[Purpose, torch.Generator] = {
            "augmentation": torch.Generator(accelerator.device),
            "behavior": torch.Generator(accelerator.device),
        }
        self.num_views = 2 if model.config.contrast_weight else 1
        self.examples = examples
        self.num_examples = sum(map(len, examples)) or len(weights)
        self.steps_per_epoch = self.num_examples // config.batch_size
        self.total_steps = self.steps_per_epoch * config.num_train_epochs
        self._order, self._order_of_epoch = torch.empty(0), -1

    def __call__(self, step: int, stop: bool = False) -> tuple[dict[str, float], bool]:
        """Make step `step` (from 0).

        Args:
            step (`int`)
            stop (`bool`): whether this process was asked to stop.

        Returns:
            `tuple[dict[str, float], bool]`: the means of the losses over all processes, and whether any process was
            asked to stop.

        Raises:
            UserError: if the loss or its gradient is not finite; the model is left as it was before the step.
        """
        config, accelerator = self.config, self.accelerator
        place = (config.seed, step, accelerator.process_index)
        torch.manual_seed(seed_of("dropout", *place))  # it draws from the default generators
        for purpose, generator in self.generators.items():
            generator.manual_seed(seed_of(purpose, *place))

        # 1. gradients, of one micro-batch after the other
        losses: dict[str, Tensor] = {}
        for rows in self._rows(step).chunk(config.gradient_accumulation_steps):
            with accelerator.accumulate(self.wrapped_model):
                parts = self._losses(rows)
                accelerator.backward(parts["loss"])
            for name, part in parts.items():
                share = part.detach() / config.gradient_accumulation_steps
                losses[name] = losses[name] + share if name in losses else share
        norm = accelerator.clip_grad_norm_(self.wrapped_model.parameters(), config.max_grad_norm or math.inf)

        # 2. one reduction tells every process the means, a NaN anywhere, and whether to stop
        told = torch.stack([*losses.values(), norm, torch.tensor(float(stop), device=norm.device)])
        *means, norm_mean, stopping = accelerator.reduce(told, "mean").tolist()
        for what, value in (("loss", means[0]), ("norm of the gradient", norm_mean)):
            if not math.isfinite(value):
                raise UserError(
                    f"the {what} is {value} at step {step + 1}; lower learning_rate {config.learning_rate} or "
                    f"max_grad_norm {config.max_grad_norm} (0 clips nothing)."
                )

        # 3. update
        rate = learning_rate_at(step, self.total_steps, config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.wrapped_optimizer.step()
        self.wrapped_optimizer.zero_grad()
        return dict(zip(losses, means)), stopping > 0

    def _rows(self, step: int) -> Tensor:
        """Rows of this process' share of the batch; of networks that are read through windows, examples."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._order_of_epoch:
            self._order, self._order_of_epoch = epoch_order(self.num_examples, self.config.seed, epoch), epoch
        batch = self._order[position * self.config.batch_size : (position + 1) * self.config.batch_size]
        return batch.chunk(self.accelerator.num_processes)[self.accelerator.process_index].to(self.weights.device)

    def _losses(self, rows: Tensor) -> dict[str, Tensor]:
        if self.examples:
            return self._window_losses(rows)
        views, targets, clean = make_views(
            self.weights[rows], self.layout, self.config, self.num_views, self.generators["augmentation"], self.graph
        )
        output = self.wrapped_model(views, target=targets, num_views=self.num_views)
        losses: dict[str, Any] = {name: getattr(output, name) for name in ("loss", "reconstruction_loss")}
        if output.contrastive_loss is not None:
            losses["contrastive_loss"] = output.contrastive_loss
        if self.behavior is not None:
            losses |= self.behavior(self.model, clean, output, len(rows), self.generators["behavior"])
        return losses

    def _window_losses(self, examples: Tensor) -> dict[str, Tensor]:
        """Of a window for each example, anywhere in its network; those at its ends are not drawn more rarely."""
        parts, first = [], 0
        for part in self.examples:
            own = examples[(examples >= first) & (examples < first + len(part))] - first
            first += len(part)
            if not len(own):
                continue
            config, generator = part.processor.config, self.generators["augmentation"]
            last = max(0, config.num_tokens - config.window)
            reach = last + config.window  # from half a window before the first token
            starts = torch.randint(reach + 1, (len(own),), generator=generator, device=own.device)
            starts = (starts - config.window // 2).clamp(0, last)
            parts.append(part.processor.windows(part.weights, own // part.windows, starts))
        tokens, places, shares = map(torch.cat, zip(*parts))
        views = corrupt(tokens.flatten(1), self.config.augmentation, self.generators["augmentation"]).view_as(tokens)
        target = views if self.config.erase_target == "augmented" else tokens
        output = self.wrapped_model(views, target=target, places=places, shares=shares)
        return {"loss": output.loss, "reconstruction_loss": output.reconstruction_loss}


def make_views(
    weights: Tensor,
    layout: WeightLayout,
    config: TrainingConfig,
    num_views: int,
    generator: torch.Generator,
    graph: WeightGraph | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Views of a batch of networks, and what the model shall make of them.

    Returns:
        `tuple[Tensor, Tensor, Tensor]`: views, targets, and the permuted networks before erasing and noise; all
        (num_views * batch, num_params), view after view.
    """
    settings = config.augmentation
    weights = weights.repeat(num_views, 1)
    if settings.permute:
        weights = permute(weights, layout, generator, graph)
    views = corrupt(weights, settings, generator)
    return views, views if config.erase_target == "augmented" else weights, weights


def learning_rate_at(step: int, total_steps: int, config: TrainingConfig) -> float:
    """Learning rate of a step (from 0): linear warm-up, then constant or a cosine to zero."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.lr_schedule == "constant":
        return float(config.learning_rate)
    share = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


__all__ = ["TrainingStep", "learning_rate_at", "make_views"]
