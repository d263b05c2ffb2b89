"""Encode and decode many rows, without gradients, in evaluation mode.

A matrix product rounds a row another way in company of other size. So every batch is full, if need be with copies of
its last row: a network has the same latent, and a latent the same network, whatever comes with it.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .modeling_hyperrep import HyperRepModel


ROWS = {"cpu": 32}  # at once; more where there is room
MOST_ROWS = 256
MANY_BATCHES = 50  # that are worth a bar


def encode_rows(model: HyperRepModel, weights: Tensor, aligned: bool = False) -> Tensor:
    """Latents (rows, latent_size) of weights (rows, num_params), on the CPU; `aligned` says that these are what
    `processor.align` made of them."""
    weights = weights if aligned else model.processor.align(weights)
    return _in_batches(model, partial(model.encode, aligned=True), weights, "encoding")


def encode_anchors(model: HyperRepModel, weights: Tensor) -> Tensor:
    """The latents that samplers are fitted to: as [`encode_rows`], rounded to what float16 holds. That halves the file
    of a sampler; the rounding, 0.0003 at most between -1 and 1, is a small part of a density's bandwidth (0.002)."""
    return encode_rows(model, weights).half().float()


def decode_rows(model: HyperRepModel, latents: Tensor) -> Tensor:
    """Weights (rows, num_params) of latents (rows, latent_size), on the CPU."""
    return _in_batches(model, model.decode, latents, "decoding")


@torch.no_grad()
def _in_batches(model: HyperRepModel, function: Callable[[Tensor], Tensor], rows: Tensor, desc: str) -> Tensor:
    if not len(rows):
        return function(rows.to(model.device)).cpu()
    training, size = model.training, ROWS.get(model.device.type, MOST_ROWS)
    if model.config.token_size is not None:
        size = 1  # of any size; its windows come in batches
    model.eval()
    parts = []
    pieces = rows.split(size)
    for part in tqdm(pieces, desc, leave=False, disable=len(pieces) < MANY_BATCHES):
        padded = torch.cat([part, part[-1:].expand(size - len(part), -1)])
        parts.append(function(padded.to(model.device))[: len(part)].float().cpu())
    model.train(training)
    return torch.cat(parts)
