"""An image data set as tensors: a Hub id, a local folder of the same layout, or the digits that ship in scikit-learn.

Columns are found by feature type (`Image`, `ClassLabel`), whatever their names. Preprocessing is that of the image
processor which the networks carry, so that a network and its user see the same pixels.
"""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers.image_processing_utils import BaseImageProcessor

from ..errors import UserError
from .reading import PREPROCESSING, Split, read_splits
from .sources import open_source


DIGITS = "digits"  # 1,797 grey 8x8 images of handwritten digits, part of scikit-learn: works without a network
SPLIT_SEED = 42  # of the train/validation split, as in the published zoos

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageSplit:
    """Preprocessed images and their classes.

    Attributes:
        pixels (`Tensor`): (images, channels, height, width), float32.
        labels (`Tensor`): (images,), int64.
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "ImageSplit":
        return ImageSplit(self.pixels[index].contiguous(), self.labels[index].contiguous())


@dataclass(frozen=True)
class ImageData:
    """The three splits a zoo is trained, selected and tested on.

    Attributes:
        name (`str`): where they come from: a Hub id, a folder's name, or `digits`.
        classes (`list[str]`): names of the classes.
        fingerprint (`str`): changes when a pixel, a label or the splits change.
        label_column (`str`, *optional*): the column of the labels, where it had to be named.
    """

    name: str
    classes: list[str]
    train: ImageSplit
    validation: ImageSplit
    test: ImageSplit
    fingerprint: str
    label_column: str | None = None


def load_images(
    source: str,
    processor: BaseImageProcessor,
    validation_fraction: float,
    max_images: int | None = None,
    revision: str | None = None,
    token: str | None = None,
    label_column: str | None = None,
) -> ImageData:
    """Load and preprocess an image data set.

    Args:
        source (`str`): Hub id, local folder, or `digits`. A data set of several configurations wants one after a
            colon: `ufldl-stanford/svhn:cropped_digits`. A folder named `digits` that has a `train` split in it goes
            before scikit-learn's; `./digits` is always the folder.
        processor (`BaseImageProcessor`): preprocessing.
        validation_fraction (`float`): share of the training images held out for validation, drawn with seed 42.
        max_images (`int`, *optional*): use only so many training images (before the validation split), and a
            proportional share of the test images; for trials. They are drawn with seed 42, of every class its share.
        revision, token (`str`, *optional*): for the Hub.
        label_column (`str`, *optional*): column of class labels, texts or whole numbers; by default the only one of
            type `ClassLabel`. Texts and numbers become classes in their order.

    Raises:
        UserError: if the images cannot be found or read, no column holds images or labels, a split is missing, images
            or labels are missing, the splits differ in their classes, or all pixels of a split are equal.
    """
    source = str(source)
    if max_images is not None and max_images < 1:
        raise UserError(f"max_images {max_images} is no number of images; give 1 or more.")
    if source == DIGITS and not _is_image_folder(DIGITS):
        if Path(DIGITS).is_dir():
            logger.warning("images 'digits' are scikit-learn's; for the folder of that name write ./digits.")
        name, splits = DIGITS, _digits(processor)
    else:
        with open_source(f"./{source}" if source == DIGITS else source, revision, token) as opened:
            name, splits = opened.name, read_splits(opened, processor, label_column)
        name = f"./{DIGITS}" if name == DIGITS else name  # so that it means the folder when it is read again
    classes = splits["train"].classes
    train, test = _in_train_classes(source, splits)
    for split, images in (("train", train), ("test", test)):
        _check_contrast(source, split, images)
    if max_images is not None and max_images < len(train):
        share = max_images / len(train)
        train, test = _draw(train, max_images), _draw(test, max(1, round(share * len(test))))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(SPLIT_SEED))
    held_out = round(validation_fraction * len(train))
    if not 0 < held_out < len(train):
        raise UserError(f"{source} has {len(train)} training images: too few for a validation split of {held_out}.")
    # random_split gives the first indices to training, so that the published zoos' splits come out the same
    validation, train = train[order[len(train) - held_out :]], train[order[: len(train) - held_out]]
    return ImageData(name, classes, train, validation, test, _fingerprint(train, validation, test), label_column)


def _is_image_folder(folder: str) -> bool:
    return any(Path(folder).glob("train*"))


def _digits(processor: BaseImageProcessor) -> dict[str, Split]:
    """Scikit-learn's digits, every fifth image held out for testing."""
    from sklearn.datasets import load_digits

    data = load_digits()
    # the processor expects bytes: 17 grey levels, 0 to 16
    images = torch.from_numpy((data.images * (255 / 16)).round()).to(torch.uint8)[:, None]
    pixels, labels = processor(list(images), return_tensors="pt")["pixel_values"], torch.from_numpy(data.target).long()
    is_test = torch.arange(len(labels)) % 5 == 4
    classes = [str(digit) for digit in range(10)]
    return {
        split: Split(pixels[rows], labels[rows], classes) for split, rows in (("train", ~is_test), ("test", is_test))
    }


def _in_train_classes(source: str, splits: dict[str, Split]) -> tuple[ImageSplit, ImageSplit]:
    """Both splits, with labels that mean the training split's classes: the test split may list them in another order.

    Raises:
        UserError: if the test split holds images of other classes, or there is but one class.
    """
    train, test = splits["train"], splits["test"]
    if len(train.classes) < 2:
        raise UserError(f"images {source!r} have {len(train.classes)} class; there is nothing to tell apart.")
    position = {name: index for index, name in enumerate(train.classes)}
    used = [test.classes[index] for index in test.labels.unique().tolist()]
    if others := [name for name in used if name not in position]:
        raise UserError(
            f"images {source!r}: the test split has {len(others)} class(es) that the train split has not "
            f"({', '.join(others[:5])}); both must have the same."
        )
    translation = torch.tensor([position.get(name, -1) for name in test.classes])
    return ImageSplit(train.pixels, train.labels), ImageSplit(test.pixels, translation[test.labels])


def _check_contrast(source: str, split: str, images: ImageSplit) -> None:
    if torch.equal(images.pixels.amin((0, 2, 3)), images.pixels.amax((0, 2, 3))):
        raise UserError(f"images {source!r}: all pixels of the {split} split are equal; there is nothing to see.")


def _draw(images: ImageSplit, count: int) -> ImageSplit:
    """A share of the images of every class, as nearly as numbers allow, in their order."""
    shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(SPLIT_SEED))
    labels = images.labels[shuffled]
    progress = torch.empty(len(images))  # of each image through its own class
    for label in labels.unique():
        rows = labels == label
        progress[rows] = (torch.arange(int(rows.sum())) + 0.5) / rows.sum()
    first = progress.argsort(stable=True)[:count]
    return images[shuffled[first].sort().values]


def _fingerprint(*splits: ImageSplit) -> str:
    digest = hashlib.sha256()
    for split in splits:
        digest.update(split.pixels.numpy().tobytes())
        digest.update(split.labels.numpy().tobytes())
    return digest.hexdigest()[:16]


__all__ = ["DIGITS", "PREPROCESSING", "SPLIT_SEED", "ImageData", "ImageSplit", "load_images"]
