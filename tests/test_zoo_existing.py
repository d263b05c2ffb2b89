"""Building a zoo where a folder is already: what is the user's is left alone, and no zoo is taken for another."""

import logging
import shutil

import pytest
import torch
from small_zoo import Interrupting, contents, settings

from hyperrep.errors import UserError
from hyperrep.population.loop import LoopEngine
from hyperrep.zoo import build_zoo, get_protocol, load_zoo


pytestmark = pytest.mark.usefixtures("contained")


def test_an_existing_folder_is_left_alone_without_flags(images, folder):
    before = contents(folder)
    with pytest.raises(UserError, match="exists; go on with --resume, start anew with --overwrite"):
        build_zoo(settings(), images, Interrupting(calls=1), folder)
    assert contents(folder) == before


def test_an_empty_folder_is_as_good_as_none(images, folder, tmp_path):
    output = tmp_path / "small"
    output.mkdir()
    build_zoo(settings(), images, LoopEngine(), output)
    assert contents(output) == contents(folder)


def test_resuming_a_complete_zoo_changes_nothing(images, folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    build_zoo(settings(), images, Interrupting(calls=1), folder, resume=True)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_overwrite_starts_again_with_other_settings(images, tmp_path):
    output = build_zoo(settings(models=4, epochs=0), images, LoopEngine(), tmp_path / "small")
    before = set((output / "data").iterdir())
    build_zoo(settings(models=4, epochs=1), images, LoopEngine(), output, overwrite=True)
    assert load_zoo(output).config.epochs == [0, 1]
    assert not before & set((output / "data").iterdir())


def test_overwrite_deletes_an_unfinished_build(images, folder, tmp_path):
    output = tmp_path / "small"
    with pytest.raises(KeyboardInterrupt):
        build_zoo(settings(first_seed=9), images, Interrupting(calls=1), output)
    build_zoo(settings(), images, LoopEngine(), output, overwrite=True)
    assert contents(output) == contents(folder)


@pytest.mark.parametrize("flag", ["overwrite", "resume"])
@pytest.mark.parametrize("name", ["README.md", "index.json", ".build/debug", "train-00000-of-00001.parquet"])
def test_a_folder_that_is_no_zoo_is_never_touched(name, flag, images, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("years of work")
    before = contents(tmp_path)
    with pytest.raises(UserError, match="was not written by hyperrep"):
        build_zoo(settings(), images, Interrupting(calls=1), tmp_path, **{flag: True})
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["notes.txt", "images/train.parquet", "README.md"])
def test_overwrite_refuses_a_zoo_with_files_of_the_users(name, images, folder, tmp_path):
    output = shutil.copytree(folder, tmp_path / "small")
    (output / name).parent.mkdir(exist_ok=True)
    (output / name).write_text("years of work")
    before = contents(output)
    with pytest.raises(UserError, match=f"was changed since: {name}"):
        build_zoo(settings(first_seed=9), images, Interrupting(calls=1), output, overwrite=True)
    assert contents(output) == before


def test_a_readme_of_the_users_is_noticed_before_training_goes_on(images, tmp_path):
    output = tmp_path / "small"
    with pytest.raises(KeyboardInterrupt):
        build_zoo(settings(), images, Interrupting(calls=1), output)
    (output / "README.md").write_text("mine")
    with pytest.raises(UserError, match=r"README\.md was not written by hyperrep"):
        build_zoo(settings(), images, Interrupting(calls=1), output, resume=True)
    assert (output / "README.md").read_text() == "mine"


def test_two_builds_into_one_folder(images, tmp_path):
    output = tmp_path / "small"

    class Second(LoopEngine):
        def train_epoch(self, population, images_, labels, order):
            build_zoo(settings(), images, LoopEngine(), output, resume=True)

    with pytest.raises(UserError, match="another run is writing"):
        build_zoo(settings(), images, Second(), output)


@pytest.mark.parametrize("complete", [True, False])
def test_another_version_is_a_warning(complete, images, folder, tmp_path, caplog):
    output = tmp_path / "small"
    if complete:
        shutil.copytree(folder, output)
    else:
        with pytest.raises(KeyboardInterrupt):
            build_zoo(settings(), images, Interrupting(calls=1), output)
    path = output / ("zoo_config.json" if complete else ".build/settings.json")
    path.write_text(path.read_text().replace(torch.__version__, "1.0"))
    with caplog.at_level(logging.WARNING):
        build_zoo(settings(), images, LoopEngine(), output, resume=True)
    assert "begun with torch 1.0" in caplog.text


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"models": 6}, "models"),
        ({"epochs": 3}, "epochs, keep_epochs, test_epochs"),
        ({"first_seed": 2}, "first"),
        ({"protocol": get_protocol("mnist")}, "protocol"),  # of images that fit as well
    ],
)
def test_a_complete_zoo_is_not_taken_for_another(changes, named, images, folder):
    before = contents(folder)
    with pytest.raises(UserError, match=rf"other settings \({named}"):
        build_zoo(settings(**changes), images, LoopEngine(), folder, resume=True)
    assert contents(folder) == before
