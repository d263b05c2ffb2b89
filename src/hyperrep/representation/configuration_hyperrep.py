"""Configuration of a hyper-representation."""

import math
from dataclasses import field
from typing import Any, NamedTuple

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


CONTRASTS = ("nt_xent", "positive", "positive_as_released")
LATENTS_PER = ("network", "neuron")

# The poster's network: 3 convolutions and 2 fully connected layers, 2,464 parameters.
POSTER_LAYOUT = [
    ["convs.0.weight", [8, 1, 5, 5]],
    ["convs.0.bias", [8]],
    ["convs.1.weight", [6, 8, 5, 5]],
    ["convs.1.bias", [6]],
    ["convs.2.weight", [4, 6, 2, 2]],
    ["convs.2.bias", [4]],
    ["linears.0.weight", [20, 36]],
    ["linears.0.bias", [20]],
    ["linears.1.weight", [10, 20]],
    ["linears.1.bias", [10]],
]


class LayerTokens(NamedTuple):
    """The neuron tokens of one layer: `num_units` of them, each `fan_in` incoming weights and perhaps a bias."""

    name: str
    num_units: int
    fan_in: int
    has_bias: bool

    @property
    def token_size(self) -> int:
        return self.fan_in + self.has_bias

    @property
    def num_params(self) -> int:
        return self.num_units * self.token_size


