"""Hyper-representation: an encoder-decoder transformer over the weights of a population of networks.

    weights (batch, num_params) -> neuron tokens -> encoder -> latents (batch, latent_size) -> decoder -> weights

Schürholt et al., Hyper-Representations as Generative Models: Sampling Unseen Neural Network Weights, NeurIPS 2022.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .blocks import HyperRepAttention, HyperRepLayer
from .configuration_hyperrep import HyperRepConfig
from .embeddings import HyperRepTokenEmbeddings, HyperRepTokenOutputs, positions_of
from .losses import (
    gather_rows,
    local_rows,
    nt_xent,
    positive_loss,
    positive_loss_as_released,
    reconstruction_loss,
)
from .processing_hyperrep import HyperRepProcessor, check_width
from .strict import refuse_incomplete, refuse_pickles
from .windows import in_windows


@dataclass
class HyperRepOutput(ModelOutput):
    """
    Args:
        loss (`Tensor`): scalar, what training minimises.
        reconstruction_loss (`Tensor`): scalar.
        contrastive_loss (`Tensor`, *optional*): scalar, with two views and a projection head only.
        reconstruction (`Tensor`): (batch, num_params), the decoded weights.
        latents (`Tensor`): (batch, latent_size), in (-1, 1).
        projections (`Tensor`, *optional*): (batch, projection_size), without a projection head `None`.
        encoder_hidden_states, decoder_hidden_states (`tuple[Tensor, ...]`, *optional*): what enters the first block,
            then the output of each. The encoder's last block makes one token only, that of compression, if latents
            are per network.
        encoder_attentions, decoder_attentions (`tuple[Tensor, ...]`, *optional*): of each block, with eager attention.
    """

    loss: Tensor | None = None
    reconstruction_loss: Tensor | None = None
    contrastive_loss: Tensor | None = None
    reconstruction: Tensor | None = None
    latents: Tensor | None = None
    projections: Tensor | None = None
    encoder_hidden_states: tuple[Tensor | None, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
    decoder_hidden_states: tuple[Tensor | None, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None


@dataclass
class HyperRepEncoderOutput(ModelOutput):
    """
    Args:
        latents (`Tensor`): (batch, latent_size), in (-1, 1).
        hidden_states, attentions (`tuple[Tensor, ...]`, *optional*): see [`HyperRepOutput`].
    """

    latents: Tensor
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class HyperRepDecoderOutput(ModelOutput):
    """
    Args:
        tokens (`list[Tensor]`): one a layer, (batch, num_units, token_size).
        hidden_states, attentions (`tuple[Tensor, ...]`, *optional*): see [`HyperRepOutput`].
    """

    tokens: list[Tensor]
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class HyperRepPreTrainedModel(PreTrainedModel):
    config: HyperRepConfig
    config_class = HyperRepConfig
    base_model_prefix = "hyperrep"
    main_input_name = "weights"
    input_modalities = ["weights"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["HyperRepLayer"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": HyperRepLayer, "attentions": HyperRepAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, HyperRepEncoder) and module.compress:
            init.normal_(module.compression_token)
        if isinstance(module, HyperRepProcessor):
            init.zeros_(module.layer_mean)
            init.ones_(module.layer_std)
            if module.reference is not None:
                init.zeros_(module.reference)


class HyperRepEncoder(HyperRepPreTrainedModel):
    """Neuron tokens, one tensor a layer, to latents (batch, latent_size); or tokens of one width, in windows, to
    theirs: then `places` (batch, window, 3) tell where they are ([`~hyperrep.representation.windows.places_of`]).

    With `latents_per="network"` a learned compression token, put first, collects the whole network (the paper); with
    `"neuron"` each neuron token has a latent of its own (as SANE), and they are laid end to end.
    """

    def __init__(self, config: HyperRepConfig):
        super().__init__(config)
        self.embeddings = HyperRepTokenEmbeddings(config)
        self.compress = config.latents_per == "network"
        if self.compress:
            self.compression_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.position_embeddings = positions_of(config, self.compress + config.num_tokens)
        self.layers = nn.ModuleList(HyperRepLayer(config) for _ in range(config.num_hidden_layers))
        width = config.latent_size if self.compress else config.neuron_latent_size
        self.bottleneck = nn.Linear(config.hidden_size, width)

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, tokens: list[Tensor], places: Tensor | None = None, **kwargs) -> HyperRepEncoderOutput:
        hidden_states = self.embeddings([units.to(self.bottleneck.weight.dtype) for units in tokens])
        if self.compress:
            compression_token = self.compression_token.expand(len(hidden_states), -1, -1).to(hidden_states.dtype)
            hidden_states = torch.cat([compression_token, hidden_states], dim=1)
        hidden_states = self.position_embeddings(hidden_states, places)  # (batch, [1 +] tokens, hidden_size)
        for layer in self.layers[:-1]:
            hidden_states = layer(hidden_states, **kwargs)
        # of the last block nothing but the compression token is used
        hidden_states = self.layers[-1](hidden_states, num_queries=1 if self.compress else None, **kwargs)
        return HyperRepEncoderOutput(self.bottleneck(hidden_states).flatten(1).float().tanh())


class HyperRepDecoder(HyperRepPreTrainedModel):
    """Latents (batch, latent_size) to neuron tokens, one tensor a layer; or those of windows, with `places`
    (batch, window, 3), to tokens of one width."""

    def __init__(self, config: HyperRepConfig):
        super().__init__(config)
        self.token_shape = (config.num_tokens, config.hidden_size)
        self.compress = config.latents_per == "network"
        if self.compress:
            self.decompression = nn.Linear(config.latent_size, config.num_tokens * config.hidden_size)
        else:
            self.decompression = nn.Linear(config.neuron_latent_size, config.hidden_size)
        self.position_embeddings = positions_of(config, config.num_tokens)
        self.layers = nn.ModuleList(HyperRepLayer(config) for _ in range(config.num_hidden_layers))
        self.outputs = HyperRepTokenOutputs(config)

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, latents: Tensor, places: Tensor | None = None, **kwargs) -> HyperRepDecoderOutput:
        latents = latents.to(self.decompression.weight.dtype)
        if self.compress:
            hidden_states = self.decompression(latents).reshape(-1, *self.token_shape)
        else:  # (batch, tokens, neuron_latent_size)
            hidden_states = self.decompression(latents.unflatten(1, (-1, self.decompression.in_features)))
        hidden_states = self.position_embeddings(hidden_states, places)
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        return HyperRepDecoderOutput(self.outputs(hidden_states))


class HyperRepProjectionHead(nn.Module):
    """Latents (batch, latent_size) to the space where views are contrasted (batch, projection_size)."""

    def __init__(self, config: HyperRepConfig):
        super().__init__()
        widths = [config.latent_size] + [config.projection_hidden_size] * config.projection_num_layers
        self.hidden = nn.ModuleList(nn.Linear(widths[i], widths[i + 1]) for i in range(len(widths) - 1))
        self.output = nn.Linear(widths[-1], config.projection_size)
        self.norm = nn.BatchNorm1d(config.projection_size)

    def forward(self, latents: Tensor) -> Tensor:
        hidden_states = latents.to(self.output.weight.dtype)
        # at first all rows are nearly alike, and BatchNorm makes their differences large: bf16 would round these away
        with torch.autocast(latents.device.type, enabled=False):
            for linear in self.hidden:
                hidden_states = linear(hidden_states).relu()
            projections = self.output(hidden_states)
        if self.training:  # statistics over the rows of all ranks, so that the number of processes changes nothing
            return local_rows(self.norm(gather_rows(projections)))
        return self.norm(projections)


class HyperRepModel(HyperRepPreTrainedModel):
    r"""
    Encoder and decoder of a hyper-representation, with the projection head its training needs.

    Example:

    ```python
    >>> model = HyperRepModel.from_pretrained("org/hyperrep-svhn")
    >>> latents = model.encode(weights)         # (batch, num_params) -> (batch, latent_size)
    >>> reconstruction = model.decode(latents)  # (batch, latent_size) -> (batch, num_params)
    ```
    """

    # what is undone after the decoder, and compared with, must not be rounded to bf16
    _keep_in_fp32_modules_strict = ["processor"]

    def __init__(self, config: HyperRepConfig):
        super().__init__(config)
        self.processor = HyperRepProcessor(config)
        self.encoder = HyperRepEncoder(config)
        self.decoder = HyperRepDecoder(config)
        self.projection_head = HyperRepProjectionHead(config) if config.contrast_weight else None
        self.post_init()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *args: Any, **kwargs: Any
    ) -> "HyperRepModel":
        """As [`~transformers.PreTrainedModel.from_pretrained`], but reads safetensors only, since a pickle can run
        code, and fills nothing in: what the files lack would be noise.

        With `output_loading_info=True`, or a changed configuration and `ignore_mismatched_sizes=True`, the caller
        sees to missing and other tensors.

        Raises:
            OSError: if there is no `model.safetensors`; says so when there is a pickle instead.
            ValueError: if tensors are missing, unexpected, or hold NaN or infinity.
        """
        if kwargs.get("use_safetensors") is None:
            kwargs["use_safetensors"] = True
        if not kwargs["use_safetensors"]:
            raise ValueError("use_safetensors=False would load a pickle; only model.safetensors is read.")
        if pretrained_model_name_or_path is not None:
            refuse_pickles(os.fspath(pretrained_model_name_or_path), kwargs)
        tolerant = kwargs.pop("output_loading_info", False)
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        if tolerant:
            return loaded  # a pair, as the base class returns it
        model, info = loaded
        refuse_incomplete(model, info, pretrained_model_name_or_path or "the state dict")
        return model

    @property
    def latent_places(self) -> Tensor:
        """(latent_size, 2), int64: of which layer and of which neuron, from 0, each number of a latent is. A latent of
        a whole network is one."""
        if self.config.latents_per == "network":
            return torch.zeros(self.config.latent_size, 2, dtype=torch.int64)
        return self.processor.token_places.repeat_interleave(self.config.neuron_latent_size, dim=0)

    def encode(self, weights: Tensor, aligned: bool = False, **kwargs) -> Tensor:
        """
        Latents of networks. If the model was trained on aligned ones, they are aligned first, so that the order of a
        network's hidden units does not matter.

        Args:
            weights (`Tensor`): (batch, num_params), weight vectors in the order of `config.layout`.
            aligned (`bool`, *optional*, defaults to `False`): they are what `processor.align` makes already; saves the
                time.

        Returns:
            `Tensor`: (batch, latent_size), float32, in (-1, 1).

        Raises:
            ValueError: if the weights have another shape, or are to be aligned and not finite.
        """
        weights = weights if aligned else self.processor.align(weights)
        if not len(weights):  # attention takes no empty batch
            return torch.zeros(0, self.config.latent_size, device=weights.device)
        return self._encode(weights, **kwargs).latents

    def decode(self, latents: Tensor, **kwargs) -> Tensor:
        """
        Args:
            latents (`Tensor`): (batch, latent_size), as [`encode`] makes them.

        Returns:
            `Tensor`: (batch, num_params), float32, weight vectors.
        """
        if not len(latents):
            return torch.zeros(0, self.config.num_params, device=latents.device)
        return self.processor.decode(self._decode(latents, **kwargs).tokens)

    def _encode(self, weights: Tensor, **kwargs) -> HyperRepEncoderOutput:
        tokens, kwargs = self.processor(weights), kwargs | {"return_dict": True}
        if self.config.token_size is None:
            return self.encoder(tokens, **kwargs)

        def latents_of(windows: Tensor, places: Tensor) -> Tensor:
            latents = self.encoder([windows], places=places, **kwargs).latents
            return latents.unflatten(1, (-1, self.config.neuron_latent_size))

        latents = in_windows(latents_of, tokens[0], self.processor.coordinates, self.config.window, self.config.halo)
        return HyperRepEncoderOutput(latents.flatten(1))

    def _decode(self, latents: Tensor, **kwargs) -> HyperRepDecoderOutput:
        check_width("latents", latents, self.config.latent_size)
        kwargs |= {"return_dict": True}
        if self.config.token_size is None:
            return self.decoder(latents, **kwargs)

        def tokens_of(windows: Tensor, places: Tensor) -> Tensor:
            return self.decoder(windows.flatten(1), places=places, **kwargs).tokens[0]

        rows, config = latents.unflatten(1, (-1, self.config.neuron_latent_size)), self.config
        tokens = in_windows(tokens_of, rows, self.processor.coordinates, config.window, config.halo)
        return HyperRepDecoderOutput([tokens])

    @can_return_tuple
    def forward(
        self,
        weights: Tensor,
        target: Tensor | None = None,
        num_views: int = 1,
        places: Tensor | None = None,
        shares: Tensor | None = None,
        **kwargs,
    ) -> HyperRepOutput:
        r"""
        What training runs. Weights are taken as they are: give a model of aligned networks what `processor.align`
        makes.

        Args:
            weights (`Tensor`): (num_views * batch, num_params). With two views, row `i` and row `batch + i` are two
                augmentations of the same network. With `places`, tokens of windows (batch, window, token_size), as
                `processor.windows` makes them.
            target (`Tensor`, *optional*): like `weights`, what to reconstruct; by default `weights` themselves.
            num_views (`int`, *optional*, defaults to 1): 1 or 2. With 2 the contrastive loss joins in.
            places (`Tensor`, *optional*): (batch, window, 3), where these tokens are.
            shares (`Tensor`, *optional*): (batch, window, token_size), of their numbers in a network's loss; by
                default all alike.
        """
        if places is not None:
            return self._forward_windows(weights, weights if target is None else target, places, shares, **kwargs)
        encoded = self._encode(weights, **kwargs)
        latents = encoded.latents
        decoded = self._decode(latents, **kwargs)
        reconstruction = self.processor.decode(decoded.tokens)
        projections = self.projection_head(latents) if self.projection_head is not None else None

        sizes, std = self.processor.layer_sizes, self.processor.layer_std
        if not self.config.normalize_loss:
            std = torch.ones_like(std)
        target = weights if target is None else target
        loss = error = reconstruction_loss(reconstruction, target, sizes, std).sum()
        contrast = None
        if num_views == 2 and projections is not None:
            first, second = projections.chunk(2)
            if self.config.contrast == "nt_xent":
                contrast = nt_xent(first, second, self.config.temperature)
            elif self.config.contrast == "positive":
                contrast = positive_loss(first, second)
            else:
                contrast = positive_loss_as_released(first, second, self.config.temperature)
            gamma = self.config.contrast_weight
            loss = gamma * contrast + (1 - gamma) * error
        return HyperRepOutput(
            loss=loss,
            reconstruction_loss=error,
            contrastive_loss=contrast,
            reconstruction=reconstruction,
            latents=latents,
            projections=projections,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
        )

    def _forward_windows(
        self, tokens: Tensor, target: Tensor, places: Tensor, shares: Tensor | None, **kwargs
    ) -> HyperRepOutput:
        """The loss of windows: the normalised reconstruction loss of the numbers that they hold, which are
        standardised, so that each is divided by its layer's deviation already. It is a mean over windows, so that
        neither processes nor micro-batches change its gradient."""
        kwargs |= {"return_dict": True, "places": places}
        latents = self.encoder([tokens], **kwargs).latents
        errors = (self.decoder(latents, **kwargs).tokens[0].float() - target.float()).square()
        error = errors.mean() if shares is None else (errors * shares).sum() / len(errors)
        return HyperRepOutput(loss=error, reconstruction_loss=error, latents=latents)


__all__ = ["HyperRepModel", "HyperRepOutput", "HyperRepPreTrainedModel"]
