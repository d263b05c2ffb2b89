"""Hyper-representation: an encoder-decoder transformer over the weights of a population of networks.

    weights (batch, num_params) -> neuron tokens -> encoder -> latents (batch, latent_size) -> decoder -> weights

Schürholt et al., Hyper-Representations as Generative Models: Sampling Unseen Neural Network Weights, NeurIPS 2022.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, cached_file
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .alignment import align
from .blocks import HyperRepAttention, HyperRepLayer
from .configuration_hyperrep import HyperRepConfig
from .losses import (
    gather_rows,
    local_rows,
    nt_xent,
    positive_loss,
    positive_loss_as_released,
    reconstruction_loss,
)


MIN_LAYER_STD = 1e-4  # floor of sigma_l, as in the NeurIPS 2022 code
HUB_ARGUMENTS = {"cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token"}
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


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
class HyperRepHalfOutput(ModelOutput):
    """
    Args:
        result (`Tensor`): latents of the encoder, weights of the decoder.
        hidden_states, attentions (`tuple[Tensor, ...]`, *optional*): see [`HyperRepOutput`].
    """

    result: Tensor
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class HyperRepTokenEmbeddings(nn.Module):
    """Weight vectors (batch, num_params) to neuron tokens (batch, num_tokens, hidden_size).

    A token is one output unit: its incoming weights and its bias. All units of a layer share one linear map.
    """

    def __init__(self, config: HyperRepConfig):
        super().__init__()
        self.layers = config.layers
        self.projections = nn.ModuleList(nn.Linear(layer.token_size, config.hidden_size) for layer in self.layers)

    def forward(self, weights: Tensor) -> Tensor:
        neurons = zip(self.projections, self.neurons(weights), strict=True)
        return torch.cat([projection(units) for projection, units in neurons], dim=1)

    def neurons(self, weights: Tensor) -> list[Tensor]:
        """The neurons of each layer, (batch, num_units, token_size)."""
        neurons = []
        for layer, values in zip(self.layers, weights.split([part.num_params for part in self.layers], dim=1)):
            end = layer.num_units * layer.fan_in
            units = values[:, :end].unflatten(1, (layer.num_units, layer.fan_in))
            if layer.has_bias:
                units = torch.cat([units, values[:, end:, None]], dim=2)
            neurons.append(units)
        return neurons


class HyperRepTokenOutputs(nn.Module):
    """Tokens (batch, num_tokens, hidden_size) back to weight vectors (batch, num_params): the embeddings' inverse."""

    def __init__(self, config: HyperRepConfig):
        super().__init__()
        self.layers = config.layers
        self.projections = nn.ModuleList(nn.Linear(config.hidden_size, layer.token_size) for layer in self.layers)

    def forward(self, hidden_states: Tensor) -> Tensor:
        slices = hidden_states.split([layer.num_units for layer in self.layers], dim=1)
        parts = []
        for layer, projection, tokens in zip(self.layers, self.projections, slices, strict=True):
            units = projection(tokens)  # (batch, num_units, token_size)
            parts.append(units[:, :, : layer.fan_in].flatten(1))
            if layer.has_bias:
                parts.append(units[:, :, layer.fan_in])
        return torch.cat(parts, dim=1)