@strict
class HyperRepConfig(PreTrainedConfig):
    r"""
    Configuration of a [`HyperRepModel`], an encoder-decoder transformer over the weights of a population of networks
    (Schürholt et al., Hyper-Representations as Generative Models, NeurIPS 2022). The defaults make a small model that
    trains on a laptop; the paper's MNIST model has `hidden_size=1428`, `intermediate_size=1380`,
    `num_attention_heads=12`, `num_hidden_layers=2`, `latent_size=700`, `projection_hidden_size=400`,
    `hidden_act="relu"` and 98.5 million parameters.

    Args:
        layout (`list`, *optional*, defaults to the poster's network): names and shapes of the networks' tensors in
            the order of the weight vector, `[["convs.0.weight", [8, 1, 5, 5]], ["convs.0.bias", [8]], ...]`.
        network (`dict`, *optional*): configuration of the networks, `model_type` included.
        image_processor (`dict`, *optional*): configuration of the networks' image processor.
        zoo (`dict`, *optional*): where the training weights came from: name, revision, epochs.
        aligned (`bool`, *optional*, defaults to `False`): whether networks are permuted to lie close to a reference
            network, kept in the checkpoint, before they are encoded.
        hidden_size (`int`, *optional*, defaults to 128): width of a token.
        num_hidden_layers (`int`, *optional*, defaults to 2): blocks of the encoder, and as many of the decoder.
        num_attention_heads (`int`, *optional*, defaults to 4): they divide `hidden_size`.
        intermediate_size (`int`, *optional*, defaults to 256): width of a block's feed-forward part.
        hidden_act (`str`, *optional*, defaults to `"gelu"`): its activation; the paper has `relu`.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.0): after attention and in the feed-forward part.
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.0): on attention probabilities.
        layer_norm_eps (`float`, *optional*, defaults to 1e-6).
        initializer_range (`float`, *optional*, defaults to 0.02): standard deviation of initial weights.
        latents_per (`str`, *optional*, defaults to `"network"`): `network`, one latent for the whole network, gathered
            by a compression token (the paper); or `neuron`, one latent a neuron token, laid end to end (as SANE).
        latent_size (`int`, *optional*, defaults to 64): width of the flat latent of one network, in (-1, 1). With
            `latents_per="neuron"` it follows: `num_tokens * neuron_latent_size`.
        neuron_latent_size (`int`, *optional*, defaults to 16): width of one neuron's latent.
        projection_hidden_size (`int`, *optional*, defaults to 128): hidden width of the projection head.
        projection_num_layers (`int`, *optional*, defaults to 4): its hidden layers.
        projection_size (`int`, *optional*, defaults to 50): its output, on which the contrast acts.
        contrast (`str`, *optional*, defaults to `"nt_xent"`): `nt_xent`; `positive`, which only pulls the two
            views of a network together; or `positive_as_released`, the squared cosine of the two views as the paper's
            code computes it, for comparison.
        contrast_weight (`float`, *optional*, defaults to 0.1): gamma in
            `loss = gamma * contrastive_loss + (1 - gamma) * reconstruction_loss`. At 0 there is no projection head.
        temperature (`float`, *optional*, defaults to 0.1): of NT-Xent and of `positive_as_released`.
        normalize_loss (`bool`, *optional*, defaults to `True`): layer-wise loss normalisation: each layer's squared
            error is divided by the variance of that layer's weights over the zoo (poster, L_MSE).
        standardize_weights (`bool`, *optional*, defaults to `False`): show the encoder each layer less its mean and
            divided by its standard deviation over the zoo, and undo it after the decoder. The paper feeds raw
            weights. The loss is the same formula either way.

    Raises:
        ValueError: if sizes do not fit together or the layout is not one of weights, each followed by its bias.
    """

    model_type = "hyperrep"

    layout: list = field(default_factory=lambda: [[name, list(shape)] for name, shape in POSTER_LAYOUT])
    network: dict | None = None
    image_processor: dict | None = None
    zoo: dict | None = None
    aligned: bool = False

    hidden_size: int = 128
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    intermediate_size: int = 256
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02

    latents_per: str = "network"
    latent_size: int = 64
    neuron_latent_size: int = 16

    projection_hidden_size: int = 128
    projection_num_layers: int = 4
    projection_size: int = 50
    contrast: str = "nt_xent"
    contrast_weight: float | int = 0.1
    temperature: float | int = 0.1

    normalize_loss: bool = True
    standardize_weights: bool = False

    def __post_init__(self, **kwargs: Any):
        # JSON knows no tuples; a layout written as tuples must compare equal to the one that comes back from the Hub
        self.layout = [[name, list(shape)] for name, shape in self.layout]
        if self.latents_per == "neuron":
            self.latent_size = self.num_tokens * self.neuron_latent_size
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Rules across fields, checked at construction and before saving."""
        for name in (
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "latent_size",
            "neuron_latent_size",
            "projection_hidden_size",
            "projection_size",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is no multiple of num_attention_heads {self.num_attention_heads}."
            )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, 1).")
        if not 0 <= self.contrast_weight <= 1:
            raise ValueError(f"contrast_weight is {self.contrast_weight}; it must lie in [0, 1].")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; it must be positive.")
        if self.latents_per not in LATENTS_PER:
            raise ValueError(f"latents_per {self.latents_per!r} is unknown; choose from {', '.join(LATENTS_PER)}.")
        if self.contrast not in CONTRASTS:
            raise ValueError(f"contrast {self.contrast!r} is unknown; choose from {', '.join(CONTRASTS)}.")
        if not self.layers:
            raise ValueError("layout is empty; give the networks' tensors, such as WeightLayout.of(module).to_list().")

    @property
    def layers(self) -> list[LayerTokens]:
        """The networks' layers in the order of the weight vector."""
        layers: list[LayerTokens] = []
        for name, shape in self.layout:
            module, _, kind = name.rpartition(".")
            if kind == "weight" and len(shape) >= 2:
                layers.append(LayerTokens(module, shape[0], math.prod(shape[1:]), has_bias=False))
            elif kind == "bias" and layers and layers[-1].name == module and shape == [layers[-1].num_units]:
                layers[-1] = layers[-1]._replace(has_bias=True)
            else:
                raise ValueError(
                    f"layout: {name!r} of shape {shape} is neither a weight nor the bias that belongs to the weight "
                    "before it."
                )
        return layers

    @property
    def num_tokens(self) -> int:
        """Output units of all layers: one neuron token each."""
        return sum(layer.num_units for layer in self.layers)

    @property
    def num_params(self) -> int:
        """Length of a weight vector."""
        return sum(layer.num_params for layer in self.layers)


__all__ = ["HyperRepConfig"]
