"""Where images come from: a folder or the Hub, as `datasets` reads them. Whatever it raises becomes one sentence."""

import glob
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError


SPLITS = ("train", "test")
COMMIT = re.compile("[0-9a-f]{40}")  # under which `datasets` keeps in its cache what comes from the Hub


@dataclass(frozen=True)
class Source:
    """A data set that was found, and is read only if asked for.

    Attributes:
        given (`str`): what the user called it.
        name (`str`): Hub id or folder's name, with the configuration after a colon.
        identity (`list`): changes when its content does: a commit, or size and times of every file.
        load (`Callable`): gives the two [`SPLITS`], each a `Dataset`; raises a `UserError` if one is missing or empty.
    """

    given: str
    name: str
    identity: list
    load: Callable[[], dict[str, Any]]


@contextmanager
def open_source(given: str, revision: str | None = None, token: str | None = None) -> Iterator[Source]:
    """Find a data set; it can be read while the context lasts.

    Args:
        given (`str`): Hub id or folder; a configuration may follow after a colon.
        revision, token (`str`, *optional*): for the Hub.

    Raises:
        UserError: if there is none, or it cannot be read.
    """
    place, configuration = given, None
    if not os.path.isdir(os.path.expanduser(place)):
        place, _, named = given.partition(":")
        configuration = named or None
    folder = os.path.expanduser(place)
    if os.path.isdir(folder):
        # Not into the cache of `datasets`: there it keeps folders under their last name and the patterns of their
        # files, so that it takes one folder, or what was there before, for another.
        with tempfile.TemporaryDirectory(prefix="hyperrep-images-", ignore_cleanup_errors=True) as scratch:
            yield _folder(given, Path(folder).resolve(), configuration, scratch)
    elif os.path.isfile(folder):
        raise UserError(f"images {given!r} are a file; give the folder it lies in.")
    elif not place or place.startswith((".", "/", "~")) or place.count("/") > 1:
        raise UserError(f"no image folder at {given!r}; give an existing folder, a Hub id or 'digits'.")
    else:
        yield _hub(given, place, configuration, revision, token)


def _folder(given: str, folder: Path, configuration: str | None, scratch: str) -> Source:
    with explained(given, found=True):
        import datasets

        builder = datasets.load_dataset_builder(
            str(folder), configuration, cache_dir=scratch, data_files=_escaped_patterns(folder)
        )
        files = [file for files in builder.config.data_files.values() for file in files]
        cards = [str(folder / name) for name in ("README.md", ".huggingface.yaml")]  # name classes and configurations
        identity = [builder.config.name, *map(_file_identity, [*files, *cards])]
    name = folder.name if configuration is None else f"{folder.name}:{configuration}"
    return Source(given, name, identity, _loader(given, builder))


def _escaped_patterns(folder: Path) -> dict[str, list[str]] | None:
    """`datasets` takes brackets and stars in the folder's own path for patterns."""
    escaped = glob.escape(str(folder))
    if escaped == str(folder):
        return None
    from datasets.data_files import get_data_patterns

    return {
        split: [f"{escaped}/{pattern}" for pattern in patterns]
        for split, patterns in get_data_patterns(escaped).items()
    }


def _file_identity(file: str) -> list:
    path = Path(file)
    if not path.exists():
        return [file]
    status = path.stat()
    return [file, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _hub(given: str, place: str, configuration: str | None, revision: str | None, token: str | None) -> Source:
    with explained(given):
        import datasets

        builder = datasets.load_dataset_builder(place, configuration, revision=revision, token=token)
    if builder.repo_id is None:  # a kind of file, such as csv: it would read whatever lies in the working folder
        raise UserError(f"images {given!r} are neither a local folder nor a Hub id.")
    if not COMMIT.fullmatch(str(builder.hash)):
        raise UserError(
            f"images {given!r} are neither a local folder nor reachable on the Hub; what `datasets` has in its cache "
            "under that name came from a folder that is not here any more."
        )
    if revision is not None and COMMIT.fullmatch(revision) and builder.hash != revision:
        raise UserError(
            f"images {given!r}: the Hub cannot be reached, and the cache has commit {builder.hash}, not {revision}."
        )
    return Source(given, given, [place, builder.config.name, builder.hash], _loader(given, builder))


def _loader(given: str, builder: Any) -> Callable[[], dict[str, Any]]:
    import datasets

    def load() -> dict[str, Any]:
        with explained(given, found=True):
            builder.download_and_prepare()
            sizes = {name: split.num_examples for name, split in builder.info.splits.items()}
            if missing := [split for split in SPLITS if split not in sizes]:
                raise UserError(
                    f"images {given!r} have splits {', '.join(sizes)}; a {missing[0]!r} split is needed: a folder or "
                    "files of that name."
                )
            if empty := [split for split in SPLITS if not sizes[split]]:
                raise UserError(f"images {given!r}: the {empty[0]} split is empty.")
            splits = {split: builder.as_dataset(split) for split in SPLITS}
            own = {split: _own_classes(given, split, builder) for split in SPLITS}
            if own["train"] != own["test"]:
                for split, columns in own.items():
                    for column, names in columns.items():
                        splits[split] = splits[split].cast_column(column, datasets.ClassLabel(names=list(names)))
            return splits

    return load


def _own_classes(given: str, split: str, builder: Any) -> dict[str, tuple[str, ...]]:
    """Class names by column, as the split's own Parquet files list them: `datasets` gives all splits those of one."""
    import datasets
    import pyarrow.parquet

    files = [file for file in (builder.config.data_files or {}).get(split, []) if file.endswith(".parquet")]
    # they are here already, those from the Hub in its cache
    manager = datasets.DownloadManager(download_config=datasets.DownloadConfig(token=builder.token))
    found: dict[str, tuple[str, ...]] = {}
    for file in manager.download(files):
        for column, feature in datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(file)).items():
            if isinstance(feature, datasets.ClassLabel) and found.setdefault(column, tuple(feature.names)) != tuple(
                feature.names
            ):
                raise UserError(
                    f"images {given!r}: files of the {split} split list the classes of {column!r} differently."
                )
    return found


@contextmanager
def explained(given: str, found: bool = False) -> Iterator[None]:
    """Turns whatever `datasets`, the Hub or the disk raise into one sentence.

    Raises:
        UserError
    """
    from datasets.exceptions import DatasetGenerationError

    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of a dozen libraries: Parquet, YAML, HTTP, CSV, ...
        cause = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
        text = " ".join(str(cause).split())[:400] or type(cause).__name__
        if not found and isinstance(error, FileNotFoundError | ConnectionError):
            raise UserError(
                f"images {given!r} are neither a local folder nor reachable on the Hub ({text})."
            ) from error
        raise UserError(f"images {given!r} cannot be read: {text}") from error
