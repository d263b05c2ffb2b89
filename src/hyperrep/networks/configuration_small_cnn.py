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

    Raises:
        StrictDataclassClassValidationError: if lists differ in length, a name is unknown, or the image is too small
            for the convolutions.
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
    def linear_sizes(self) -> list[int]:
        """Widths of the fully connected part, from the flattened map to the logits."""
        channels = self.conv_channels[-1] if self.conv_channels else self.num_channels
        return [channels * self.feature_sizes[-1] ** 2, *self.hidden_sizes, self.num_classes]

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


__all__ = ["SmallCNNConfig"]
