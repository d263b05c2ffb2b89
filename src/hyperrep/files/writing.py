"""The one writer of folders. It knows what it wrote, and touches nothing else.

A folder of ours has a manifest, `.hyperrep.json`. A file is *ours* if the manifest has the hash of its content, so
that one which somebody changed is no longer ours; or if the manifest names it as a working file (a shard, a
checkpoint), whatever it holds. What is not ours is never replaced or removed. Files are written under a temporary name
and renamed.
"""

import errno
import hashlib
import json
import logging
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from filelock import Timeout
from safetensors import SafetensorError

from ..errors import UserError
from ..version import __version__
from .locking import LOCK, SOFT_LOCK, locked
from .reading import read_json


MANIFEST = ".hyperrep.json"
TEMPORARY = ".hyperrep-tmp"  # ends the name of what is being written; what a killed run left of it is removed
STAGE = ".hyperrep-stage-"  # begins that of a folder
LEFT = re.compile(rf"\..+\.\d+{re.escape(TEMPORARY)}|{re.escape(STAGE)}\w+{re.escape(TEMPORARY)}")

Mode = Literal["new", "resume", "overwrite", "add"]

logger = logging.getLogger(__name__)


def mode_of(resume: bool = False, overwrite: bool = False) -> Mode:
    """The mode that `--resume` and `--overwrite` ask for.

    Raises:
        UserError: if both are set.
    """
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other.")
    return "resume" if resume else "overwrite" if overwrite else "new"


def check_output(path: str | Path, kind: str, mode: Mode, resumable: bool = False) -> None:
    """Whether [`output_folder`] would let us write there; for a look before long work. Writes nothing.

    Raises:
        UserError: as [`output_folder`].
    """
    OutputFolder(Path(path), kind).check(mode, resumable)


@contextmanager
def output_folder(
    path: str | Path, kind: str, mode: Mode = "new", resumable: bool = False
) -> Iterator["OutputFolder"]:
    """A folder to write to, ours alone while the context lasts.

    Args:
        path (`str` or `Path`)
        kind (`str`): what it will be: `zoo`, `representation`, `networks`, ...
        mode (`str`): `new`, the folder must be missing or empty; `resume`, it may be ours already; `overwrite`, the
            same, and nothing in it may be anything but ours ([`OutputFolder.clear`] then empties it); `add`, it may be
            anybody's, and only files that are ours are replaced in it.
        resumable (`bool`): whether the user can be told of `--resume`.

    Raises:
        UserError: if the path is a file, the folder is not ours to write to, cannot be written, or another run is
            writing to it.
    """
    folder = OutputFolder(Path(path), kind)
    folder.check(mode, resumable)
    path, created = folder.path, not folder.path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with disk_explained(path):
            lock = locked(path)
    except Timeout as error:
        raise UserError(f"another run is writing to {path}; wait for it, or choose another folder.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error
    try:
        folder = OutputFolder(path, kind)  # again: another run may have been there in between
        folder.check(mode, resumable)
        folder.tidy()
        yield folder
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)
        if created and path.is_dir() and not any(path.iterdir()):
            path.rmdir()


