"""A representation for networks of another architecture than those it was trained on."""

import copy
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..weights import WeightLayout
from .modeling_hyperrep import HyperRepModel
from .processing_hyperrep import HyperRepProcessor


@torch.no_grad()
def adapted(
    model: HyperRepModel,
    weights: Tensor,
    layout: WeightLayout,
    network: dict[str, Any] | None = None,
    image_processor: dict[str, Any] | None = None,
) -> HyperRepModel:
    """The same encoder and decoder, and a processor for other networks. What reads windows of tokens of one width
    reads them of any network (SANE, arXiv 2406.09997, Tables 14 to 17, such as from ResNet-18 to ResNet-34).

    Args:
        model ([`HyperRepModel`]): with `token_size`; it stays as it is.
        weights (`Tensor`): (networks, num_params), a few of the others. Means and deviations of layers are theirs, and
            where the model aligns networks by the graph of weight space, it aligns these to the first.
        layout ([`WeightLayout`]): of the others.
        network (`dict`, *optional*): their configuration, `model_type` included; without, they are not aligned, and
            what is sampled cannot be run.
        image_processor (`dict`, *optional*): that of their images.

    Raises:
        UserError: if the model reads networks of one layout only, or the weights are not of that layout.
    """
    if model.config.token_size is None:
        raise UserError(
            "the representation reads networks of its zoo's tensors only; one that reads windows of tokens "
            "(token_size, preset windows) reads any."
        )
    if weights.ndim != 2 or weights.shape[1] != layout.num_params or not len(weights):
        raise UserError(f"weights have shape {list(weights.shape)}; (networks, {layout.num_params}) is needed.")
    aligned = model.config.aligned and network is not None and model.config.symmetries != "chain"
    changes = {"layout": layout.to_list(), "network": network, "image_processor": image_processor, "aligned": aligned}
    config = type(model.config)(**{**model.config.to_dict(), "zoo": None, **changes})
    processor = HyperRepProcessor(config).fit(weights.cpu(), weights[0].cpu() if aligned else None)
    return with_processor(model, processor)


def with_processor(model: HyperRepModel, processor: HyperRepProcessor) -> HyperRepModel:
    """A copy of a model, on its device, that reads the networks of this processor."""
    other = HyperRepModel(processor.config)
    other.to(device=model.device, dtype=model.dtype)  # type: ignore[call-arg]
    other.encoder.load_state_dict(model.encoder.state_dict())
    other.decoder.load_state_dict(model.decoder.state_dict())
    other.processor = copy.deepcopy(processor).to(model.device)
    return other.eval()


__all__ = ["adapted", "with_processor"]
