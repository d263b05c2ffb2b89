"""From rows of a data set to tensors: which columns, which classes, every picture by the networks' preprocessing. What
was preprocessed is kept in a cache, without which everything works too."""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm
from transformers.image_processing_utils import BaseImageProcessor

from ..errors import UserError
from ..files.writing import written_atomically
from .sources import SPLITS, Source


# Goes up when the same data set gives other pixels, so that caches and zoos of before are known as such. 2: palettes,
# inks, transparency and deep pixels are read by their mode, and `max_images` draws instead of taking the first.
PREPROCESSING = 2
CHUNK = 1000

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """One split as it was read.

    Attributes:
        pixels (`Tensor`): (images, channels, height, width), float32.
        labels (`Tensor`): (images,), int64, indices of `classes`.
        classes (`list[str]`): in the split's own order.
    """

    pixels: Tensor
    labels: Tensor
    classes: list[str]


def read_splits(source: Source, processor: BaseImageProcessor, label_column: str | None = None) -> dict[str, Split]:
    """The training and the test split.

    Raises:
        UserError: if one of them is missing or empty, the columns of images and labels cannot be told, a label is
            missing, or an image is missing or cannot be read.
    """
    splits: dict[str, Split] = {}
    readers: dict[str, _Reader] = {}
    cached = True
    for split in SPLITS:
        key = json.dumps([PREPROCESSING, source.identity, split, label_column, processor.to_dict()], sort_keys=True)
        path = _cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"
        found = _read_cache(path)
        if found is None:
            # of both splits at once, so that what is wrong is said before the work
            readers = readers or {
                name: _Reader(source.given, name, data, label_column) for name, data in source.load().items()
            }
            found = readers[split].read(processor)
            cached = cached and _write_cache(path, found)
        splits[split] = found
    return splits


