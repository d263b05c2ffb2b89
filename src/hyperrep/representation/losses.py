"""The two losses of a hyper-representation: layer-wise normalised reconstruction, and contrast."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional


def layer_squared_errors(reconstruction: Tensor, target: Tensor, layer_sizes: Sequence[int]) -> Tensor:
    """Squared error of each layer, summed over its weights and the batch.

    Args:
        reconstruction, target (`Tensor`): (batch, num_params).
        layer_sizes (`list[int]`): lengths of the layers' slices, which fill the vector in order.

    Returns:
        `Tensor`: (num_layers,), float32.
    """
    squares = (reconstruction.float() - target.float()).square()
    return torch.stack([layer.sum() for layer in squares.split(list(layer_sizes), dim=1)])


def reconstruction_loss(
    reconstruction: Tensor, target: Tensor, layer_sizes: Sequence[int], layer_std: Tensor
) -> Tensor:
    """Layer-wise normalised reconstruction loss (poster, L_MSE), the share of each layer.

        1/(M N) sum_i sum_l ||w_hat_i^l - w_i^l||^2 / sigma_l^2

    Args:
        reconstruction, target (`Tensor`): (batch, num_params); M = batch, N = num_params.
        layer_sizes (`list[int]`): lengths of the layers' slices.
        layer_std (`Tensor`): (num_layers,), sigma_l; all ones give the plain mean squared error.

    Returns:
        `Tensor`: (num_layers,), float32; the loss is their sum.
    """
    errors = layer_squared_errors(reconstruction, target, layer_sizes)
    return errors / layer_std.square() / target.numel()


def r_squared(errors: Tensor, baseline_errors: Tensor, layer_std: Tensor) -> tuple[Tensor, Tensor]:
    """Share of the variance that a reconstruction explains, under the normalised loss.

    Args:
        errors (`Tensor`): (num_layers,), [`layer_squared_errors`] of the reconstructions.
        baseline_errors (`Tensor`): (num_layers,), those of the mean predictor on the same rows: every network
            reconstructed as the per-weight mean of the training split.
        layer_std (`Tensor`): (num_layers,).

    Returns:
        `tuple[Tensor, Tensor]`: R^2 over all layers (a scalar) and of each layer (num_layers,). 1 is perfect, 0 as
        good as the mean, negative worse.
    """
    overall = 1 - (errors / layer_std.square()).sum() / (baseline_errors / layer_std.square()).sum()
    return overall, 1 - errors / baseline_errors


class _GatherRows(torch.autograd.Function):
    """Rows of all ranks, with gradient: `accelerator.gather` and `dist.all_gather` carry none."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)  # every rank's loss depends on these rows
        return grad.chunk(dist.get_world_size())[dist.get_rank()]


def world_size() -> int:
    """Number of processes that share the loss; 1 outside distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate the rows of all ranks, differentiably; every rank must have equally many.

    Args:
        rows (`Tensor`): (batch, ...).

    Returns:
        `Tensor`: (world_size * batch, ...), rank after rank.
    """
    return _GatherRows.apply(rows) if world_size() > 1 else rows


def local_rows(rows: Tensor) -> Tensor:
    """This rank's part of [`gather_rows`]."""
    return rows.chunk(world_size())[dist.get_rank()] if world_size() > 1 else rows


def nt_xent(first: Tensor, second: Tensor, temperature: float = 0.1) -> Tensor:
    """NT-Xent, the contrastive loss of SimCLR, with the negatives of all ranks.

    Row i of `first` and row i of `second` are two views of one network. Each of the 2B rows has one positive and
    2B - 2 negatives; its loss is the cross-entropy of finding the positive by cosine similarity / temperature.

    Args:
        first, second (`Tensor`): (batch, projection_size), any scale.
        temperature (`float`, *optional*, defaults to 0.1).

    Returns:
        `Tensor`: scalar, the mean over this rank's 2 * batch rows. The mean over ranks is the loss of the whole
        batch, and so are its gradients once averaged as DistributedDataParallel does.
    """
    with torch.autocast(first.device.type, enabled=False):  # similarities / 0.1 lose too much in bf16
        first = functional.normalize(first.float(), dim=1)
        second = functional.normalize(second.float(), dim=1)
        all_first, all_second = gather_rows(first), gather_rows(second)  # (world * batch, projection_size)

        similarity = torch.cat([first, second]) @ torch.cat([all_first, all_second]).T / temperature
        batch, total = len(first), len(all_first)
        offset = dist.get_rank() * batch if world_size() > 1 else 0
        own = torch.arange(batch, device=first.device) + offset  # columns of our rows' first views
        itself = torch.cat([own, own + total])
        positive = torch.cat([own + total, own])
        # a row is left out by its index, not by its value: two equal views may well be each other's positive
        similarity = similarity.scatter(1, itself[:, None], -torch.inf)
        return functional.cross_entropy(similarity, positive)


def positive_loss(first: Tensor, second: Tensor) -> Tensor:
    """Mean of 1 - cos over pairs of views: pulls them together, pushes nothing apart.

    Args:
        first, second (`Tensor`): (batch, projection_size), any scale.
    """
    return 1 - functional.cosine_similarity(first.float(), second.float(), dim=1).mean()


def positive_loss_as_released(first: Tensor, second: Tensor, temperature: float = 0.1) -> Tensor:
    """The "positive" contrast as the NeurIPS 2022 code computes it: mean of (cos / temperature)^2, over 2 * batch
    of all ranks.

    It is least where the two views of a network are orthogonal, so it does not pull them together, and it vanishes
    with the batch size. For comparison with published models only.

    Args:
        first, second (`Tensor`): (batch, projection_size), any scale; every rank has as many.
        temperature (`float`, *optional*, defaults to 0.1).
    """
    cosines = functional.cosine_similarity(first.float(), second.float(), dim=1)
    return (cosines / temperature).square().mean() / (2 * len(first) * world_size())


__all__ = [
    "gather_rows",
    "layer_squared_errors",
    "nt_xent",
    "positive_loss",
    "positive_loss_as_released",
    "r_squared",
    "reconstruction_loss",
]
