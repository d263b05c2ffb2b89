"""Encode and decode many rows in batches, without gradients, in evaluation mode."""

import torch
from torch import Tensor

from .modeling_hyperrep import HyperRepModel


@torch.no_grad()
def encode_rows(model: HyperRepModel, weights: Tensor, batch_size: int = 256) -> Tensor:
    """Latents (rows, latent_size) of weights (rows, num_params), on the CPU."""
    training = model.training
    model.eval()
    latents = torch.cat([model.encode(part.to(model.device)).float().cpu() for part in weights.split(batch_size)])
    model.train(training)
    return latents


@torch.no_grad()
def decode_rows(model: HyperRepModel, latents: Tensor, batch_size: int = 256) -> Tensor:
    """Weights (rows, num_params) of latents (rows, latent_size), on the CPU."""
    training = model.training
    model.eval()
    weights = torch.cat([model.decode(part.to(model.device)).float().cpu() for part in latents.split(batch_size)])
    model.train(training)
    return weights
