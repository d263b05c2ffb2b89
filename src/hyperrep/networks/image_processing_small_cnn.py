"""Image processor of the small CNNs: it carries the preprocessing of a zoo's protocol."""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tvF
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import ChannelDimension, PILImageResampling, infer_channel_dimension_format
from transformers.processing_utils import ImagesKwargs

from .pixels import array_to_tensor, pil_to_tensor, to_levels, with_channels


class SmallCNNImageProcessorKwargs(ImagesKwargs, total=False):
    """
    num_channels (`int`, *optional*):
        1 turns images grey, 3 turns them RGB.
    """

    num_channels: int


class SmallCNNImageProcessor(TorchvisionBackend):
    r"""
    Images to tensors, by torchvision's v2 transforms, in this order: grey, resize, centre crop, scale to [0, 1],
    normalise. The published zoos differ in which of these they use (SVHN crops where CIFAR-10 resizes).

    It is called as every image processor of transformers, with a PIL image of any mode, an array or tensor (height,
    width), (channels, height, width) or (height, width, channels), or several of them. Transparency lies on white.
    Numbers other than bytes are brought to their scale: 16-bit numbers, and floating-point numbers up to 1.

    Args:
        image_size (`int`, *optional*): short for `size` and `crop_size`, 28 by default.
        fit (`str`, *optional*): how another size becomes `image_size`, short for `do_resize` and `do_center_crop`:
            `resize` (bilinear, antialiased; the default) or `crop` (the centre).
        num_channels (`int`, *optional*, defaults to 1): 1 turns images grey, 3 turns them RGB; `do_convert_rgb=False`
            leaves their channels.
        image_mean, image_std (`list[float]`, *optional*): per channel, subtracted and divided by.
        kwargs: as of every image processor of transformers.
    """

    valid_kwargs = SmallCNNImageProcessorKwargs
    model_input_names = ["pixel_values"]
    num_channels = 1
    do_convert_rgb = True
    do_resize = True
    size = {"height": 28, "width": 28}
    resample = PILImageResampling.BILINEAR
    do_rescale = True
    do_normalize = True
    image_mean = (0.5,)
    image_std = (0.5,)

    def __init__(self, image_size: int | None = None, fit: str | None = None, **kwargs):
        if fit not in (None, "resize", "crop"):
            raise ValueError(f"fit {fit!r} is unknown; choose resize or crop.")
        if image_size is not None:
            kwargs.setdefault("size", {"height": image_size, "width": image_size})
        if fit == "crop":
            size = kwargs.get("size", self.size)
            kwargs = {"do_resize": False, "do_center_crop": True, "crop_size": size} | kwargs
        super().__init__(**kwargs)
        self._check_statistics(self.num_channels, self.image_mean, self.image_std)

    def preprocess(self, images, *args, return_tensors: str | None = "pt", **kwargs) -> BatchFeature:
        r"""
        Returns:
            [`BatchFeature`] with `pixel_values` (batch, num_channels, height, width), float32; a list of tensors if
            `return_tensors` is `None`.
        """
        return super().preprocess(images, *args, return_tensors=return_tensors, **kwargs)

    def process_image(  # type: ignore[override]
        self,
        image,
        num_channels: int,
        do_convert_rgb: bool | None = None,
        do_rescale: bool | None = None,
        rescale_factor: float | None = None,
        input_data_format: str | ChannelDimension | None = None,
        device: torch.device | None = None,
        **kwargs: Any,
    ) -> Tensor:
        if hasattr(image, "getbands"):
            pixels, input_data_format = pil_to_tensor(image), ChannelDimension.FIRST
        else:
            pixels = image if isinstance(image, Tensor) else array_to_tensor(image)
        if pixels.ndim == 2:
            pixels, input_data_format = pixels[None], ChannelDimension.FIRST
        if pixels.numel() == 0:
            raise ValueError(f"an image of shape {tuple(pixels.shape)} has no pixels.")
        if input_data_format is None:
            input_data_format = infer_channel_dimension_format(pixels, (1, 3, 4))  # type: ignore[arg-type]
        if input_data_format == ChannelDimension.LAST:
            pixels = pixels.permute(2, 0, 1)
        if do_rescale and rescale_factor == type(self).rescale_factor:
            pixels = to_levels(pixels)
        if do_convert_rgb:
            pixels = with_channels(pixels, num_channels)
        return pixels.contiguous().to(device)

    def _prepare_images_structure(self, images, expected_ndims: int = 3):
        images = self.fetch_images(images)
        listed = images if isinstance(images, list | tuple) else [images]
        if any(getattr(image, "ndim", None) == 2 for image in listed):  # grey arrays, which transformers refuses
            return list(listed)
        return super()._prepare_images_structure(images, expected_ndims)

    def _validate_preprocess_kwargs(self, num_channels=1, do_convert_rgb=None, **kwargs):  # type: ignore[override]
        if do_convert_rgb and kwargs.get("do_normalize"):
            self._check_statistics(num_channels, kwargs["image_mean"], kwargs["image_std"])
        super()._validate_preprocess_kwargs(**kwargs)

    @staticmethod
    def _check_statistics(num_channels: int, *statistics) -> None:
        if any(isinstance(values, list | tuple) and len(values) != num_channels for values in statistics):
            mean, std = statistics
            raise ValueError(f"image_mean {mean} and image_std {std} need {num_channels} value(s).")

    # The rest rounds as torchvision does, and as it was when the first zoos were made: their fingerprints stay valid.

    def resize(self, image: Tensor, size, resample=None, antialias: bool = True, **kwargs) -> Tensor:  # type: ignore[override]
        exact = bool(size.height and size.width) and resample in (None, PILImageResampling.BILINEAR)
        if not (exact and antialias and image.dtype == torch.uint8 and image.device.type == "cpu"):
            return super().resize(image, size, resample, antialias, **kwargs)
        # in whole numbers, as torchvision on a processor with AVX2; elsewhere it takes floating-point numbers, and
        # rounds another way
        images = image.reshape(-1, *image.shape[-3:])
        resized = nn.functional.interpolate(images, (size.height, size.width), mode="bilinear", antialias=True)
        return resized.reshape(*image.shape[:-2], size.height, size.width)

    def center_crop(self, image: Tensor, size, **kwargs) -> Tensor:  # type: ignore[override]
        return tvF.center_crop(image, [size.height, size.width])

    def rescale_and_normalize(self, images, do_rescale, rescale_factor, do_normalize, image_mean, image_std) -> Tensor:
        images = images.float()
        if do_rescale:
            images = self.rescale(images, rescale_factor)
        return self.normalize(images, image_mean, image_std) if do_normalize else images


__all__ = ["SmallCNNImageProcessor"]
