"""The networks' image processor: any image by its mode, the options of transformers, and the pixels of older zoos."""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from transformers import AutoImageProcessor

from hyperrep.networks import SmallCNNConfig, SmallCNNImageProcessor
from hyperrep.zoo import get_protocol


SIZE = 12
PLAIN = {
    channels: SmallCNNImageProcessor(
        num_channels=channels, image_size=SIZE, image_mean=[0.0] * channels, image_std=[1.0] * channels
    )
    for channels in (1, 3)
}


def picture(mode: str = "RGB") -> Image.Image:
    """A smooth picture; what PIL cannot convert directly it converts by way of another mode."""
    noise = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    for way in ([mode], ["L", mode], ["LA", mode]):
        converted = image
        try:
            for step in way:
                converted = converted.convert(step)
        except ValueError:
            continue
        return converted
    raise AssertionError(mode)


def levels(image, channels: int, **options):
    """Pixels from 0 to 255."""
    return PLAIN[channels](image, **options)["pixel_values"] * 255


# ---------------------------------------------------------------------------------------------------- one conversion

#: what a mode cannot hold: binary is compared with a black and white twin, a palette of few colours roughly
LOSS = {"P": 30, "PA": 30, "YCbCr": 3, "LAB": 3, "HSV": 3}
GREY = {"L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", Image.MODES)
def test_an_image_of_any_mode_gives_the_pixels_of_its_rgb_or_grey_twin(mode, channels):
    twin = picture("L" if mode in GREY else mode if mode == "1" else "RGB")
    expected = levels(twin.convert("RGB"), channels)
    difference = (levels(picture(mode), channels) - expected).abs().mean().item()
    assert difference <= LOSS.get(mode, 0) + 1.01  # torchvision rounds down when it turns bytes grey
    assert expected.std() > 30


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16B"])
def test_sixteen_bits_are_scaled_by_their_range(mode):
    deep = np.asarray(picture("L")).astype(np.int32) * 257
    image = Image.fromarray(deep) if mode == "I" else Image.fromarray(deep.astype("<u2")).convert("I").convert(mode)
    torch.testing.assert_close(levels(image, 1), levels(picture("L"), 1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("scale", [1.0, 255.0, 65535.0])
def test_floating_point_images_are_scaled_by_their_range(scale):
    grey = np.asarray(picture("L"))
    image = Image.fromarray((grey / 255 * scale).astype(np.float32))
    assert image.mode == "F"
    for form in (image, np.asarray(image), torch.from_numpy(np.array(image)).double()):
        torch.testing.assert_close(levels(form, 3), levels(picture("L"), 3), rtol=0, atol=1e-3)


@pytest.mark.parametrize("wrong", [-1.0, 70_000.0, float("nan"), float("inf")])
def test_numbers_beyond_every_scale_are_refused(wrong):
    array = np.full((SIZE, SIZE), 0.5)
    array[0, 0] = wrong
    with pytest.raises(ValueError, match=r"an image has numbers from .* 16-bit numbers or numbers between 0 and 1"):
        levels(array, 1)
    assert levels(array, 1, do_rescale=False).shape == (1, 1, SIZE, SIZE)  # as they are, if asked for


def transparent(mode: str) -> Image.Image:
    """Half of it black and opaque, half of it transparent."""
    opacity = Image.fromarray(np.repeat([[255, 0]], SIZE // 2, axis=1).repeat(SIZE, 0).astype(np.uint8))
    image = Image.new("RGBA", (SIZE, SIZE), (0, 0, 0, 255))
    image.putalpha(opacity)
    if mode == "P":
        image = Image.fromarray(np.asarray(opacity) // 255 ^ 1).convert("P")
        image.info["transparency"] = 1
        return image
    return image.convert("LA").convert(mode) if mode in ("La", "PA") else image.convert(mode)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La", "P"])
def test_transparency_lies_on_white(mode, channels):
    pixels = levels(transparent(mode), channels)
    assert pixels[..., : SIZE // 2].max() == 0
    assert pixels[..., SIZE // 2 :].min() >= 254


def test_transparency_of_arrays_lies_on_white_too():
    array = np.asarray(transparent("RGBA"))
    for form in (array, array / 255, torch.from_numpy(array.copy()).permute(2, 0, 1)):
        torch.testing.assert_close(levels(form, 3), levels(transparent("RGBA"), 3), rtol=0, atol=0.01)


def test_a_transparent_colour_in_a_png_is_transparent(tmp_path):
    picture("L").point(lambda level: 7 if level < 128 else level).save(tmp_path / "a.png", transparency=7)
    with Image.open(tmp_path / "a.png") as image:
        assert levels(image, 1).min() >= 128


def test_the_cameras_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    picture().save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        expected = picture().transpose(Image.Transpose.ROTATE_270)
        assert torch.equal(levels(image, 3), levels(expected, 3))


def test_of_several_frames_the_first_is_seen(tmp_path):
    frames = [picture("P"), Image.new("P", (SIZE, SIZE))]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "moving.gif") as image:
        assert image.n_frames == 2
        torch.testing.assert_close(levels(image, 3), levels(picture("P"), 3), rtol=0, atol=1.01)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_the_smallest_images_are_resized(size):
    assert torch.equal(levels(Image.new("RGB", size, (255, 255, 255)), 3), torch.full((1, 3, SIZE, SIZE), 255.0))


@pytest.mark.parametrize("image", [np.zeros((0, 0, 3), np.uint8), torch.zeros(3, 0, 5), Image.new("L", (0, 4))])
def test_an_image_without_pixels_is_refused(image):
    with pytest.raises(ValueError, match="has no pixels"):
        levels(image, 3, input_data_format="channels_last" if isinstance(image, np.ndarray) else None)


# ------------------------------------------------------------------------------------------- options of transformers

COLOURS = np.asarray(picture())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "form",
    [
        COLOURS,
        COLOURS[:, ::-1][:, ::-1],  # strides that torch does not take
        torch.from_numpy(COLOURS.copy()),
        torch.from_numpy(COLOURS.copy()).permute(2, 0, 1),
        COLOURS[None],
        [COLOURS],
        [[COLOURS]],
        COLOURS.astype(np.int64),
        COLOURS.astype(">u2"),
        COLOURS / 255,
    ],
)
def test_arrays_are_taken_with_their_channels_first_or_last(form, channels):
    torch.testing.assert_close(levels(form, channels), levels(picture(), channels), rtol=0, atol=1.01)


def test_grey_arrays_need_no_axis_for_channels():
    grey = np.asarray(picture("L"))
    expected = levels(picture("L"), 1)
    for form in (grey, [grey], torch.from_numpy(grey.copy()), grey[None], grey[..., None]):
        assert torch.equal(levels(form, 1), expected)
    assert torch.equal(levels([grey, COLOURS, picture()], 3)[0], levels(picture("L"), 3)[0])


def test_the_order_of_axes_can_be_named():
    square = np.zeros((3, 5, 3), np.uint8)
    square[0] = 255
    first = levels(square, 3, input_data_format="channels_first")
    last = levels(square, 3, input_data_format="channels_last")
    assert first[0, 0].min() == 255
    assert last[0, 0].min() == 0
    assert first[0, 1:].max() == 0


def test_options_of_a_call_hold_for_that_call():
    image = picture()
    plain = levels(image, 3) / 255
    processor = PLAIN[3]
    assert processor(image, size=6)["pixel_values"].shape == (1, 3, 6, 6)
    assert processor(image, size={"height": 5, "width": 7})["pixel_values"].shape == (1, 3, 5, 7)
    assert processor(image, crop_size=8, do_center_crop=True)["pixel_values"].shape == (1, 3, 8, 8)
    torch.testing.assert_close(processor(image, image_mean=0.5)["pixel_values"], plain - 0.5)
    torch.testing.assert_close(
        processor(image, image_mean=[0.5, 0.0, 0.0], image_std=[0.5, 1.0, 1.0])["pixel_values"][:, 0],
        (plain[:, 0] - 0.5) / 0.5,
    )
    normalised = SmallCNNImageProcessor(image_size=SIZE, num_channels=3, image_mean=[0.3] * 3, image_std=[0.5] * 3)
    torch.testing.assert_close(normalised(image, do_normalize=False)["pixel_values"], plain)
    assert PLAIN[3](image, do_rescale=False)["pixel_values"].max() > 100
    assert torch.equal(processor(image)["pixel_values"], plain)


def test_the_form_of_the_result_can_be_chosen():
    images = [picture(), picture()]
    assert isinstance(PLAIN[1](images, return_tensors="np")["pixel_values"], np.ndarray)
    assert isinstance(PLAIN[1](images, return_tensors="pt")["pixel_values"], torch.Tensor)
    assert [pixels.shape for pixels in PLAIN[1](images, return_tensors=None)["pixel_values"]] == [(1, SIZE, SIZE)] * 2
    assert torch.equal(PLAIN[1](images, return_tensors="pt")["pixel_values"], PLAIN[1](images)["pixel_values"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_normalise": False}, "do_normalise"),
        ({"sise": 3}, "sise"),
        ({"image_mean": [0.5, 0.5]}, r"need 3 value\(s\)"),
        ({"image_std": [0.5, 0.5]}, r"need 3 value\(s\)"),
        ({"size": "large"}, "size"),
        ({"return_tensors": "jax"}, "jax"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(Exception, match=message):
        PLAIN[3](picture(), **options)


@pytest.mark.parametrize("image", ["no such file", None, object(), [[0, 1], [2, 3]], np.zeros((5, 6, 7, 8, 3))])
def test_what_is_no_image_is_refused(image):
    with pytest.raises((ValueError, TypeError)):
        PLAIN[3](image)


# ----------------------------------------------------------------------------------------- zoos and files of before


def as_before(image: Image.Image, num_channels: int, image_size: int, fit: str, image_mean, image_std):
    """The preprocessing with which the first zoos were made."""
    pixels = v2.functional.pil_to_tensor(image)
    pixels = v2.functional.rgb_to_grayscale(pixels) if num_channels == 1 else v2.functional.grayscale_to_rgb(pixels)
    size = [image_size, image_size]
    if fit == "crop":
        pixels = v2.functional.center_crop(pixels, size)
    elif list(pixels.shape[-2:]) != size:
        pixels = v2.functional.resize(pixels, size, antialias=True)
    pixels = v2.functional.to_dtype(pixels, torch.float32, scale=True)
    return v2.functional.normalize(pixels, image_mean, image_std)


def assert_as_before(pixels: torch.Tensor, expected: torch.Tensor, std: float) -> None:
    """To the bit where the first zoos were made. Elsewhere it is torchvision that falls on other levels: by one when
    it makes grey, and by one when it resizes."""
    there = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    torch.testing.assert_close(pixels, expected, rtol=0, atol=0 if there else 2.01 / 255 / std)


@pytest.mark.parametrize("protocol", ["mnist", "svhn", "cifar10", "fashion-mnist", "digits"])
@pytest.mark.parametrize("size", [8, 28, 31, 32, 96])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pixels_have_the_bits_that_they_had_when_the_first_zoos_were_made(protocol, size, mode):
    """Otherwise those zoos' fingerprints would not hold any more."""
    arguments = get_protocol(protocol).image_processor
    generator = np.random.default_rng(0)
    shape = (3, size, size) if mode == "L" else (3, size, size, 3)
    images = [Image.fromarray(array) for array in generator.integers(0, 256, shape, dtype=np.uint8)]
    known = {"image_size": 28, "fit": "resize"} | arguments
    expected = torch.stack([as_before(image, **known) for image in images])
    assert_as_before(SmallCNNImageProcessor(**arguments)(images)["pixel_values"], expected, known["image_std"][0])


@pytest.mark.parametrize("fit", ["resize", "crop"])
def test_a_file_of_before_means_the_same(fit, tmp_path):
    before = {
        "num_channels": 1,
        "image_size": 20,
        "fit": fit,
        "image_mean": [0.3],
        "image_std": [0.35],
        "image_processor_type": "SmallCNNImageProcessor",
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(before))
    SmallCNNConfig(image_size=20).save_pretrained(tmp_path)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    expected = as_before(image, **{key: value for key, value in before.items() if key != "image_processor_type"})

    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is SmallCNNImageProcessor
    assert_as_before(loaded(image)["pixel_values"][0], expected, 0.35)
    loaded.save_pretrained(tmp_path / "again")  # what is written today says it in transformers' words
    written = json.loads((tmp_path / "again" / "preprocessor_config.json").read_text())
    assert not {"fit", "image_size"} & set(written)
    assert (written["do_resize"], written.get("do_center_crop", False)) == (fit == "resize", fit == "crop")
    again = AutoImageProcessor.from_pretrained(tmp_path / "again")
    assert again.to_dict() == loaded.to_dict()
    assert torch.equal(again(image)["pixel_values"], loaded(image)["pixel_values"])
    smaller = AutoImageProcessor.from_pretrained(tmp_path, **{"size" if fit == "resize" else "crop_size": 10})
    assert smaller(image)["pixel_values"].shape == (1, 1, 10, 10)


@pytest.mark.parametrize(("channels", "digest"), [(1, "b1f821ec7310f202"), (3, "1ad51f1113cb9e53")])
def test_pixels_have_the_same_bits_on_every_processor(channels, digest):
    """The fingerprint of a zoo's images holds where others use it. torchvision's own resizing and grey differ by a
    level here and there on a processor without AVX2 (ATEN_CPU_CAPABILITY=default)."""
    ramp = torch.arange(3 * 96 * 96).reshape(3, 96, 96)
    processor = SmallCNNImageProcessor(num_channels=channels, image_mean=[0.3] * channels, image_std=[0.7] * channels)
    pixels = processor((ramp * ramp % 251).to(torch.uint8), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, channels, 28, 28)
    assert hashlib.sha256(pixels.numpy().tobytes()).hexdigest()[:16] == digest