class _Reader:
    """Reads one split of a data set, as `datasets` gives it."""

    def __init__(self, given: str, split: str, data: Any, label_column: str | None):
        self.where, self.split, self.data = f"images {given!r}", split, data
        self.images = self._image_column()
        self.labels, self.classes = self._labels(self._label_column(label_column))

    def read(self, processor: BaseImageProcessor) -> Split:
        starts = tqdm(range(0, len(self.data), CHUNK), desc=f"preprocessing {self.split}", leave=False)
        pixels = torch.cat([self._preprocess(processor, start) for start in starts])
        return Split(pixels, torch.tensor(self.labels), self.classes)

    def _image_column(self) -> str:
        from datasets import Array2D, Array3D, Image

        def is_image(feature: Any) -> bool:
            return isinstance(feature, Image | Array2D | Array3D) or _is_encoded(feature)

        names = [name for name, feature in self.data.features.items() if isinstance(feature, Image)]
        names = names or [name for name, feature in self.data.features.items() if is_image(feature)]
        if len(names) != 1:
            raise self._wrong_columns(names, "Image", "")
        return names[0]

    def _label_column(self, name: str | None) -> str:
        from datasets import ClassLabel

        if name is None:
            names = [name for name, feature in self.data.features.items() if isinstance(feature, ClassLabel)]
            if len(names) != 1:
                hint = "; name the column of labels with --label-column"
                if list(self.data.features) == [self.images]:
                    hint = "; a folder of images needs a folder for each of two classes or more"
                raise self._wrong_columns(names, "ClassLabel", hint)
            return names[0]
        if name not in self.data.features:
            raise UserError(f"{self.where} have no column {name!r}; they have {', '.join(self.data.features)}.")
        feature = self.data.features[name]
        dtype = str(getattr(feature, "dtype", type(feature).__name__))
        if not dtype.startswith(("int", "uint", "string", "large_string", "bool")):
            raise UserError(
                f"{self.where}: column {name!r} holds {dtype}; labels are texts or whole numbers, with no empty cell."
            )
        return name

    def _wrong_columns(self, names: list[str], kind: str, hint: str) -> UserError:
        return UserError(
            f"{self.where} have {len(names)} columns of type {kind} ({', '.join(self.data.features)}); "
            f"exactly one is needed{hint}."
        )

    def _labels(self, column: str) -> tuple[list[int], list[str]]:
        from datasets import ClassLabel

        values, feature = self.data[column][:], self.data.features[column]
        missing = sum(value is None or value == -1 for value in values)
        if missing:
            raise UserError(
                f"{self.where} have unlabelled rows (class -1 or none): {missing:,} of {len(values):,} in the "
                f"{self.split} split."
            )
        if isinstance(feature, ClassLabel):
            if outside := [value for value in values if not 0 <= value < len(feature.names)]:
                raise UserError(
                    f"{self.where}: the {self.split} split has class {outside[0]}; column {column!r} names "
                    f"{len(feature.names)} classes, 0 to {len(feature.names) - 1}."
                )
            return values, feature.names
        found = sorted(set(values))
        position = {value: index for index, value in enumerate(found)}
        return [position[value] for value in values], [str(value) for value in found]

    def _preprocess(self, processor: BaseImageProcessor, start: int) -> Tensor:
        images = list(self._decoded(start))
        try:
            return processor(images, return_tensors="pt")["pixel_values"]
        except ValueError as error:
            for row, image in enumerate(images, start):
                try:
                    processor(image)
                except ValueError as reason:
                    raise UserError(f"{self.where}: {self.split} image {row}: {reason}") from error
            raise

    def _decoded(self, start: int) -> Iterator[Any]:
        from datasets import Image

        feature = self.data.features[self.images]
        encoded = isinstance(feature, Image) or _is_encoded(feature)
        data = self.data.cast_column(self.images, Image(decode=False)) if isinstance(feature, Image) else self.data
        for row, value in enumerate(data[start : start + CHUNK][self.images], start):
            if value is None:
                column = self.data.data.column(self.images)
                raise UserError(
                    f"{self.where} have rows without an image: {column.null_count:,} of {len(column):,} in the "
                    f"{self.split} split, the first of them row {row}."
                )
            if not encoded:
                yield np.asarray(value, dtype=feature.dtype)
                continue
            value = {"bytes": value, "path": None} if isinstance(value, bytes) else value
            try:
                yield Image().decode_example(value)
            except Exception as error:  # PIL raises a dozen kinds of them on damaged files
                file = f" ({value['path']})" if value.get("path") else ""
                text = " ".join(str(error).split()) or type(error).__name__
                raise UserError(f"{self.where}: {self.split} image {row}{file} cannot be read: {text}") from error


def _is_encoded(feature: Any) -> bool:
    """Whether a column of no image type may hold image files: bytes, or bytes and path as `datasets` stores them."""
    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    return getattr(feature, "dtype", None) in ("binary", "large_binary")


# -------------------------------------------------------------------------------------------------------- the cache


def _cache_folder() -> Path:
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "hyperrep" / "images"


def _read_cache(path: Path) -> Split | None:
    """What an earlier run left there; none if there is nothing, or nothing whole."""
    try:
        if not path.exists():
            return None
        with safe_open(path, framework="pt") as file:
            pixels, labels = file.get_tensor("pixels"), file.get_tensor("labels")
            classes = list(map(str, json.loads(file.metadata()["classes"])))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        logger.warning("preprocessed images in %s are damaged (%s); they are made again.", path, error)
        return None
    if (
        pixels.ndim != 4
        or labels.shape != pixels.shape[:1]
        or not 0 <= int(labels.min()) <= int(labels.max()) < len(classes)
    ):
        logger.warning("preprocessed images in %s are damaged; they are made again.", path)
        return None
    return Split(pixels, labels, classes)


def _write_cache(path: Path, split: Split) -> bool:
    """Whether it could be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_atomically(path) as temporary:
            save_file(
                {"pixels": split.pixels, "labels": split.labels}, temporary, {"classes": json.dumps(split.classes)}
            )
    except (OSError, UserError, SafetensorError) as error:
        logger.warning("preprocessed images are not kept for the next time: %s", error)
        return False
    return True
