"""Image processor of the small CNNs: it carries the preprocessing of a zoo's protocol."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature


class SmallCNNImageProcessor(BaseImageProcessor):
    r"""
    Images to tensors, by torchvision's v2 transforms, in this order: grey, centre crop, resize, scale to [0, 1],
    normalise. The published zoos differ in which of these they use (SVHN crops where CIFAR-10 resizes).

    Args:
        num_channels (`int`, *optional*, defaults to 1): 1 turns images grey, 3 turns them RGB.
        image_size (`int`, *optional*, defaults to 28): height and width of the result.
        fit (`str`, *optional*, defaults to `"resize"`): how another size becomes `image_size`: `resize` (bilinear,
            antialiased) or `crop` (the centre).
        image_mean, image_std (`list[float]`, *optional*): per channel, subtracted and divided by.
    """

    model_input_names = ["pixel_values"]

    def __init__(
        self,
        num_channels: int = 1,
        image_size: int = 28,
        fit: str = "resize",
        image_mean: Sequence[float] = (0.5,),
        image_std: Sequence[float] = (0.5,),
        **kwargs,
    ):
        super().__init__(**kwargs)
        if fit not in ("resize", "crop"):
            raise ValueError(f"fit {fit!r} is unknown; choose resize or crop.")
        if len(image_mean) != num_channels or len(image_std) != num_channels:
            raise ValueError(
                f"image_mean {list(image_mean)} and image_std {list(image_std)} need {num_channels} value(s)."
            )
        self.num_channels = num_channels
        self.image_size = image_size
        self.fit = fit
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)

    def preprocess(self, images, return_tensors: str | None = "pt", **kwargs) -> BatchFeature:
        r"""
        Args:
            images: a PIL image, an array or tensor (height, width) or (channels, height, width), or a list of them.

        Returns:
            [`BatchFeature`] with `pixel_values` (batch, num_channels, image_size, image_size), float32.
        """
        images = images if isinstance(images, list | tuple) else [images]
        return BatchFeature({"pixel_values": torch.stack([self._one(image) for image in images])}, return_tensors)

    def _one(self, image) -> Tensor:
        from torchvision.transforms import v2

        pixels = v2.functional.to_image(image if not isinstance(image, np.ndarray) else torch.from_numpy(image))
        pixels = pixels.as_subclass(torch.Tensor)[..., :, :]
        if pixels.ndim == 2:
            pixels = pixels[None]
        if pixels.shape[0] == 4:  # drop an alpha channel
            pixels = pixels[:3]
        if self.num_channels == 1:
            pixels = v2.functional.rgb_to_grayscale(pixels)
        elif pixels.shape[0] == 1:
            pixels = v2.functional.grayscale_to_rgb(pixels)
        size = [self.image_size, self.image_size]
        if self.fit == "crop":
            pixels = v2.functional.center_crop(pixels, size)
        elif list(pixels.shape[-2:]) != size:
            pixels = v2.functional.resize(pixels, size, antialias=True)
        pixels = v2.functional.to_dtype(pixels, torch.float32, scale=True)
        return v2.functional.normalize(pixels, self.image_mean, self.image_std)


__all__ = ["SmallCNNImageProcessor"]
