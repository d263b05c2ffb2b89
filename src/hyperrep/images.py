"""An image data set as tensors: a Hub id, a local folder of the same layout, or the digits that ship in scikit-learn.

Columns are found by feature type (`Image`, `ClassLabel`), whatever their names. Preprocessing is that of the image
processor which the networks carry, so that a network and its user see the same pixels.
"""

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from .errors import UserError
from .networks import SmallCNNImageProcessor


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
    """

    name: str
    classes: list[str]
    train: ImageSplit
    validation: ImageSplit
    test: ImageSplit
    fingerprint: str


def load_images(
    source: str,
    processor: SmallCNNImageProcessor,
    validation_fraction: float,
    max_images: int | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> ImageData:
    """Load and preprocess an image data set.

    Args:
        source (`str`): Hub id, local folder, or `digits`. A data set of several configurations wants one after a
            colon: `ufldl-stanford/svhn:cropped_digits`.
        processor ([`SmallCNNImageProcessor`]): preprocessing.
        validation_fraction (`float`): share of the training images held out for validation, drawn with seed 42.
        max_images (`int`, *optional*): use only so many training images (before the validation split), and a
            proportional share of the test images; for trials.
        revision, token (`str`, *optional*): for the Hub.

    Raises:
        UserError: if the folder is missing, no column holds images or labels, or a split is missing.
    """
    if source == DIGITS:
        splits, classes = _digits(processor), [str(i) for i in range(10)]
    else:
        splits, classes = _hub_or_folder(source, processor, revision, token)
    train, test = splits["train"], splits["test"]
    if max_images is not None and max_images < len(train):
        share = max_images / len(train)
        train, test = train[:max_images], test[: max(1, round(share * len(test)))]
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(SPLIT_SEED))
    held_out = round(validation_fraction * len(train))
    if not 0 < held_out < len(train):
        raise UserError(f"{source} has {len(train)} training images: too few for a validation split of {held_out}.")
    # random_split gives the first indices to training, so that the published zoos' splits come out the same
    validation, train = train[order[len(train) - held_out :]], train[order[: len(train) - held_out]]
    name = DIGITS if source == DIGITS else Path(source).name if Path(source).is_dir() else source
    return ImageData(name, classes, train, validation, test, _fingerprint(train, validation, test))


def _fingerprint(*splits: ImageSplit) -> str:
    digest = hashlib.sha256()
    for split in splits:
        digest.update(split.pixels.numpy().tobytes())
        digest.update(split.labels.numpy().tobytes())
    return digest.hexdigest()[:16]


def _digits(processor: SmallCNNImageProcessor) -> dict[str, ImageSplit]:
    """Scikit-learn's digits, every fifth image held out for testing."""
    from sklearn.datasets import load_digits

    data = load_digits()
    # the processor expects bytes: 17 grey levels, 0 to 16
    images = torch.from_numpy((data.images * (255 / 16)).round()).to(torch.uint8)
    pixels = processor(list(images))["pixel_values"]
    split = ImageSplit(pixels, torch.from_numpy(data.target).long())
    is_test = torch.arange(len(split)) % 5 == 4
    return {"train": split[~is_test], "test": split[is_test]}


def _hub_or_folder(
    source: str, processor: SmallCNNImageProcessor, revision: str | None, token: str | None
) -> tuple[dict[str, ImageSplit], list[str]]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    place, _, configuration = source.partition(":") if not Path(source).is_dir() else (source, "", "")
    if not Path(place).is_dir() and (place.startswith((".", "/", "~")) or place.count("/") > 1):
        raise UserError(f"no image folder at {source!r}; give an existing folder, a Hub id or 'digits'.")
    try:
        data = load_dataset(place, configuration or None, revision=revision, token=token)
    except ValueError as error:  # several configurations and none named, or one that does not exist
        raise UserError(f"images {source!r}: {' '.join(str(error).split())}") from error
    except (DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise UserError(
            f"images {source!r} are neither a local folder nor reachable on the Hub ({str(error).splitlines()[0]})."
        ) from error
    splits: dict[str, ImageSplit] = {}
    classes: list[str] = []
    for split in ("train", "test"):
        if split not in data:
            raise UserError(f"images {source!r} have splits {', '.join(data)}; a {split!r} split is needed.")
        splits[split], classes = _cached_tensors(source, data[split], processor)
    return splits, classes


def _cached_tensors(source: str, data: Any, processor: SmallCNNImageProcessor) -> tuple[ImageSplit, list[str]]:
    """Decode and preprocess one split, or read what an earlier run left in the cache."""
    from datasets import ClassLabel, Image

    columns: dict[type, str] = {}
    for wanted in (Image, ClassLabel):
        names = [name for name, feature in data.features.items() if isinstance(feature, wanted)]
        if len(names) != 1:
            raise UserError(
                f"images {source!r} have {len(names)} columns of type {wanted.__name__} ({', '.join(data.features)}); "
                "exactly one is needed."
            )
        columns[wanted] = names[0]
    classes = data.features[columns[ClassLabel]].names

    key = json.dumps([data._fingerprint, columns[Image], columns[ClassLabel], processor.to_dict()], sort_keys=True)
    path = _cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"
    if path.exists():
        tensors = load_file(path)
    else:
        pixels = [
            processor(data[i : i + 1000][columns[Image]])["pixel_values"]
            for i in tqdm(range(0, len(data), 1000), desc=f"preprocessing {Path(source).name}", leave=False)
        ]
        tensors = {"pixels": torch.cat(pixels), "labels": torch.tensor(data[columns[ClassLabel]][:])}
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        save_file(tensors, temporary)
        temporary.replace(path)
    if (tensors["labels"] < 0).any():
        raise UserError(f"images {source!r} have unlabelled rows (class -1).")
    return ImageSplit(tensors["pixels"], tensors["labels"]), classes


def _cache_folder() -> Path:
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "hyperrep" / "images"