class HyperRepPositions(nn.Embedding):
    """Adds to each of the tokens (batch, tokens, hidden_size) the embedding of its place."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        # under autocast tokens are bf16 from here on
        return hidden_states + self.weight.to(hidden_states.dtype)


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
        if isinstance(module, HyperRepModel):
            init.zeros_(module.layer_mean)
            init.ones_(module.layer_std)
            if module.reference is not None:
                init.zeros_(module.reference)


class HyperRepEncoder(HyperRepPreTrainedModel):
    """Weight vectors (batch, num_params) to latents (batch, latent_size).

    With `latents_per="network"` a learned compression token, put first, collects the whole network (the paper); with
    `"neuron"` each neuron token has a latent of its own (as SANE), and they are laid end to end.
    """

    def __init__(self, config: HyperRepConfig):
        super().__init__(config)
        self.embeddings = HyperRepTokenEmbeddings(config)
        self.compress = config.latents_per == "network"
        if self.compress:
            self.compression_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.position_embeddings = HyperRepPositions(self.compress + config.num_tokens, config.hidden_size)
        self.layers = nn.ModuleList(HyperRepLayer(config) for _ in range(config.num_hidden_layers))
        width = config.latent_size if self.compress else config.neuron_latent_size
        self.bottleneck = nn.Linear(config.hidden_size, width)

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, weights: Tensor, **kwargs) -> HyperRepHalfOutput:
        hidden_states = self.embeddings(weights.to(self.bottleneck.weight.dtype))
        if self.compress:
            compression_token = self.compression_token.expand(len(weights), -1, -1).to(hidden_states.dtype)
            hidden_states = torch.cat([compression_token, hidden_states], dim=1)
        hidden_states = self.position_embeddings(hidden_states)  # (batch, [1 +] num_tokens, hidden_size)
        for layer in self.layers[:-1]:
            hidden_states = layer(hidden_states, **kwargs)
        # of the last block nothing but the compression token is used
        hidden_states = self.layers[-1](hidden_states, num_queries=1 if self.compress else None, **kwargs)
        return HyperRepHalfOutput(self.bottleneck(hidden_states).flatten(1).float().tanh())


class HyperRepDecoder(HyperRepPreTrainedModel):
    """Latents (batch, latent_size) to weight vectors (batch, num_params)."""

    def __init__(self, config: HyperRepConfig):
        super().__init__(config)
        self.token_shape = (config.num_tokens, config.hidden_size)
        self.compress = config.latents_per == "network"
        if self.compress:
            self.decompression = nn.Linear(config.latent_size, config.num_tokens * config.hidden_size)
        else:
            self.decompression = nn.Linear(config.neuron_latent_size, config.hidden_size)
        self.position_embeddings = HyperRepPositions(*self.token_shape)
        self.layers = nn.ModuleList(HyperRepLayer(config) for _ in range(config.num_hidden_layers))
        self.outputs = HyperRepTokenOutputs(config)

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, latents: Tensor, **kwargs) -> HyperRepHalfOutput:
        latents = latents.to(self.decompression.weight.dtype)
        if not self.compress:
            latents = latents.unflatten(1, (self.token_shape[0], -1))  # (batch, num_tokens, neuron_latent_size)
        hidden_states = self.decompression(latents).reshape(-1, *self.token_shape)
        hidden_states = self.position_embeddings(hidden_states)
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        return HyperRepHalfOutput(self.outputs(hidden_states))


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
    _keep_in_fp32_modules_strict = ["layer_mean", "layer_std"]
    layer_mean: Tensor
    layer_std: Tensor
    reference: Tensor | None

    def __init__(self, config: HyperRepConfig):
        super().__init__(config)
        if config.aligned:
            self._keep_in_fp32_modules_strict = ["layer_mean", "layer_std", "reference"]
        self.layer_sizes = [layer.num_params for layer in config.layers]
        self.encoder = HyperRepEncoder(config)
        self.decoder = HyperRepDecoder(config)
        self.projection_head = HyperRepProjectionHead(config) if config.contrast_weight else None
        # mu_l and sigma_l of the poster's loss, (num_layers,); part of the checkpoint, always float32
        self.register_buffer("layer_mean", torch.zeros(len(self.layer_sizes), dtype=torch.float32))
        self.register_buffer("layer_std", torch.ones(len(self.layer_sizes), dtype=torch.float32))
        # the network that others are aligned to before they are encoded, (num_params,)
        reference = torch.zeros(config.num_params, dtype=torch.float32) if config.aligned else None
        self.register_buffer("reference", reference)
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
        source = pretrained_model_name_or_path or "the state dict"
        for problem in ("missing", "unexpected"):
            if names := sorted(info[f"{problem}_keys"]):
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                raise ValueError(f"{source}: tensors are {problem}: {', '.join(names[:5])}{more}.")
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and not tensor.is_meta and not torch.isfinite(tensor).all():
                raise ValueError(f"{source}: {name} holds NaN or infinite numbers.")
        return model

    @torch.no_grad()
    def set_layer_statistics(self, weights: Tensor) -> None:
        """Set mu_l and sigma_l of every layer: one mean and one standard deviation over all of its entries, weights
        and bias together, in the training split.

        Args:
            weights (`Tensor`): (checkpoints, num_params), raw and unpermuted.
        """
        for i, values in enumerate(weights.float().split(self.layer_sizes, dim=1)):
            self.layer_mean[i] = values.mean()
            self.layer_std[i] = values.std().clamp_min(MIN_LAYER_STD)

    def align(self, weights: Tensor) -> Tensor:
        """Weights (batch, num_params) with hidden units in the order that the model was trained to see: close to its
        reference network, if it has one."""
        _check_width("weights", weights, self.config.num_params)
        return weights if self.reference is None else align(weights, self.reference, self.config.layout)

    def encode(self, weights: Tensor, aligned: bool = False, **kwargs) -> Tensor:
        """
        Latents of networks. If the model was trained on aligned ones, they are aligned first, so that the order of a
        network's hidden units does not matter.

        Args:
            weights (`Tensor`): (batch, num_params), weight vectors in the order of `config.layout`.
            aligned (`bool`, *optional*, defaults to `False`): they are what [`align`] makes already; saves the time.

        Returns:
            `Tensor`: (batch, latent_size), float32, in (-1, 1).

        Raises:
            ValueError: if the weights have another shape, or are to be aligned and not finite.
        """
        weights = weights if aligned else self.align(weights)
        if not len(weights):  # attention takes no empty batch
            return torch.zeros(0, self.config.latent_size, device=weights.device)
        return self._encode(weights, **kwargs).result

    def decode(self, latents: Tensor, **kwargs) -> Tensor:
        """
        Args:
            latents (`Tensor`): (batch, latent_size), as [`encode`] makes them.

        Returns:
            `Tensor`: (batch, num_params), float32, weight vectors.
        """
        if not len(latents):
            return torch.zeros(0, self.config.num_params, device=latents.device)
        return self._decode(latents, **kwargs).result

    def _encode(self, weights: Tensor, **kwargs) -> HyperRepHalfOutput:
        _check_width("weights", weights, self.config.num_params)
        return self.encoder(self.standardized(weights), **kwargs | {"return_dict": True})

    def _decode(self, latents: Tensor, **kwargs) -> HyperRepHalfOutput:
        _check_width("latents", latents, self.config.latent_size)
        output = self.decoder(latents, **kwargs | {"return_dict": True})
        output.result = output.result.float()
        if self.config.standardize_weights:
            mean, std = self._statistics_per_weight()
            output.result = output.result * std + mean
        return output

    def standardized(self, weights: Tensor) -> Tensor:
        """Weights (batch, num_params) as the encoder sees them."""
        if not self.config.standardize_weights:
            return weights
        mean, std = self._statistics_per_weight()
        return (weights.float() - mean) / std

    def _statistics_per_weight(self) -> Iterator[Tensor]:
        """mu and sigma of each entry's layer, both (num_params,)."""
        for statistic in (self.layer_mean, self.layer_std):
            yield torch.cat([statistic[i].expand(size) for i, size in enumerate(self.layer_sizes)])

    @can_return_tuple
    def forward(self, weights: Tensor, target: Tensor | None = None, num_views: int = 1, **kwargs) -> HyperRepOutput:
        r"""
        What training runs. Weights are taken as they are: give a model of aligned networks what [`align`] makes.

        Args:
            weights (`Tensor`): (num_views * batch, num_params). With two views, row `i` and row `batch + i` are two
                augmentations of the same network.
            target (`Tensor`, *optional*): like `weights`, what to reconstruct; by default `weights` themselves.
            num_views (`int`, *optional*, defaults to 1): 1 or 2. With 2 the contrastive loss joins in.
        """
        encoded = self._encode(weights, **kwargs)
        decoded = self._decode(encoded.result, **kwargs)
        latents, reconstruction = encoded.result, decoded.result
        projections = self.projection_head(latents) if self.projection_head is not None else None

        layer_std = self.layer_std if self.config.normalize_loss else torch.ones_like(self.layer_std)
        target = weights if target is None else target
        loss = error = reconstruction_loss(reconstruction, target, self.layer_sizes, layer_std).sum()
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


