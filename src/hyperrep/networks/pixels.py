"""Any image as a tensor of grey levels, 0 to 255: what its numbers mean is decided here, by mode and type, and nowhere
else."""

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as tvF


GREY_MODES = ("1", "L", "LA", "La")


def pil_to_tensor(image: Image.Image) -> Tensor:
    """The colours that a viewer shows: palettes are looked up, inks and other colour spaces become RGB, transparency
    lies on white as in transformers, the camera's orientation is applied. Of several frames it is the current one.

    Returns:
        `Tensor`: (1 or 3, height, width), uint8; of modes with deeper pixels (`I`, `I;16`, `F`) the numbers as they
        are.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":
        return array_to_tensor(np.asarray(image))[None]
    mode = "L" if image.mode in GREY_MODES else "RGB"
    if image.mode[-1] in "Aa" or "transparency" in image.info:
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")  # PIL knows no way from La
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return tvF.pil_to_tensor(image.convert(mode))


def array_to_tensor(array: np.ndarray) -> Tensor:
    """A copy, whatever the array's byte order and strides."""
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def to_levels(pixels: Tensor) -> Tensor:
    """Numbers of any type on the scale from 0 to 255, which is the least of these that holds them: 1 (floating-point
    numbers only), 255, or 65535. What fits in bytes is uint8 unless it has fractions.

    Raises:
        ValueError: if a number is negative, beyond all scales, or not finite.
    """
    if pixels.dtype == torch.uint8:
        return pixels
    if pixels.dtype == torch.bool:
        return pixels.to(torch.uint8) * 255
    low, high = (value.item() for value in pixels.double().aminmax())
    scales = (1, 255, 65535) if pixels.is_floating_point() else (255, 65535)
    scale = next((scale for scale in scales if low >= 0 and high <= scale), None)
    if scale is None:
        raise ValueError(
            f"an image has numbers from {low:g} to {high:g}; bytes, 16-bit numbers or numbers between 0 and 1 are "
            "needed (do_rescale=False takes others as they are)."
        )
    if scale == 255 and not pixels.is_floating_point():
        return pixels.to(torch.uint8)
    return pixels.float() * (255 / scale)


def with_channels(pixels: Tensor, num_channels: int) -> Tensor:
    """Grey for one channel, RGB for three. A second or fourth channel is opacity; what lies behind is white.

    Args:
        pixels (`Tensor`): (channels, height, width)
        num_channels (`int`)

    Raises:
        ValueError: if there is no such conversion.
    """
    if pixels.shape[0] == num_channels:
        return pixels
    if pixels.shape[0] in (2, 4):
        white = 1.0 if pixels.is_floating_point() and pixels.max() <= 1 else 255.0
        mixed = white + (pixels[:-1] - white) * (pixels[-1:] / white)
        pixels = mixed if pixels.is_floating_point() else mixed.round().to(pixels.dtype)
    channels = pixels.shape[0]
    if channels == num_channels:
        return pixels
    if (channels, num_channels) == (3, 1):
        return _luma(pixels) if pixels.dtype == torch.uint8 else tvF.rgb_to_grayscale(pixels)
    if (channels, num_channels) == (1, 3):
        return tvF.grayscale_to_rgb(pixels)
    raise ValueError(f"an image has {channels} channels; it cannot be turned into one of {num_channels}.")


def _luma(pixels: Tensor) -> Tensor:
    """torchvision's grey of bytes, on every processor as on one with AVX2: there a product and a sum round once, to
    float32, elsewhere twice, and one colour in 800,000 falls on the other side of a level. Sums here are exact before
    they round.

    Args:
        pixels (`Tensor`): (3, height, width), uint8.

    Returns:
        `Tensor`: (1, height, width), uint8.
    """
    grey = torch.zeros((), dtype=torch.float32)
    for channel, weight in zip(pixels.double(), torch.tensor([0.2989, 0.587, 0.114])):
        grey = (grey.double() + channel * weight.double()).float()
    return grey.to(torch.uint8)[None]
