"""Image data sets: the ones that ship, and folders of any column names, through the networks' own preprocessing."""

from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from datasets import ClassLabel, Features, Image, Value
from sklearn.datasets import load_digits
from torch import Tensor

from hyperrep import images as images_module
from hyperrep.errors import UserError
from hyperrep.images import ImageData, load_images
from hyperrep.images.reading import Split
from hyperrep.networks import SmallCNNImageProcessor
from hyperrep.zoo import get_protocol


CLASSES = ["cat", "dog", "owl"]
MNIST_ROOM = {"num_channels": 1, "image_size": 8, "image_mean": [0.1307], "image_std": [0.3081]}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    """Preprocessed images and `datasets`' own files stay in the test's folder."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "home" / "datasets"))
    datasets.disable_progress_bars()
    return tmp_path / "home" / "hyperrep" / "images"


def pictures(count: int, size: int = 8, channels: int = 1, seed: int = 0) -> list[np.ndarray]:
    shape = (count, size, size) if channels == 1 else (count, size, size, channels)
    return list(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def write_folder(
    folder: Path,
    splits: dict[str, int],
    image: str = "image",
    label: str = "label",
    features: Features | None = None,
    columns: dict | None = None,
    **picture_arguments,
) -> Path:
    """A folder in the layout of the Hub: one Parquet file a split."""
    for i, (split, count) in enumerate(splits.items()):
        rows = {
            image: pictures(count, seed=i, **picture_arguments),
            label: [j % len(CLASSES) for j in range(count)],
        } | {name: [value] * count for name, value in (columns or {}).items()}
        kinds = features or Features({image: Image(), label: ClassLabel(names=CLASSES)})
        folder.mkdir(parents=True, exist_ok=True)
        dataset = datasets.Dataset.from_dict(rows, features=kinds)
        dataset.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return folder


def sorted_rows(*parts: Tensor) -> Tensor:
    rows = torch.cat(parts).flatten(1)
    return rows[np.lexsort(rows.numpy().T)]


# --------------------------------------------------------------------------------------------------------- digits


def test_digits_need_no_network_and_hold_every_image_once():
    processor = SmallCNNImageProcessor(image_size=8, image_mean=[0.0], image_std=[1.0])
    data = load_images("digits", processor, 0.2)
    assert (data.name, data.classes) == ("digits", [str(i) for i in range(10)])
    assert [len(data.train), len(data.validation), len(data.test)] == [1150, 288, 359]
    assert data.train.pixels.shape == (1150, 1, 8, 8)
    assert data.train.pixels.dtype == torch.float32
    assert data.train.labels.dtype == torch.int64

    raw = load_digits()
    expected = torch.from_numpy(raw.images / 16).float()
    everything = sorted_rows(data.train.pixels, data.validation.pixels, data.test.pixels)
    torch.testing.assert_close(everything, sorted_rows(expected), rtol=0, atol=0.51 / 255)
    assert torch.equal(data.test.labels, torch.from_numpy(raw.target[4::5]))  # every fifth image is for testing
    torch.testing.assert_close(data.test.pixels[:, 0], expected[4::5], rtol=0, atol=0.51 / 255)


def test_pixels_and_labels_stay_together_through_the_splits():
    processor = SmallCNNImageProcessor(image_size=8, image_mean=[0.0], image_std=[1.0])
    data = load_images("digits", processor, 0.2)
    raw = load_digits()
    classes = {image.round().astype(np.uint8).tobytes(): label for image, label in zip(raw.images, raw.target)}
    for split in (data.train, data.validation, data.test):
        for pixels, label in zip(split.pixels, split.labels):
            assert classes[(pixels[0] * 16).round().to(torch.uint8).numpy().tobytes()] == label


def test_normalisation_is_that_of_the_processor():
    plain = load_images("digits", SmallCNNImageProcessor(image_size=8, image_mean=[0.0], image_std=[1.0]), 0.2)
    scaled = load_images("digits", SmallCNNImageProcessor(image_size=8, image_mean=[0.3], image_std=[0.35]), 0.2)
    torch.testing.assert_close(scaled.train.pixels, (plain.train.pixels - 0.3) / 0.35)
    assert scaled.fingerprint != plain.fingerprint


def test_the_protocols_images_fit_its_network_and_are_about_standardised():
    protocol = get_protocol("digits")
    data = load_images(protocol.images, protocol.processor(), protocol.validation_fraction)
    network = protocol.network_config(data.classes)
    assert data.train.pixels.shape[1:] == (network.num_channels, network.image_size, network.image_size)
    assert data.train.pixels.mean().item() == pytest.approx(0, abs=0.1)
    assert data.train.pixels.std().item() == pytest.approx(1, abs=0.1)


def test_max_images_takes_of_every_class_its_share_and_a_proportional_share_of_the_test_images():
    processor = SmallCNNImageProcessor(**MNIST_ROOM)
    small = load_images("digits", processor, 0.2, max_images=100)
    assert [len(small.train), len(small.validation), len(small.test)] == [80, 20, 25]
    classes = torch.cat([small.train.labels, small.validation.labels]).bincount(minlength=10)
    assert classes.min() >= 9
    assert small.test.labels.bincount(minlength=10).min() >= 2
    whole = load_images("digits", processor, 0.2)
    known = {pixels.numpy().tobytes(): label for pixels, label in zip(whole.test.pixels, whole.test.labels.tolist())}
    assert [known[pixels.numpy().tobytes()] for pixels in small.test.pixels] == small.test.labels.tolist()
    assert small.fingerprint == load_images("digits", processor, 0.2, max_images=100).fingerprint
    assert small.fingerprint != whole.fingerprint
    assert load_images("digits", processor, 0.2, max_images=10**6).fingerprint == whole.fingerprint


def test_max_images_sees_every_class_of_a_folder_sorted_by_class(tmp_path):
    for split, count in (("train", 40), ("test", 10)):
        for label, name in enumerate(CLASSES):
            (tmp_path / split / name).mkdir(parents=True)
            for i, picture in enumerate(pictures(count, seed=label)):
                PIL.Image.fromarray(picture).save(tmp_path / split / name / f"{i}.png")
    data = load_images(str(tmp_path), SmallCNNImageProcessor(**MNIST_ROOM), 0.25, max_images=12)
    assert torch.cat([data.train.labels, data.validation.labels]).bincount().tolist() == [4, 4, 4]
    assert data.test.labels.bincount().tolist() == [1, 1, 1]


@pytest.mark.parametrize("count", [0, -3])
def test_max_images_is_a_number_of_images(count):
    with pytest.raises(UserError, match=rf"max_images {count} is no number of images"):
        load_images("digits", SmallCNNImageProcessor(**MNIST_ROOM), 0.2, max_images=count)


# ----------------------------------------------------------------------------------------------- validation split


@pytest.mark.parametrize(
    ("protocol", "images", "published"),
    [
        ("mnist", 60_000, (50_000, 10_000)),
        ("svhn", 73_257, (60_000, 13_257)),
        ("cifar10", 50_000, (42_000, 8_000)),
        ("stl10", 5_000, (4_200, 800)),
    ],
)
def test_validation_splits_have_the_published_sizes_and_members(protocol, images, published, monkeypatch):
    """The published zoos use `torch.utils.data.random_split` with seed 42 on the training images."""
    indices = torch.arange(images, dtype=torch.float32).reshape(-1, 1, 1, 1)  # an image is its own index
    labels, classes = torch.arange(images), [str(index) for index in range(images)]
    fake = {"train": Split(indices, labels, classes), "test": Split(indices[:10], labels[:10], classes)}
    monkeypatch.setattr(images_module, "_digits", lambda processor: fake)
    data = load_images("digits", get_protocol(protocol).processor(), get_protocol(protocol).validation_fraction)
    assert (len(data.train), len(data.validation)) == published

    train, validation = torch.utils.data.random_split(
        range(images), published, generator=torch.Generator().manual_seed(42)
    )
    assert data.train.labels.tolist() == list(train.indices)
    assert data.validation.labels.tolist() == list(validation.indices)
    assert torch.equal(data.train.pixels.flatten().long(), data.train.labels)


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.999, 1.0])
def test_a_validation_split_needs_an_image_and_must_leave_one(fraction):
    with pytest.raises(UserError, match="has 100 training images: too few for a validation split"):
        load_images("digits", SmallCNNImageProcessor(**MNIST_ROOM), fraction, max_images=100)


# --------------------------------------------------------------------------------------------------- local folders


def same(one: ImageData, other: ImageData) -> bool:
    return one.fingerprint == other.fingerprint and torch.equal(one.train.pixels, other.train.pixels)


@pytest.mark.parametrize(
    ("image", "label", "extra"), [("image", "label", {}), ("img", "fine_label", {}), ("a", "b", {"note": "hello"})]
)
def test_columns_are_found_by_type_whatever_their_names(image, label, extra, tmp_path):
    features = Features({image: Image(), label: ClassLabel(names=CLASSES)} | {name: Value("string") for name in extra})
    folder = write_folder(tmp_path / "pets", {"train": 20, "test": 6}, image, label, features=features, columns=extra)
    data = load_images(str(folder), SmallCNNImageProcessor(**MNIST_ROOM), 0.25)
    assert (data.name, data.classes) == ("pets", CLASSES)
    assert [len(data.train), len(data.validation), len(data.test)] == [15, 5, 6]
    assert data.test.labels.tolist() == [0, 1, 2, 0, 1, 2]
    expected = (torch.from_numpy(np.stack(pictures(6, seed=1))).float() / 255 - 0.1307) / 0.3081
    torch.testing.assert_close(data.test.pixels[:, 0], expected)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_channels": 1, "fit": "crop", "image_mean": [0.5], "image_std": [0.5]},
        {"num_channels": 1, "fit": "resize", "image_mean": [0.5], "image_std": [0.5]},
        {"num_channels": 3, "fit": "resize", "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
        {"num_channels": 3, "fit": "crop", "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    ],
)
def test_zoo_and_user_see_the_same_pixels(arguments, tmp_path):
    """What a network was trained on is what its image processor gives for the picture file."""
    folder = write_folder(tmp_path / "photos", {"train": 8, "test": 4}, size=32, channels=3)
    processor = SmallCNNImageProcessor(image_size=28, **arguments)
    data = load_images(str(folder), processor, 0.25)
    processor.save_pretrained(tmp_path / "network")
    from transformers import AutoImageProcessor

    loaded = AutoImageProcessor.from_pretrained(tmp_path / "network")
    rows = datasets.load_dataset(str(folder), split="test")["image"]  # PIL images
    assert torch.equal(data.test.pixels, loaded(list(rows), return_tensors="pt")["pixel_values"])

    # and by hand, where no filter is involved
    if arguments["fit"] == "crop" and arguments["num_channels"] == 3:
        picture = torch.from_numpy(pictures(4, size=32, channels=3, seed=1)[0]).permute(2, 0, 1)
        torch.testing.assert_close(data.test.pixels[0], picture[:, 2:30, 2:30].float() / 255 * 2 - 1)


def test_crop_resize_and_grey_are_different_images(tmp_path):
    folder = write_folder(tmp_path / "photos", {"train": 8, "test": 4}, size=32, channels=3)
    rgb = {"num_channels": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    grey = {"num_channels": 1, "image_mean": [0.5], "image_std": [0.5]}
    variants = [
        load_images(str(folder), SmallCNNImageProcessor(fit=fit, **colours), 0.25)
        for fit in ("crop", "resize")
        for colours in (rgb, grey)
    ]
    assert [tuple(data.test.pixels.shape) for data in variants] == [(4, 3, 28, 28), (4, 1, 28, 28)] * 2
    assert len({data.fingerprint for data in variants}) == 4
    luma = (variants[0].test.pixels * torch.tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)).sum(1)
    # torchvision rounds the grey byte down
    torch.testing.assert_close(variants[1].test.pixels[:, 0], luma, rtol=0, atol=1.1 * 2 / 255)


def test_a_second_load_reads_the_cache_and_gives_the_same(tmp_path, cache, monkeypatch):
    folder = write_folder(tmp_path / "pets", {"train": 20, "test": 6})
    processor = SmallCNNImageProcessor(**MNIST_ROOM)
    first = load_images(str(folder), processor, 0.25)
    files = sorted(path.name for path in cache.iterdir())
    assert len(files) == 2  # train and test
    assert all(name.endswith(".safetensors") for name in files)  # and nothing temporary

    monkeypatch.setattr(SmallCNNImageProcessor, "preprocess", lambda *_, **__: pytest.fail("decoded again"))
    assert same(load_images(str(folder), processor, 0.25), first)
    monkeypatch.undo()
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))

    # another preprocessing is another entry
    other = SmallCNNImageProcessor(**MNIST_ROOM | {"image_mean": [0.0]})
    assert not same(load_images(str(folder), other, 0.25), first)
    assert len(list(cache.iterdir())) == 4


def test_changed_images_are_not_read_from_the_cache(tmp_path):
    processor = SmallCNNImageProcessor(**MNIST_ROOM)
    folder = write_folder(tmp_path / "pets", {"train": 20, "test": 6})
    first = load_images(str(folder), processor, 0.25)
    write_folder(tmp_path / "pets", {"test": 6, "train": 20})  # other random pictures in files of the same names
    assert not same(load_images(str(folder), processor, 0.25), first)


# ---------------------------------------------------------------------------------------------- what users get wrong


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no image folder at './nowhere'; give an existing folder, a Hub id"):
        load_images("./nowhere", SmallCNNImageProcessor(**MNIST_ROOM), 0.25)
    with pytest.raises(UserError, match="no image folder at"):
        load_images(str(tmp_path / "nowhere"), SmallCNNImageProcessor(**MNIST_ROOM), 0.25)


def test_one_of_several_configurations_is_named_after_a_colon(tmp_path):
    both = tmp_path / "both"
    for name, count in (("digits", 12), ("letters", 20)):
        write_folder(both / name, {"train": count, "test": 4})
    configurations = "".join(
        f"- config_name: {name}\n  data_files:\n  - {{split: train, path: {name}/train-*}}\n"
        f"  - {{split: test, path: {name}/test-*}}\n"
        for name in ("digits", "letters")
    )
    (both / "README.md").write_text(f"---\nconfigs:\n{configurations}---\n")
    processor = SmallCNNImageProcessor(**MNIST_ROOM)
    assert len(load_images(f"{both}:letters", processor, 0.25).train) == 15
    with pytest.raises(UserError, match=r"digits.*letters"):
        load_images(str(both), processor, 0.25)
    with pytest.raises(UserError, match=r"digits.*letters"):
        load_images(f"{both}:words", processor, 0.25)


def test_an_empty_folder_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        load_images(str(tmp_path / "empty"), SmallCNNImageProcessor(**MNIST_ROOM), 0.25)


def test_a_data_set_beyond_reach_is_named(monkeypatch):
    def unreachable(*arguments, **options):
        raise ConnectionError("Couldn't reach the Hub\nand much more")

    monkeypatch.setattr(datasets, "load_dataset_builder", unreachable)
    with pytest.raises(UserError, match=r"'ylecun/mnist' are neither .* nor reachable on the Hub \(Couldn't reach"):
        load_images("ylecun/mnist", SmallCNNImageProcessor(**MNIST_ROOM), 0.25)


def test_without_labels_there_is_nothing_to_learn(tmp_path):
    features = Features({"image": Image(), "label": Value("int64")})
    folder = write_folder(tmp_path / "pets", {"train": 8, "test": 4}, features=features)
    with pytest.raises(UserError, match=r"0 columns of type ClassLabel \(image, label\); exactly one is needed"):
        load_images(str(folder), SmallCNNImageProcessor(**MNIST_ROOM), 0.25)


def test_two_columns_of_labels_are_ambiguous(tmp_path):
    labels = ClassLabel(names=CLASSES)
    features = Features({"image": Image(), "coarse": labels, "fine": labels})
    folder = write_folder(
        tmp_path / "pets", {"train": 8, "test": 4}, label="fine", columns={"coarse": 0}, features=features
    )
    with pytest.raises(UserError, match="2 columns of type ClassLabel"):
        load_images(str(folder), SmallCNNImageProcessor(**MNIST_ROOM), 0.25)


def test_a_test_split_is_needed(tmp_path):
    folder = write_folder(tmp_path / "pets", {"train": 8})
    with pytest.raises(UserError, match="have splits train; a 'test' split is needed"):
        load_images(str(folder), SmallCNNImageProcessor(**MNIST_ROOM), 0.25)


def test_unlabelled_rows_are_refused_the_second_time_too(tmp_path):
    folder = write_folder(tmp_path / "pets", {"train": 8})
    rows = {"image": pictures(4), "label": [0, 1, -1, 2]}
    features = Features({"image": Image(), "label": ClassLabel(names=CLASSES)})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(folder / "test-00000-of-00001.parquet"))
    for _ in range(2):  # the second time from the cache
        with pytest.raises(UserError, match=r"have unlabelled rows \(class -1 or none\): 1 of 4 in the test split"):
            load_images(str(folder), SmallCNNImageProcessor(**MNIST_ROOM), 0.25)
