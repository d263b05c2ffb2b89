"""Connections around blocks of a small CNN."""

from dataclasses import dataclass

from torch import Tensor, nn

from .configuration_small_cnn import SmallCNNConfig


@dataclass(frozen=True)
class Skip:
    """A connection from one map to a later one of size `target_size`, and how it gets there.

    Attributes:
        source, target (`int`): maps; 0 is the image, i the output of block i.
        kind (`str`): `identity` or `conv`.
        stride (`int`): between the positions of the source map that are taken.
        window (`int`): height and width of the max-pool before a 1x1 convolution; 1 for `identity`.
        offset (`int`): first position taken, so that an identity skip keeps the middle of the map.
        target_size (`int`)
    """

    source: int
    target: int
    kind: str
    stride: int
    window: int
    offset: int
    target_size: int

    def subsample(self, source_map: Tensor) -> Tensor:
        """From the source map (..., height, width) to (..., target_size, target_size)."""
        if self.kind == "conv":
            pooled = nn.functional.max_pool2d(source_map, self.window, self.stride)
            # the pool of the block rounds down once more than this one
            return pooled[..., : self.target_size, : self.target_size]
        taken = slice(self.offset, self.offset + (self.target_size - 1) * self.stride + 1, self.stride)
        return source_map[..., taken, taken]


def skips_of(config: SmallCNNConfig) -> list[Skip]:
    """The skips of a network, with the geometry that its maps ask for."""
    skips = []
    for source, target, kind in config.skips:
        size, target_size = config.feature_sizes[source], config.feature_sizes[target]
        if kind == "conv":  # the pool's window and stride are those of the convolution and pool it goes around
            stride, window, offset = config.pool_sizes[source], config.conv_kernel_sizes[source], 0
        else:
            stride, window = size // target_size, 1
            offset = (size - ((target_size - 1) * stride + 1)) // 2
        skips.append(Skip(source, target, kind, stride, window, offset, target_size))
    return skips
