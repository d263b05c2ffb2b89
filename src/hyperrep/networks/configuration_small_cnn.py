"""Configuration of the small CNNs that populate a model zoo."""

from dataclasses import field

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .initialization import INITIALIZERS


ACTIVATIONS = ("tanh", "relu", "gelu", "sigmoid")


@strict
class SmallCNNConfig(PreTrainedConfig):
    r"""
    Architecture and initialisation of one small CNN. The defaults are the poster's network ("3 conv, 2 FC layers,
    ~2500 parameters"): 2,464 parameters with one input channel, 2,864 with three.

    A block is convolution (stride 1, no padding), max-pool, activation, in this order; the map is then flattened
    channel-major and goes through the fully connected layers.

    Args:
        num_channels (`int`, *optional*, defaults to 1): channels of the input image.
        image_size (`int`, *optional*, defaults to 28): height and width of the input image, in pixels.
        conv_channels (`list[int]`, *optional*, defaults to `[8, 6, 4]`): output channels of the convolutions; may be
            empty, which makes the network an MLP.
        conv_kernel_sizes (`list[int]`, *optional*, defaults to `[5, 5, 2]`): kernel size of each convolution.
        pool_sizes (`list[int]`, *optional*, defaults to `[2, 2, 1]`): window and stride of the max-pool after each
            convolution; 1 means none.
        hidden_sizes (`list[int]`, *optional*, defaults to `[20]`): widths of the hidden fully connected layers.
        hidden_act (`str`, *optional*, defaults to `"tanh"`): `tanh`, `relu`, `gelu` (exact) or `sigmoid`.
        initializer (`str`, *optional*, defaults to `"uniform"`): how weights start, see
            [`~hyperrep.networks.initialization.INITIALIZERS`]. `uniform` is U(0, 1), as the published MNIST and SVHN
            zoos ask. Biases always start at 0.01.
        skips (`list[list]`, *optional*): connections around blocks, `[from, to, kind]` each, where map 0 is the image
            and map i the output of block i; they are added after the activation (the residual networks of the 2022
            code). `"identity"` takes every n-th position around the centre, for maps of equally many channels;
            `"conv"` goes around one block, by a max-pool of the block's reach and a 1x1 convolution.
        dropout (`float`, *optional*, defaults to 0.0): share of every hidden activation set to zero in training.

    Raises:
        StrictDataclassClassValidationError: if lists differ in length, a name is unknown, the image is too small for
            the convolutions, or a skip does not fit the maps it connects.
    """

    model_type = "small_cnn"

    num_channels: int = 1
    image_size: int = 28
    conv_channels: list[int] = field(default_factory=lambda: [8, 6, 4])
    conv_kernel_sizes: list[int] = field(default_factory=lambda: [5, 5, 2])
    pool_sizes: list[int] = field(default_factory=lambda: [2, 2, 1])
    hidden_sizes: list[int] = field(default_factory=lambda: [20])
    hidden_act: str = "tanh"
    initializer: str = "uniform"
    skips: list[list] = field(default_factory=list)
    dropout: float = 0.0

    def __post_init__(self, **kwargs):
        # ten classes unless somebody says otherwise: the data sets of the published zoos all have ten
        if not kwargs.keys() & {"num_labels", "id2label", "label2id"} and self.id2label is None:
            kwargs["num_labels"] = 10
        super().__post_init__(**kwargs)

    @property
    def num_classes(self) -> int:
        """`num_labels`, which transformers declares optional."""
        return self.num_labels or 0

    @property
    def feature_sizes(self) -> list[int]:
        """Height (and width) of the map after each block, starting with the image itself."""
        sizes = [self.image_size]
        for kernel_size, pool_size in zip(self.conv_kernel_sizes, self.pool_sizes, strict=True):
            sizes.append((sizes[-1] - kernel_size + 1) // pool_size)
        return sizes

    @property
    def map_channels(self) -> list[int]:
        """Channels of each map, starting with the image."""
        return [self.num_channels, *self.conv_channels]

    @property
    def hidden_units(self) -> list[int]:
        """Hidden activations of each block and each hidden fully connected layer; dropout acts on these."""
        maps = zip(self.map_channels[1:], self.feature_sizes[1:], strict=True)
        return [channels * size**2 for channels, size in maps] + self.hidden_sizes

    @property
    def linear_sizes(self) -> list[int]:
        """Widths of the fully connected part, from the flattened map to the logits."""
        return [self.map_channels[-1] * self.feature_sizes[-1] ** 2, *self.hidden_sizes, self.num_classes]

    def validate_architecture(self):
        lengths = {len(self.conv_channels), len(self.conv_kernel_sizes), len(self.pool_sizes)}
        if len(lengths) > 1:
            raise ValueError(
                f"conv_channels {self.conv_channels}, conv_kernel_sizes {self.conv_kernel_sizes} and pool_sizes "
                f"{self.pool_sizes} must have one entry for each convolution."
            )
        if min([1, *self.conv_channels, *self.conv_kernel_sizes, *self.pool_sizes, *self.hidden_sizes]) < 1:
            raise ValueError("conv_channels, conv_kernel_sizes, pool_sizes and hidden_sizes must be positive.")
        if min(self.feature_sizes) < 1:
            raise ValueError(
                f"an image of {self.image_size} pixels is too small for kernels {self.conv_kernel_sizes} and pools "
                f"{self.pool_sizes}: the maps would have sizes {self.feature_sizes}."
            )
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act {self.hidden_act!r} is unknown; choose from {', '.join(ACTIVATIONS)}.")
        if self.initializer not in INITIALIZERS:
            raise ValueError(f"initializer {self.initializer!r} is unknown; choose from {', '.join(INITIALIZERS)}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and less than 1.")
        for skip in self.skips:
            self._validate_skip(skip)

    def _validate_skip(self, skip: list):
        kinds = {"identity", "conv"}
        if len(skip) != 3 or skip[2] not in kinds or not 0 <= skip[0] < skip[1] <= len(self.conv_channels):
            raise ValueError(
                f"skip {skip} is not [from, to, kind] with 0 <= from < to <= {len(self.conv_channels)} and kind "
                "identity or conv."
            )
        start, stop, kind = skip
        if kind == "conv" and stop != start + 1:
            raise ValueError(f"skip {skip}: a conv skip goes around one block.")
        if kind == "identity" and self.map_channels[start] != self.map_channels[stop]:
            raise ValueError(
                f"skip {skip}: an identity skip needs maps of equally many channels, not {self.map_channels[start]} "
                f"and {self.map_channels[stop]}."
            )


__all__ = ["SmallCNNConfig"]
