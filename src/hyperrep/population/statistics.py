"""Running statistics of batch norms, seen afresh: those that are generated need not be those of activations."""

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from ..networks import layout_of
from .checks import check_inputs
from .vmap import stacked_statistics


REFRESH_IMAGES = 1000  # more change next to nothing
_BATCH = 250  # images at once: each layer's statistics are means over batches of so many
_MODELS = 16


@torch.no_grad()
def refresh_statistics(network: PreTrainedConfig, weights: Tensor, images: Tensor) -> Tensor:
    """Networks whose batch norms remember these images, and nothing else: means over batches of 250, as
    `torch.optim.swa_utils.update_bn` takes them (and SANE, arXiv 2406.09997, Table 7, for networks that it
    sampled). Everything that is learned by gradients stays as it is; networks without such memory come back as they
    are.

    Args:
        network (`PreTrainedConfig`): their architecture.
        weights (`Tensor`): (models, num_params).
        images (`Tensor`): (images, channels, height, width), such as networks were trained on, without labels.

    Raises:
        UserError: if weights and images do not fit the network.
    """
    places = layout_of(network).statistics.to(weights.device)
    if not len(places) or not len(weights):
        return weights
    weights, images = check_inputs(network, weights, images)
    seen_after, refreshed = stacked_statistics(network, weights.device), weights.clone()
    for models in torch.arange(len(weights)).split(_MODELS):
        total = torch.zeros(len(models), len(places), dtype=weights.dtype, device=weights.device)
        for batch in images.split(_BATCH):
            total += len(batch) * seen_after(weights[models], batch.to(weights.device))[:, places]
        refreshed[models.unsqueeze(1), places] = total / len(images)
    return refreshed
