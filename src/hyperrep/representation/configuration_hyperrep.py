"""Configuration of a hyper-representation."""

import dataclasses
import math
from dataclasses import field
from typing import Any, NamedTuple

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.utils import logging


CONTRASTS = ("nt_xent", "positive", "positive_as_released")
LATENTS_PER = ("network", "neuron")
SYMMETRIES = ("chain", "permutations", "signs")

# Sizes beyond these are a mistake or an attack: they are refused before memory is asked for.
MAX_PARAMETERS = 10**10  # a hundred times the paper's model
MAX_LAYERS = 1000
MAX_TENSORS = 10_000  # of a layout

PLACE_FEATURES = 32  # sines, and as many cosines, of each of a token's three coordinates

logger = logging.get_logger(__name__)

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
    """The neuron tokens of one layer: `num_units` of them, each `fan_in` incoming weights, perhaps a bias, and what
    else belongs to the unit: scale, shift, running mean and running variance of a normalisation behind it (`others`,
    names of tensors)."""

    name: str
    num_units: int
    fan_in: int
    has_bias: bool
    others: tuple[str, ...] = ()

    @property
    def token_size(self) -> int:
        return self.fan_in + self.has_bias + len(self.others)

    @property
    def num_params(self) -> int:
        return self.num_units * self.token_size

    @property
    def parts(self) -> list[tuple[str, int]]:
        """Names and lengths of the slices of the weight vector, in its order, that are normalised each by its own mean
        and deviation: weight and bias together, as in the poster, and each of the others."""
        return [
            (self.name, self.num_units * (self.fan_in + self.has_bias)),
            *((name, self.num_units) for name in self.others),
        ]


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
        zoo (`dict`, *optional*): where the training weights came from: name, revision, protocol, epochs.
        aligned (`bool`, *optional*, defaults to `False`): whether networks are permuted to lie close to a reference
            network, kept in the checkpoint, before they are encoded.
        symmetries (`str`, *optional*, defaults to `"chain"`): which: `chain`, units of layers that follow one another;
            `permutations`, whatever a trace of the network finds ([`~hyperrep.weights.WeightGraph`]); `signs`, and
            signs of units, where these may change. Training chooses between the first two where it is not told.
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
        token_size (`int`, *optional*): cut units into tokens of so many numbers, of one width for all layers, and read
            networks through windows of tokens, as SANE does, whose tokens have 288: for networks of any size. By
            default a token is a unit, and a network is read at once. Needs `latents_per="neuron"` (a latent a token),
            `standardize_weights`, `normalize_loss`, and no contrast.
        window (`int`, *optional*, defaults to 256): tokens in a window.
        halo (`int`, *optional*, defaults to 32): tokens at each end of a window that give the others their
            surroundings, and are themselves encoded and decoded in the next one.
        standardize_weights (`bool`, *optional*, defaults to `False`): show the encoder each layer less its mean and
            divided by its standard deviation over the zoo, and undo it after the decoder. The paper feeds raw
            weights. The loss is the same formula either way.

    Raises:
        ValueError: if sizes do not fit together, or the layout is no list of names and shapes.
    """

    model_type = "hyperrep"

    layout: list = field(default_factory=lambda: [[name, list(shape)] for name, shape in POSTER_LAYOUT])
    network: dict | None = None
    image_processor: dict | None = None
    zoo: dict | None = None
    aligned: bool = False
    symmetries: str = "chain"

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

    token_size: int | None = None
    window: int = 256
    halo: int = 32

    def __post_init__(self, **kwargs: Any):
        self.layout = _as_json(self.layout)
        width = self.token_size  # is checked later
        if self.latents_per == "neuron" and (width is None or (isinstance(width, int) and width > 0)):
            self.latent_size = self.num_tokens * self.neuron_latent_size
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """As [`~transformers.PreTrainedConfig.from_dict`], but of a file's keys only those that are settings are kept:
        others, such as `attn_implementation`, `quantization_config` or `fusion_config`, would have code of somebody
        else's choice loaded or run. Whoever loads the model may still choose them. (`auto_map` does nothing without
        `trust_remote_code=True`.)"""
        known = {part.name for part in dataclasses.fields(cls)}  # type: ignore[arg-type]
        known.add("auto_map")
        if unknown := sorted(set(map(str, config_dict)) - known - {"model_type", "_commit_hash"}):
            logger.warning("configuration: %s left out, no settings of a representation", ", ".join(unknown))
        return super().from_dict({key: value for key, value in config_dict.items() if key in known}, **kwargs)

    def validate_architecture(self):
        """Rules across fields, checked at construction and before saving."""
        for name, low, high in (
            ("hidden_size", 1, MAX_PARAMETERS),
            ("num_hidden_layers", 1, MAX_LAYERS),
            ("num_attention_heads", 1, MAX_PARAMETERS),
            ("intermediate_size", 1, MAX_PARAMETERS),
            ("latent_size", 1, MAX_PARAMETERS),
            ("neuron_latent_size", 1, MAX_PARAMETERS),
            ("projection_hidden_size", 1, MAX_PARAMETERS),
            ("projection_num_layers", 0, MAX_LAYERS),
            ("projection_size", 1, MAX_PARAMETERS),
            ("hidden_dropout_prob", 0, 0.99),
            ("attention_probs_dropout_prob", 0, 0.99),
            ("layer_norm_eps", 0, 1),
            ("initializer_range", 0, 1e6),
            ("window", 1, MAX_PARAMETERS),
            ("halo", 0, MAX_PARAMETERS),
            ("contrast_weight", 0, 1),
            ("temperature", 1e-6, 1e6),
        ):
            if not low <= getattr(self, name) <= high:  # not so for NaN, either
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [{low:,}, {high:,}].")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is no multiple of num_attention_heads {self.num_attention_heads}."
            )
        for name, choices in (
            ("latents_per", LATENTS_PER),
            ("contrast", CONTRASTS),
            ("hidden_act", sorted(ACT2FN)),
            ("symmetries", SYMMETRIES),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown; choose from {', '.join(choices)}.")
        if not self.layers:
            raise ValueError("layout is empty; give the networks' tensors, such as WeightLayout.of(module).to_list().")
        if self.token_size is not None:
            self._check_windows()
        if self.model_size > MAX_PARAMETERS:
            raise ValueError(f"such a model has {self.model_size:,} parameters; {MAX_PARAMETERS:,} are the limit.")

    def _check_windows(self):
        if self.token_size is None or not 1 <= self.token_size <= MAX_PARAMETERS:
            raise ValueError(f"token_size is {self.token_size}; it must lie in [1, {MAX_PARAMETERS:,}].")
        if 2 * self.halo >= self.window:
            raise ValueError(f"halo {self.halo} at each end leaves nothing of a window of {self.window}.")
        for name, needed in (
            ("latents_per", "neuron"),
            ("standardize_weights", True),
            ("normalize_loss", True),
            ("contrast_weight", 0),
        ):
            if getattr(self, name) != needed:
                raise ValueError(
                    f"token_size {self.token_size} reads networks through windows: set {name} {needed!r} "
                    f"instead of {getattr(self, name)!r}."
                )

    @property
    def layers(self) -> list[LayerTokens]:
        """The networks' layers in the order of the weight vector. What has one number for each unit of the tensor
        before it, such as a bias, or a batch norm behind a convolution, belongs to these units; whatever else comes,
        such as the norm of an input, is a layer of its own, whose units are its first axis."""
        layers: list[LayerTokens] = []
        last = ""  # the matrix that a bias belongs to
        for name, shape in self.layout:
            module, _, kind = name.rpartition(".")
            if len(shape) == 1 and layers and shape[0] == layers[-1].num_units:
                if kind == "bias" and module == last and not layers[-1].others:
                    layers[-1] = layers[-1]._replace(has_bias=True)
                else:
                    layers[-1] = layers[-1]._replace(others=(*layers[-1].others, name))
                continue
            last = module if len(shape) > 1 else ""
            units, *inputs = shape or [1]
            name = module if kind == "weight" and inputs else name
            layers.append(LayerTokens(name, units, math.prod(inputs), has_bias=False))
        return layers

    @property
    def parts(self) -> list[tuple[str, int]]:
        """Names and lengths of the slices of the weight vector that are normalised on their own; see
        [`LayerTokens.parts`]. They fill it in order."""
        return [part for layer in self.layers for part in layer.parts]

    @property
    def tokens_per_layer(self) -> list[tuple[LayerTokens, int]]:
        """Each layer with the number of its tokens: units, or the pieces that these are cut into."""
        width = self.token_size
        return [
            (layer, layer.num_units * (1 if width is None else math.ceil(layer.token_size / width)))
            for layer in self.layers
        ]

    @property
    def token_groups(self) -> list[tuple[int, int]]:
        """Number and width of the tokens that share a linear map, in their order: those of a layer, or all."""
        if self.token_size is not None:
            return [(self.num_tokens, self.token_size)]
        return [(layer.num_units, layer.token_size) for layer in self.layers]

    @property
    def num_tokens(self) -> int:
        """Output units of all layers, one neuron token each; or the pieces that these are cut into."""
        return sum(count for _, count in self.tokens_per_layer)

    @property
    def num_params(self) -> int:
        """Length of a weight vector."""
        return sum(layer.num_params for layer in self.layers)

    @property
    def model_size(self) -> int:
        """Parameters of the model, without making it."""

        def linear(inputs: int, outputs: int) -> int:
            return (inputs + 1) * outputs

        width, tokens = self.hidden_size, self.num_tokens
        compress = self.latents_per == "network"
        norm = 2 * width
        feed_forward = linear(width, self.intermediate_size) + linear(self.intermediate_size, width)
        blocks = 2 * self.num_hidden_layers * (4 * linear(width, width) + feed_forward + 2 * norm)
        ends = sum(linear(size, width) + linear(width, size) for _, size in self.token_groups)
        positions = (
            (2 * tokens + compress) * width if self.token_size is None else 2 * linear(6 * PLACE_FEATURES, width)
        )
        if compress:
            bottleneck = width + linear(width, self.latent_size) + linear(self.latent_size, tokens * width)
        else:
            bottleneck = linear(width, self.neuron_latent_size) + linear(self.neuron_latent_size, width)
        widths = [self.latent_size, *[self.projection_hidden_size] * self.projection_num_layers, self.projection_size]
        head = sum(map(linear, widths, widths[1:])) + 2 * self.projection_size
        return blocks + ends + positions + bottleneck + (head if self.contrast_weight else 0)


def _as_json(layout: list) -> list[list]:
    """A layout as it comes back from JSON, which knows no tuples.

    Raises:
        ValueError: if it is not a list of names and shapes, each of positive whole numbers.
    """
    if len(layout) > MAX_TENSORS:
        raise ValueError(f"layout has {len(layout):,} tensors; {MAX_TENSORS:,} are the limit.")
    for entry in layout:
        match entry:
            case [str(), [*shape]] if all(type(size) is int and 0 < size <= MAX_PARAMETERS for size in shape):
                continue
        raise ValueError(
            f"layout: {str(entry)[:80]} is no name with a shape, such as ['convs.0.weight', [8, 1, 5, 5]]."
        )
    return [[name, list(shape)] for name, shape in layout]


__all__ = ["HyperRepConfig"]
