"""The loss of many networks as a differentiable function of their weights: what a decoder can be trained on."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from .checks import check_inputs, check_targets
from .cuda import CudaEngine
from .native import NativeEngine
from .population import Engine
from .vmap import stacked_logits


def population_logits(network: PreTrainedConfig, weights: Tensor, images: Tensor, engine: Engine) -> Tensor:
    """Outputs (models, images, classes) of weight vectors (models, num_params) on the same images, no gradient."""
    if isinstance(engine, NativeEngine | CudaEngine) and weights.device.type == "cpu":
        return engine.logits(network, weights, images)
    with torch.no_grad():
        return population_answers(network, weights, images, engine)


def population_cross_entropy(
    network: PreTrainedConfig, weights: Tensor, images: Tensor, targets: Tensor, engine: Engine
) -> Tensor:
    """Mean cross-entropy of each network with its targets, differentiable by the weights.

    Args:
        network (`PreTrainedConfig`)
        weights (`Tensor`): (models, num_params), such as a decoder makes.
        images (`Tensor`): (images, channels, height, width), the same for all models.
        targets (`Tensor`): (models, images, classes), probabilities.
        engine ([`Engine`]): the native engine computes loss and gradient in one pass, ten times faster than autograd;
            with any other, or on a GPU, autograd runs through the stacked networks.

    Returns:
        `Tensor`: (models,), nats.

    Raises:
        UserError: if weights, images and targets do not fit the network and one another.
    """
    if isinstance(engine, NativeEngine) and weights.device.type == "cpu":
        return _NativeCrossEntropy.apply(weights, network, images, targets, engine)
    weights, images = check_inputs(network, weights, images)
    targets = check_targets(network, weights, images, targets)
    logits = stacked_logits(network, shared_images=True, device=weights.device)(weights, images)
    return nn.functional.cross_entropy(logits.transpose(1, 2), targets.transpose(1, 2), reduction="none").mean(1)


def population_answers(network: PreTrainedConfig, weights: Tensor, images: Tensor, engine: Engine) -> Tensor:
    """What [`population_logits`] gives, differentiable by the weights: for any loss of the answers.

    Args:
        network (`PreTrainedConfig`)
        weights (`Tensor`): (models, num_params), such as a decoder makes.
        images (`Tensor`): (images, channels, height, width), the same for all models.
        engine ([`Engine`]): as in [`population_cross_entropy`]. The native one has the gradient of a cross-entropy
            alone, which by the logits is probabilities minus targets; given as targets the probabilities minus the
            gradient that comes from above, it makes the gradient of any loss.

    Returns:
        `Tensor`: (models, images, classes), logits.
    """
    if isinstance(engine, NativeEngine) and weights.device.type == "cpu":
        return _NativeAnswers.apply(weights, network, images, engine)
    weights, images = check_inputs(network, weights, images)
    return stacked_logits(network, shared_images=True, device=weights.device)(weights, images)


class _NativeAnswers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, network, images: Tensor, engine: NativeEngine) -> Tensor:
        logits = engine.logits(network, weights, images)
        ctx.save_for_backward(weights, images, logits)
        ctx.network, ctx.engine = network, engine
        return logits

    @staticmethod
    def backward(ctx: Any, logits_gradient: Tensor):  # type: ignore[override]
        weights, images, logits = ctx.saved_tensors
        targets = logits.softmax(-1) - len(images) * logits_gradient  # the loss is a mean over images
        _, gradient = ctx.engine.loss_and_gradient(ctx.network, weights, images, targets)
        return gradient, None, None, None


class _NativeCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, network, images: Tensor, targets: Tensor, engine: NativeEngine) -> Tensor:
        loss, gradient = engine.loss_and_gradient(network, weights, images, targets)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, loss_gradient: Tensor):  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return loss_gradient[:, None] * gradient, None, None, None, None