class OutputFolder:
    """What [`output_folder`] gives: writes files, and knows which ones are ours.

    Args:
        path (`Path`): a symbolic link to a folder stands for that folder.
        kind (`str`): see [`output_folder`].
    """

    def __init__(self, path: Path, kind: str):
        self.path, self.kind = Path(os.path.realpath(path)), kind
        self._hashes: dict[str, list[str]] = {}  # of the content, and of the one that it is just replacing
        self._working: set[str] = set()
        self._found_kind: str | None = None  # what the manifest says that the folder is
        self._read_manifest()

    def check(self, mode: Mode, resumable: bool = False) -> None:
        """See [`output_folder`]."""
        try:
            str(self.path).encode()
        except UnicodeEncodeError as error:  # Python has read the name in the encoding of the locale, ASCII say
            raise UserError(
                f"output {str(self.path)!a} is no name in UTF-8; choose another, or set PYTHONUTF8=1."
            ) from error
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"output {self.path} is a file; name a folder.")
        existing = next(folder for folder in (self.path, *self.path.parents) if folder.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(f"output {self.path} cannot be written: {existing} is no folder you may write to.")
        if mode == "add" or not any(True for _ in self._files()):
            return
        if self._found_kind != self.kind:
            raise UserError(
                f"{self.path} exists and was not written by hyperrep as a folder of {self.kind}; nothing in it is "
                "touched. Choose another folder."
            )
        if mode == "new":
            ways = ["go on with --resume"] if resumable else []
            ways += ["start anew with --overwrite", "choose another folder"]
            raise UserError(f"{self.path} exists; {', '.join(ways[:-1])}, or {ways[-1]}.")
        if mode == "overwrite" and (others := [name for name in self._files() if not self.is_ours(name)]):
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            raise UserError(
                f"{self.path} holds what hyperrep did not write, or what was changed since: "
                f"{', '.join(sorted(others)[:3])}{more}. Nothing was removed; move them away, or choose another "
                "folder."
            )

    def is_ours(self, name: str) -> bool:
        """Whether the file of this name, relative to the folder, is there and ours."""
        path = self.path / name
        if path.is_symlink() or not path.is_file():
            return False
        return name in self._working or (name in self._hashes and sha256_of(path) in self._hashes[name])

    def check_replaceable(self, *names: str) -> None:
        """Whether [`write`] would take these names; for a look before long work.

        Raises:
            UserError: if there is a file of such a name that is not ours.
        """
        for name in names:
            self._replaceable(name)

    def write(self, name: str, write: Callable[[Path], object], working: bool = False) -> Path:
        """Write a file under a temporary name, given to `write`, and rename it.

        Args:
            name (`str`): relative to the folder, with `/`.
            write (`Callable`): makes the file; if it raises, nothing is left of it.
            working (`bool`, *optional*): it will be changed or removed by later steps, its content need not be known.

        Returns:
            `Path`: the file.

        Raises:
            UserError: if there is a file of that name that is not ours, or the disk is full.
        """
        target = self._replaceable(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_atomically(target, self.path) as temporary:
            write(temporary)
            _give_usual_mode(temporary)
            self._record({name: None if working else sha256_of(temporary)})
        return target

    def write_text(self, name: str, text: str) -> Path:
        """[`write`] for a text, in UTF-8."""
        return self.write(name, lambda path: path.write_text(text, encoding="utf-8"))

    def write_json(self, name: str, values: dict[str, Any]) -> Path:
        """[`write`] for an object; JSON knows no NaN and no infinity, for which it has null."""
        return self.write_text(name, json.dumps(_finite(values), indent=2, allow_nan=False) + "\n")

    @contextmanager
    def staging(self, replace: bool = False) -> Iterator[Path]:
        """A temporary folder whose files come into this one, all together, when the context ends without an error.

        Args:
            replace (`bool`, *optional*): what was ours in the folder goes when they come.
        """
        with disk_explained(self.path), self._stage() as temporary:
            stage = Path(temporary)
            yield stage
            new = {name: sha256_of(stage / name) for name in _walk(stage)}
            _give_usual_mode(*(stage / name for name in new))
            targets = {name: self._replaceable(name) for name in new}
            if replace:
                self.clear(keep=set(new))
            self._record(new)
            for name, target in targets.items():
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(stage / name, target)

    @contextmanager
    def arriving(self, name: str) -> Iterator[Path]:
        """A temporary folder that becomes the subfolder `name` by one rename, whole or not at all. Its files are
        working files.

        Raises:
            UserError: if there is something of that name, or the disk is full.
        """
        target = self._inside(name)
        if os.path.lexists(target):
            raise UserError(f"{target} exists, and was not written by hyperrep; move it away.")
        with disk_explained(self.path), self._stage() as temporary:
            stage = Path(temporary, "stage")
            stage.mkdir()
            yield stage
            _give_usual_mode(*(stage / file for file in _walk(stage)))
            self.working(f"{name}/{file}" for file in _walk(stage))
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(stage, target)

    def working(self, names: Iterable[str]) -> None:
        """Name files that somebody else will write here (a library, another process) and that are ours to remove."""
        self._record(dict.fromkeys(names))

    def remove(self, *names: str) -> None:
        """Remove files that are ours, and whole folders of such; others are left where they are. Names of ours that
        have no file are forgotten."""

        def named(files: Iterable[str]) -> list[str]:
            return [name for name in files if any(name == one or name.startswith(f"{one}/") for one in names)]

        gone = [name for name in named(self._files()) if self.is_ours(name)]
        for name in gone:
            (self.path / name).unlink(missing_ok=True)
            self._remove_empty_folders(name)
        forgotten = [name for name in named({*self._hashes, *self._working}) if not os.path.lexists(self.path / name)]
        for name in forgotten:
            self._hashes.pop(name, None)
            self._working.discard(name)
        if forgotten:
            self._write_manifest()

    def clear(self, keep: Iterable[str] = ()) -> None:
        """Remove everything that is ours, but for `keep`."""
        kept = set(keep)
        self.remove(*(name for name in self._files() if name not in kept))

    def tidy(self) -> None:
        """Remove what killed runs left half-written, here and where files of ours lie; nothing that is called
        otherwise. Only while nobody else writes here."""
        ours = {(self.path / name).parent for name in (*self._hashes, *self._working)}
        for folder in {self.path, *ours}:
            inside = self.path in (folder, *folder.parents) and Path(os.path.realpath(folder)) == folder
            if not inside or not folder.is_dir():
                continue
            for path in [path for path in folder.iterdir() if LEFT.fullmatch(path.name) and not path.is_symlink()]:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)

    def _stage(self) -> tempfile.TemporaryDirectory:
        return tempfile.TemporaryDirectory(dir=self.path, prefix=STAGE, suffix=TEMPORARY)

    def _inside(self, name: str) -> Path:
        """Where a file of this name lies.

        Raises:
            UserError: if a folder on the way there is a link, so that it would lie elsewhere.
        """
        target = self.path / name
        for folder in target.parents:
            if folder == self.path:
                break
            if folder.is_symlink():
                raise UserError(f"{folder} is a symbolic link: nothing is written through it. Put a folder there.")
        return target

    def _files(self) -> Iterator[str]:
        """Names of all files but the manifest and the lock, and of links; folders behind links are not entered."""
        return (name for name in _walk(self.path) if name not in (MANIFEST, LOCK, SOFT_LOCK) and TEMPORARY not in name)

    def _replaceable(self, name: str) -> Path:
        target = self._inside(name)
        if os.path.lexists(target) and not self.is_ours(name):
            raise UserError(
                f"{target} was not written by hyperrep, or was changed since; it is not replaced. Move it away, or "
                "write elsewhere."
            )
        return target

    def _remove_empty_folders(self, name: str) -> None:
        for folder in (self.path / name).parents:
            if folder == self.path or any(folder.iterdir()):
                return
            folder.rmdir()

    def _record(self, files: Mapping[str, str | None]) -> None:
        """Before files come to their places, so that a kill in between leaves none that nobody owns."""
        for name, content in files.items():
            if content is None:
                self._working.add(name)
                continue
            before = self._hashes.get(name, [])[:1]
            self._hashes[name] = [content, *(old for old in before if old != content)]
        self._write_manifest()

    def _read_manifest(self) -> None:
        path = self.path / MANIFEST
        if not path.is_file() or path.is_symlink():
            return
        try:
            manifest = read_json(path)
            self._hashes = {str(name): list(map(str, hashes)) for name, hashes in manifest["files"].items()}
            self._working = set(map(str, manifest["working"]))
            self._found_kind = str(manifest["kind"])
        except (UserError, KeyError, AttributeError, TypeError) as error:
            logger.warning("%s is damaged, so that nothing in its folder is known to be ours: %s", path, error)

    def _write_manifest(self) -> None:
        self._found_kind = self._found_kind or self.kind  # adding to a folder does not change what it is
        manifest = {
            "hyperrep": __version__,
            "kind": self._found_kind,
            "files": dict(sorted(self._hashes.items())),
            "working": sorted(self._working),
        }
        with written_atomically(self.path / MANIFEST) as temporary:
            temporary.write_text(json.dumps(manifest, indent=1) + "\n")


@contextmanager
def written_atomically(target: Path, folder: Path | None = None) -> Iterator[Path]:
    """A temporary path in `folder`, or beside `target`, that is renamed to it, or removed on an error.

    Raises:
        UserError: if the disk is full or the folder cannot be written.
    """
    temporary = (folder or target.parent) / f".{target.name}.{os.getpid()}{TEMPORARY}"
    try:
        with disk_explained(target.parent):
            yield temporary
            os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def disk_explained(folder: Path) -> Iterator[None]:
    """Turns the errors of a full or read-only disk into one line.

    Raises:
        UserError
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors reports the system's error as text
        code, text = getattr(error, "errno", None), str(error)
        if code in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text:
            raise UserError(f"the disk is full: {folder} took no more. Free some space and try again.") from error
        if code in (errno.EACCES, errno.EPERM, errno.EROFS) or "Permission denied" in text:
            raise UserError(f"{folder} cannot be written: {text}.") from error
        raise


def _give_usual_mode(*paths: Path) -> None:
    """What files are made with by default: safetensors makes them with 0600, which nobody else could read."""
    umask = os.umask(0o077)  # there is no other way to read it
    os.umask(umask)
    for path in paths:
        if path.is_file() and not path.is_symlink():
            path.chmod(0o666 & ~umask)


def _walk(folder: Path) -> Iterator[str]:
    """Names of files, and of links to files and folders, relative to the folder."""
    for path, folders, files in os.walk(folder):
        links = [name for name in folders if Path(path, name).is_symlink()]
        for name in [*files, *links]:
            yield Path(path, name).relative_to(folder).as_posix()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
