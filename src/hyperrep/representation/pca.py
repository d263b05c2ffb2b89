"""A start better than random: a hyper-representation that is a principal component analysis, before any training."""

import torch
from torch import Tensor, nn

from ..errors import UserError
from .blocks import HyperRepLayer
from .embeddings import HyperRepPlaceEmbeddings, HyperRepPositions
from .modeling_hyperrep import HyperRepModel


MAX_NUMBERS = 2**25  # that the components are taken from

LATENT_STD = 0.25  # of every latent dimension at the start: small enough for tanh to be nearly linear


@torch.no_grad()
def initialize_by_pca(model: HyperRepModel, weights: Tensor) -> None:
    """Make the model reconstruct each neuron from its layer's leading principal components.

    The residual stream carries the components from the embedding to the bottleneck, and from there to the output: the
    first channels hold them, and the blocks, whose last maps become zero, add nothing until they are trained.

    Args:
        model ([`HyperRepModel`]): with `latents_per="neuron"`; changed in place. Its processor must be fitted.
        weights (`Tensor`): (checkpoints, num_params), the training split.

    Raises:
        UserError: if the model has one latent for the whole network, or fewer channels than latent dimensions.
    """
    config, encoder, decoder = model.config, model.encoder, model.decoder
    width = config.neuron_latent_size
    if encoder.compress:
        raise UserError("pca_init starts from components of single neurons; set latents_per neuron.")
    if config.hidden_size < width:
        raise UserError(f"pca_init: hidden_size {config.hidden_size} is below neuron_latent_size {width}; raise it.")
    blocks = [module for module in model.modules() if isinstance(module, HyperRepLayer)]
    for last in (last for block in blocks for last in (block.attention.o_proj, block.mlp.fc2)):
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    for positions in (encoder.position_embeddings, decoder.position_embeddings):
        if isinstance(positions, HyperRepPositions):
            positions.weight[:, :width] = 0
        else:
            assert isinstance(positions, HyperRepPlaceEmbeddings)
            positions.projection.weight[:width] = 0
            positions.projection.bias[:width] = 0
    passed_on = torch.eye(width, config.hidden_size)
    encoder.bottleneck.weight.copy_(passed_on)
    decoder.decompression.weight.copy_(passed_on.T)
    for linear in (encoder.bottleneck, decoder.decompression):
        nn.init.zeros_(linear.bias)

    few = -(-weights.numel() // MAX_NUMBERS)  # of large networks every so many is enough
    for neurons, embedding, output in zip(
        model.processor(weights[::few]),
        encoder.embeddings.projections,
        decoder.outputs.projections,
        strict=True,
    ):
        assert isinstance(embedding, nn.Linear)
        assert isinstance(output, nn.Linear)
        mean, components, deviations = principal_components(neurons.flatten(0, 1), width)
        count = len(components)
        scale = LATENT_STD / deviations[:, None]
        embedding.weight[:width] = 0
        embedding.weight[:count] = scale * components
        embedding.bias[:width] = 0
        embedding.bias[:count] = -(scale * components) @ mean
        nn.init.zeros_(output.weight)
        output.weight[:, :count] = (components / scale).T
        output.bias.copy_(mean)


def principal_components(rows: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (width,), the leading components (count, width), orthonormal, and their standard deviations (count,).

    Fewer come back if the rows (n, width) do not vary in so many directions.
    """
    mean = rows.double().mean(dim=0)
    centred = rows.double() - mean
    variances, components = torch.linalg.eigh(centred.T @ centred / len(rows))  # ascending
    variances, components = variances.flip(0)[:count], components.T.flip(0)[:count]
    varying = variances > 1e-10 * variances[0].clamp_min(1e-30)
    deviations = variances[varying].sqrt()
    return mean.float(), components[varying].float(), deviations.float()


__all__ = ["initialize_by_pca", "principal_components"]
