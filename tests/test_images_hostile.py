"""Image data as strangers have it: other modes and columns, damaged files, folders of one name, caches in the way."""

import io
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Array3D, ClassLabel, Features, Image, Value
from fake_hub import FakeHub

from hyperrep.errors import UserError
from hyperrep.images import ImageData, load_images
from hyperrep.networks import SmallCNNImageProcessor


GREY = SmallCNNImageProcessor(image_size=8, image_mean=[0.0], image_std=[1.0])
COLOUR = SmallCNNImageProcessor(num_channels=3, image_size=8, image_mean=[0.0] * 3, image_std=[1.0] * 3)
CLASSES = ["cat", "dog", "owl"]
COUNTS = {"train": 4, "test": 2}


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path) -> Path:
    """Where preprocessed images and `datasets`' own files are kept."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "home" / "datasets"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    return tmp_path / "home"


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def write_folder(folder: Path, classes=("cat", "dog"), mode: str = "RGB", kind: str = "png", seed: int = 0) -> Path:
    """A folder of images: a folder a split, in it a folder a class."""
    for split, count in COUNTS.items():
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                seed += 1
                PIL.Image.fromarray(picture(seed)).convert(mode).save(folder / split / name / f"{i}.{kind}")
    return folder


def write_parquet(folder: Path, labels=None, label=None, images=None, image=None, test_labels=None, test_label=None):
    """A folder of two Parquet files with columns `image` and `label`."""
    folder.mkdir(exist_ok=True)
    for split in COUNTS:
        is_test = split == "test"
        rows = {
            "image": images or [picture(seed) for seed in range(9)],
            "label": (is_test and test_labels) or labels or [0, 1, 2] * 3,
        }
        features = {
            "image": image or Image(),
            "label": (is_test and test_label) or label or ClassLabel(names=CLASSES),
        }
        dataset = datasets.Dataset.from_dict(rows, features=Features(features))
        dataset.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return folder


def load(source, processor=GREY, **options) -> ImageData:
    return load_images(str(source), processor, 0.25, **options)


def pixels(data: ImageData) -> torch.Tensor:
    return torch.cat([data.train.pixels, data.validation.pixels, data.test.pixels])


# ------------------------------------------------------------------------------------------------------------ images


@pytest.mark.parametrize(
    ("mode", "kind"), [("P", "gif"), ("CMYK", "tif"), ("LA", "png"), ("RGBA", "png"), ("L", "png")]
)
@pytest.mark.parametrize("processor", [GREY, COLOUR])
def test_folders_of_any_mode_are_read_as_their_rgb_twins(mode, kind, processor, tmp_path):
    twin = write_folder(tmp_path / "twin", mode="L" if mode in ("L", "LA") else "RGB")
    for file in twin.rglob("*.png"):
        PIL.Image.open(file).convert("RGB").save(file)
    found, expected = load(write_folder(tmp_path / "pets", mode=mode, kind=kind), processor), load(twin, processor)
    assert torch.equal(found.train.labels, expected.train.labels)
    assert (pixels(found) - pixels(expected)).abs().mean() < (20 if mode == "P" else 1.01) / 255


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(array).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize(
    ("image", "stored"),
    [
        (Value("binary"), png),
        ({"bytes": Value("binary"), "path": Value("string")}, lambda array: {"bytes": png(array), "path": None}),
        (Array3D((8, 8, 3), "uint8"), lambda array: array),
    ],
)
def test_columns_of_bytes_and_arrays_are_images_too(image, stored, tmp_path):
    arrays = [picture(seed) for seed in range(9)]
    plain = load(write_parquet(tmp_path / "plain"), COLOUR)
    other = load(write_parquet(tmp_path / "other", images=[stored(array) for array in arrays], image=image), COLOUR)
    assert other.fingerprint == plain.fingerprint


def test_images_of_different_sizes_and_modes_are_brought_to_one(tmp_path):
    folder = write_folder(tmp_path / "pets")
    PIL.Image.fromarray(picture(3)).resize((31, 17)).convert("L").save(folder / "train" / "cat" / "0.png")
    PIL.Image.fromarray(picture(3)[:1, :1]).convert("P").save(folder / "train" / "cat" / "1.png")
    for processor, channels in ((GREY, 1), (COLOUR, 3)):
        assert load(folder, processor).train.pixels.shape == (6, channels, 8, 8)


def huge_png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("content", [b"", b"not a picture", png(picture(0))[:60], huge_png()])
def test_an_image_that_cannot_be_read_is_named(content, tmp_path):
    folder = write_folder(tmp_path / "pets")
    (folder / "train" / "dog" / "1.png").write_bytes(content)
    with pytest.raises(UserError, match=r"train image 5 \(.*train/dog/1\.png\) cannot be read: ") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_rows_without_an_image_are_counted(tmp_path):
    folder = write_parquet(tmp_path / "pets", images=[picture(1), None, *[picture(2)] * 6, None])
    with pytest.raises(
        UserError, match="have rows without an image: 2 of 9 in the train split, the first of them row 1"
    ):
        load(folder)


def test_an_image_that_the_processor_refuses_is_named(tmp_path):
    arrays = [picture(seed) / 255 for seed in range(9)]
    arrays[4][0, 0, 0] = np.nan
    folder = write_parquet(tmp_path / "pets", images=arrays, image=Array3D((8, 8, 3), "float64"))
    with pytest.raises(UserError, match="train image 4: an image has numbers from nan to nan"):
        load(folder)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_without_any_contrast_is_refused(split, tmp_path):
    folder = write_folder(tmp_path / "pets")
    for file in (folder / split).rglob("*.png"):
        PIL.Image.new("RGB", (8, 8), (20, 60, 200)).save(file)
    with pytest.raises(UserError, match=f"all pixels of the {split} split are equal"):
        load(folder, COLOUR)


# ------------------------------------------------------------------------------------------------------------ labels


@pytest.mark.parametrize(
    ("labels", "label", "classes", "expected"),
    [
        (["b", "a", "c"], Value("string"), ["a", "b", "c"], [1, 0, 2]),
        ([30, 4, 100], Value("int64"), ["4", "30", "100"], [1, 0, 2]),
        ([True, False, True], Value("bool"), ["False", "True"], [1, 0, 1]),
        ([0, 1, 2], ClassLabel(names=CLASSES), CLASSES, [0, 1, 2]),
    ],
)
def test_a_named_column_of_labels_becomes_classes(labels, label, classes, expected, tmp_path):
    folder = write_parquet(tmp_path / "pets", labels=labels * 3, label=label)
    for _ in range(2):  # the second time from the cache
        data = load(folder, label_column="label")
        assert (data.classes, data.label_column) == (classes, "label")
        assert data.test.labels.tolist() == expected * 3


def test_the_test_split_may_list_its_classes_in_another_order(tmp_path):
    turned = ClassLabel(names=["owl", "cat", "dog"])
    plain = load(write_parquet(tmp_path / "plain"))
    other = load(write_parquet(tmp_path / "other", test_labels=[1, 2, 0] * 3, test_label=turned))
    assert other.classes == plain.classes == CLASSES
    assert other.test.labels.tolist() == plain.test.labels.tolist() == [0, 1, 2] * 3


def test_the_test_split_may_lack_a_class(tmp_path):
    folder = write_folder(tmp_path / "pets", classes=("cat", "dog", "owl"))
    shutil.rmtree(folder / "test" / "cat")
    data = load(folder)
    assert data.classes == ["cat", "dog", "owl"]
    assert data.test.labels.tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("test_labels", "test_label", "options"),
    [
        ([0, 1, 2] * 3, ClassLabel(names=["cat", "dog", "emu"]), {}),
        (["cat", "dog", "emu"] * 3, Value("string"), {"label_column": "label", "labels": ["cat", "dog", "owl"] * 3}),
    ],
)
def test_classes_that_only_the_test_split_has_are_named(test_labels, test_label, options, tmp_path):
    labels = options.pop("labels", None)
    label = Value("string") if labels else None
    folder = write_parquet(
        tmp_path / "pets", labels=labels, label=label, test_labels=test_labels, test_label=test_label
    )
    with pytest.raises(UserError, match=r"the test split has 1 class\(es\) that the train split has not \(emu\)"):
        load(folder, **options)


@pytest.mark.parametrize(
    ("labels", "label", "message"),
    [
        ([0, None, 1] * 3, ClassLabel(names=CLASSES), "unlabelled rows .*: 3 of 9 in the train split"),
        (["a", None, None] * 3, Value("string"), "unlabelled rows .*: 6 of 9 in the train split"),
        ([-1, 0, 1] * 3, Value("int64"), "unlabelled rows .*: 3 of 9 in the train split"),
        ([0.5, 1.0, 2.0] * 3, Value("float64"), "column 'label' holds float64; labels are texts or whole numbers"),
        ([7] * 9, Value("int64"), "have 1 class; there is nothing to tell apart"),
    ],
)
def test_labels_that_are_none_are_refused(labels, label, message, tmp_path):
    with pytest.raises(UserError, match=message):
        load(write_parquet(tmp_path / "pets", labels=labels, label=label), label_column="label")


def test_a_column_that_is_not_there_is_named(tmp_path):
    folder = write_parquet(tmp_path / "pets", label=Value("int64"))
    with pytest.raises(UserError, match="have no column 'lable'; they have image, label"):
        load(folder, label_column="lable")
    with pytest.raises(UserError, match="name the column of labels with --label-column"):
        load(folder)


# ----------------------------------------------------------------------------------------------------------- folders


def test_what_else_lies_in_a_folder_of_images_does_no_harm(tmp_path):
    plain = load(write_folder(tmp_path / "plain"))
    folder = write_folder(tmp_path / "pets")
    (folder / "train" / "notes.txt").write_text("from the summer of 2020")
    (folder / "train" / "owl").mkdir()
    (folder / "train" / "cat" / ".DS_Store").write_bytes(b"\0")
    assert load(folder).fingerprint == plain.fingerprint


@pytest.mark.parametrize("name", ["pets [1]", "pets*", "what?", "[[]]", "Ünïcödé ☃", "with space", "-1", "pets.png"])
def test_a_folder_may_have_any_name(name, tmp_path):
    folder = write_folder(tmp_path / "x [0-9]" / name, classes=("cat [2]", "dög"))
    (folder / "train" / "dög" / "0.png").rename(folder / "train" / "dög" / "0 [a]*?.png")
    data = load(folder)
    assert (data.name, data.classes) == (name, ["cat [2]", "dög"])
    assert len(data.train) == 6


def test_two_folders_of_one_name_are_two_data_sets(tmp_path):
    one = load(write_folder(tmp_path / "a" / "pets"))
    other = load(write_folder(tmp_path / "b" / "pets", seed=100))
    assert one.fingerprint != other.fingerprint
    assert load(tmp_path / "a" / "pets").fingerprint == one.fingerprint


def test_a_folder_made_anew_is_read_anew(tmp_path):
    before = load(write_folder(tmp_path / "pets"))
    file = tmp_path / "pets" / "train" / "cat" / "0.png"
    times = file.stat()
    other = PIL.Image.open(file).transpose(PIL.Image.Transpose.ROTATE_180)
    other.save(file, compress_level=0)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a copy does that keeps the times
    assert load(tmp_path / "pets").fingerprint != before.fingerprint


def test_a_folder_that_is_gone_is_not_taken_from_the_cache_of_datasets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(Path("pets"))
    datasets.load_dataset("pets")  # which keeps it
    shutil.rmtree("pets")
    assert len(datasets.load_dataset("pets", split="train")) == 8  # and finds it
    with pytest.raises(UserError, match="came from a folder that is not here any more"):
        load("pets")


def test_a_folder_named_digits_is_found(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    write_folder(Path("digits"))
    for source in ("digits", "./digits", str(tmp_path / "digits")):
        data = load(source)
        assert (data.name, data.classes) == ("./digits", ["cat", "dog"])
    assert not caplog.records
    shutil.rmtree("digits/train")  # now it is some other folder, such as the zoo that is made of the digits
    assert len(load("digits").classes) == 10
    assert "for the folder of that name write ./digits" in caplog.text


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "no image folder at ''"),
        ("nowhere", "neither a local folder nor reachable on the Hub"),
        ("no/where", "neither a local folder nor reachable on the Hub"),
        ("a/b/c", "no image folder at 'a/b/c'"),
        ("~/nowhere-at-all", "no image folder"),
        ("imagefolder", "neither a local folder nor a Hub id"),
        ("json", "neither a local folder nor"),
        ("x" * 300, "neither a local folder nor|cannot be read"),
        ("\0", "neither a local folder nor|cannot be read"),
        ("file.zip", "'file.zip' are a file; give the folder it lies in"),
        ("card", "'card' cannot be read: while parsing"),
        ("damaged", "'damaged' cannot be read: .*[Pp]arquet"),
        ("paths", "0 columns of type Image"),
        ("two", "2 columns of type Image"),
        ("one", "a folder for each of two classes or more"),
        ("rows", "the test split is empty"),
        ("pets:large", "'pets:large' cannot be read: BuilderConfig 'large' not found"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(source, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file.zip").write_bytes(b"x")
    write_folder(Path("pets"))
    write_folder(Path("one"), classes=("cat",))
    write_folder(Path("card")).joinpath("README.md").write_text("---\nconfigs: [[[\n---\n")
    write_parquet(Path("damaged")).joinpath("train-00000-of-00001.parquet").write_bytes(b"PAR1 and no more")
    Path("paths").mkdir()
    for split in COUNTS:
        Path("paths", f"{split}.csv").write_text("image,label\na.png,cat\nb.png,dog\n")
    write_parquet(Path("two"), label=Image(), labels=[picture(0)] * 9)
    empty = datasets.Dataset.from_dict(
        {"image": [], "label": []}, features=Features({"image": Image(), "label": ClassLabel(names=CLASSES)})
    )
    empty.to_parquet(str(write_parquet(Path("rows")) / "test-00000-of-00001.parquet"))
    with pytest.raises(UserError, match=message) as caught:
        load(source)
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------------------------------------- the cache


def test_without_a_cache_everything_works_with_one_warning(tmp_path, home, caplog):
    folder = write_folder(tmp_path / "pets")
    home.mkdir()
    (home / "hyperrep").write_text("a file where a folder should be")
    (home / "datasets").write_text("another one")
    first = load(folder)
    assert len(caplog.records) == 1
    assert "not kept for the next time" in caplog.text
    assert load(folder).fingerprint == first.fingerprint


@pytest.mark.parametrize("damage", ["cut", "empty", "other tensors", "labels beyond classes"])
def test_a_damaged_cache_is_made_again(damage, tmp_path, home, caplog):
    from safetensors.torch import save_file

    folder = write_folder(tmp_path / "pets")
    first = load(folder)
    files = sorted((home / "hyperrep" / "images").iterdir())
    assert len(files) == 2
    for file in files:
        if damage == "cut":
            file.write_bytes(file.read_bytes()[:-7])
        elif damage == "empty":
            file.write_bytes(b"")
        else:
            labels = torch.tensor([0, 9]) if damage == "labels beyond classes" else torch.zeros(3)
            save_file({"pixels": torch.zeros(2, 1, 8, 8), "labels": labels}, file, {"classes": '["cat", "dog"]'})
    assert load(folder).fingerprint == first.fingerprint
    assert all("are damaged" in record.message for record in caplog.records)
    assert len(caplog.records) == 2
    caplog.clear()
    assert load(folder).fingerprint == first.fingerprint
    assert not caplog.records


def test_nothing_temporary_is_left(tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    load(write_folder(tmp_path / "pets"))
    with pytest.raises(UserError):
        load(tmp_path / "pets" / "train")
    assert not list((tmp_path / "scratch").iterdir())


# ----------------------------------------------------------------------------------------------------------- the Hub

PUSH = """
import sys
from huggingface_hub import HfApi
HfApi().create_repo("me/pets", repo_type="dataset")
HfApi().upload_folder(folder_path=sys.argv[1], repo_id="me/pets", repo_type="dataset")
"""

LOAD = """
import sys
from hyperrep.errors import UserError
from hyperrep.images import load_images
from hyperrep.networks import SmallCNNImageProcessor