def _check_width(what: str, rows: Tensor, width: int) -> None:
    if not isinstance(rows, Tensor):
        raise TypeError(f"{what} are a {type(rows).__name__}; a torch.Tensor is needed: torch.as_tensor({what}).")
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(f"{what} have shape {list(rows.shape)}; this model reads (batch, {width}).")


def refuse_pickles(name_or_path: str, where: Mapping[str, Any]) -> None:
    """Whether a model's files are safetensors, as far as they are there.

    Args:
        name_or_path (`str`): local folder or Hub id.
        where (`Mapping`): arguments of `from_pretrained` that say where on the Hub, or which variant.

    Raises:
        OSError: if there is a pickle instead, or an index names a file that is none of the safetensors beside it.
    """
    folder = Path(name_or_path, where.get("subfolder") or "")
    if folder.is_dir() and not any(folder.glob("model*.safetensors*")):
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
        if pickles:
            raise OSError(
                f"{folder} holds {', '.join(pickles)} but no model.safetensors: pickles can run code and are "
                "never loaded. Ask its author for safetensors, or convert a file you trust with safetensors.torch."
            )
    suffix = f".{where['variant']}" if where.get("variant") else ""
    hub = {key: value for key, value in where.items() if key in HUB_ARGUMENTS}
    for file_name in (f"model{suffix}.safetensors", f"model.safetensors.index{suffix}.json"):
        file = cached_file(name_or_path, file_name, _raise_exceptions_for_missing_entries=False, **hub)
        if file is not None:
            break
    if file is None or not file.endswith(".json"):
        return
    try:
        shards = set(json.loads(Path(file).read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OSError(f"{file} is no index of safetensors files.") from error
    for shard in shards:
        if Path(str(shard)).name != shard or not shard.endswith(".safetensors"):
            raise OSError(f"{file} names {shard!r}; only safetensors files beside it are read.")


__all__ = ["HyperRepModel", "HyperRepOutput", "HyperRepPreTrainedModel"]
