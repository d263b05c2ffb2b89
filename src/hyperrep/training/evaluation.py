"""How well a hyper-representation reconstructs weights it has not seen."""

from typing import Any

import torch
from torch import Tensor

from ..representation import HyperRepModel
from ..representation.losses import layer_squared_errors, r_squared


@torch.no_grad()
def evaluate_reconstruction(
    model: HyperRepModel, weights: Tensor, train_mean: Tensor, batch_size: int = 256
) -> dict[str, Any]:
    """Normalised reconstruction loss and R^2 on plain weights, without augmentation; no row is left out.

    The loss divides by each layer's variance whether or not training did, so that runs with and without layer-wise
    loss normalisation can be compared. The baseline of R^2 is the mean predictor: every network reconstructed as
    `train_mean`.

    Args:
        model ([`HyperRepModel`]): evaluated in `eval()` mode, and put back.
        weights (`Tensor`): (checkpoints, num_params), on any device.
        train_mean (`Tensor`): (num_params,), per-weight mean of the training split.
        batch_size (`int`, *optional*, defaults to 256).

    Returns:
        `dict`: `reconstruction_loss`, `r2`, and `r2_per_layer` by layer name.
    """
    was_training = model.training
    model.eval()
    sizes, std = model.layer_sizes, model.layer_std
    errors = torch.zeros(len(sizes), dtype=torch.float64, device=std.device)
    baseline_errors = torch.zeros_like(errors)
    for batch in weights.split(batch_size):
        batch = batch.to(std.device)
        reconstruction = model.decode(model.encode(batch))
        errors += layer_squared_errors(reconstruction, batch, sizes)
        baseline_errors += layer_squared_errors(train_mean.to(batch).expand_as(batch), batch, sizes)
    model.train(was_training)
    overall, per_layer = r_squared(errors, baseline_errors, std)
    return {
        "reconstruction_loss": float((errors / std.square()).sum() / weights.numel()),
        "r2": float(overall),
        "r2_per_layer": {
            layer.name: float(value) for layer, value in zip(model.config.layers, per_layer, strict=True)
        },
    }


__all__ = ["evaluate_reconstruction"]