for revision in (None, sys.argv[1], "0" * 40):
    try:
        data = load_images("me/pets", SmallCNNImageProcessor(image_size=8), 0.25, revision=revision)
        print(data.name, data.classes, data.test.labels.tolist(), data.fingerprint)
    except UserError as error:
        print(error)
"""


@pytest.mark.slow  # three processes that import everything
def test_images_from_the_hub_and_once_they_are_here_without_it(tmp_path):
    turned = ClassLabel(names=["owl", "cat", "dog"])
    folder = write_parquet(tmp_path / "pets", test_labels=[1, 2, 0] * 3, test_label=turned)
    (folder / "README.md").write_text("---\nlicense: mit\n---\nPets.\n")
    expected = f"me/pets {CLASSES} {[0, 1, 2] * 3} "

    def run(script: str, argument: str) -> list[str]:
        command = [sys.executable, "-c", script, argument]
        outcome = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert outcome.returncode == 0, outcome.stderr
        return outcome.stdout.splitlines()

    with FakeHub() as hub:
        environment = os.environ | hub.environment(tmp_path / "cache")
        run(PUSH, str(folder))
        commit = hub.repos["dataset", "me/pets"][-1][0]
        online = run(LOAD, commit)
    assert online[0] == online[1]
    assert online[0].startswith(expected)
    assert "Revision '0000000" in online[2]

    environment["HF_HUB_OFFLINE"] = "1"
    offline = run(LOAD, commit)
    assert offline[:2] == online[:2]
    assert f"the cache has commit {commit}, not 0000000" in offline[2]
