"""A Hub id and a local folder are interchangeable: resolve either to a folder, and publish a folder."""

import glob
import logging
import os
import tempfile
from fnmatch import fnmatch
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from .errors import UserError
from .files import is_unchanged, sha256_of


if TYPE_CHECKING:
    from huggingface_hub import HfApi


# What a published folder may hold. Checkpoints of a training run hold pickles and stay at home.
PUBLISHED = ["*.json", "*.jsonl", "*.safetensors", "*.parquet", "*.md", "*.png", "*.yaml"]
PRIVATE = ["checkpoints/*", ".*", "*/.*", "*.bin", "*.pkl", "*.pt"]
EMPTY = "Not evaluated yet"  # says a card without results
LOG_IN = "log in with `hf auth login`"

logger = logging.getLogger(__name__)


def resolve_folder(
    path_or_id: str | Path,
    repo_type: str = "model",
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    subfolder: str = "",
) -> tuple[Path, str | None]:
    """The local folder of a representation or zoo, downloaded from the Hub if it is not a folder already. Where the
    Hub cannot be asked, the copy in the cache is taken, with a warning.

    Args:
        path_or_id (`str` or `Path`): local folder or Hub id.
        repo_type (`str`, *optional*, defaults to `"model"`): `model` or `dataset`.
        revision, token (`str`, *optional*): for the Hub.
        cache_dir (`str` or `Path`, *optional*): where downloads are kept, if not in the Hub's own cache.
        local_files_only (`bool`, *optional*): do not ask the Hub.
        subfolder (`str`, *optional*): of the folder or repository.

    Returns:
        `tuple[Path, str | None]`: the folder, and the commit on the Hub it came from.

    Raises:
        UserError: if there is no such folder, nor such a repository within reach.
    """
    given, commit = os.path.expanduser(path_or_id), None
    path = Path(given)
    if not os.path.isdir(given):  # of a path too long or with a null byte, pathlib would raise; and "" is no folder
        path = _downloaded(str(path_or_id), repo_type, revision, token, cache_dir, local_files_only, subfolder)
        commit = path.name
    elif not any(path.iterdir()):
        raise UserError(f"folder {str(path_or_id)!r} is empty.")
    if subfolder and not (path / subfolder).is_dir():
        raise UserError(f"{str(path_or_id)!r} has no subfolder {subfolder!r}.")
    return path / subfolder, commit


def _downloaded(
    repo_id: str,
    repo_type: str,
    revision: str | None,
    token: str | None,
    cache_dir: str | Path | None,
    local_files_only: bool,
    subfolder: str,
) -> Path:
    from huggingface_hub import HfApi, is_offline_mode, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import validate_repo_id

    if os.path.lexists(repo_id):
        raise UserError(f"{repo_id!r} is a file or a broken link; name the folder.")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"there is no folder {repo_id!r}, and it cannot be a Hub id either.") from error
    arguments: dict[str, Any] = {"repo_type": repo_type, "revision": revision, "token": token, "cache_dir": cache_dir}
    arguments["allow_patterns"] = [f"{subfolder}/{kind}" if subfolder else kind for kind in PUBLISHED]
    local_files_only = local_files_only or is_offline_mode()
    try:
        if not local_files_only:  # snapshot_download alone would turn to the cache in silence
            HfApi(token=token).repo_info(repo_id, repo_type=repo_type, revision=revision)
        return Path(snapshot_download(repo_id, local_files_only=local_files_only, **arguments))
    except RevisionNotFoundError as error:
        raise UserError(f"{repo_type} {repo_id!r} has no revision {revision!r}.") from error
    except (HTTPError, OSError, JSONDecodeError) as error:
        reason = hub_reason(error)
        try:
            folder = Path(snapshot_download(repo_id, local_files_only=True, **arguments))
        except LocalEntryNotFoundError:
            if isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError):
                raise UserError(
                    f"{repo_id!r} is neither a local folder nor a {repo_type} on the Hub; {reason}."
                ) from error
            raise UserError(
                f"{repo_type} {repo_id!r} cannot be loaded, as {reason}; no such folder is here."
            ) from error
        logger.warning("using the copy of %s in the cache, as %s", repo_id, reason)
        return folder


def hub_reason(error: BaseException) -> str:
    """Why the Hub, or the way to it, failed: a clause that says what to do."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return f"access to it is granted by its owner: ask on its page, and {LOG_IN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"if it is private, {LOG_IN}"
    if status == 401:
        return f"the Hub does not know your token: {LOG_IN}, or unset HF_TOKEN"
    if status == 403:
        return f"your token may not do that: {LOG_IN}, with a token that may"
    if status == 429:
        return "the Hub answers no more of your requests for now: wait a few minutes"
    if status is not None and status >= 500:
        return f"the Hub answered with error {status}: try again later"
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, errors.HTTPError):
        return hub_reason(error.__cause__)
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        return "it is not all in the cache, and the Hub is not to be asked (offline)"
    if isinstance(error, JSONDecodeError):
        return "what came is not the Hub's answer: look for a proxy or a log-in page of the network in between"
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:  # of this machine
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, errors.HTTPError) and status is None:
        return f"the connection failed ({_one_line(error)}); try again, what came is kept"
    return _one_line(error)


def _one_line(error: BaseException) -> str:
    return next((line.strip(" .") for line in str(error).splitlines() if line.strip()), type(error).__name__)


class PushSettings(TypedDict, total=False):
    """How something is published, see [`push_folder`]."""

    private: bool | None
    token: str | None
    revision: str | None
    create_pr: bool
    commit_message: str | None


def push_folder(
    folder: str | Path,
    repo_id: str,
    repo_type: str = "model",
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
) -> str:
    """Publish a folder of a representation, of generated networks or of a zoo in one commit. What is uploaded are its
    cards, settings, results, weights and data; never a pickle, a training checkpoint, a hidden file, or anything
    behind a symbolic link. A card that somebody wrote or changed on the Hub is not replaced by one that hyperrep
    wrote, nor an evaluated one by an empty one of the same weights; a warning says so.

    Args:
        folder (`str` or `Path`)
        repo_id (`str`): such as `org/hyperrep-mnist`; made if it is not there.
        repo_type (`str`, *optional*, defaults to `"model"`): `model` or, for a zoo, `dataset`.
        private (`bool`, *optional*): whether a new repository is.
        token (`str`, *optional*): instead of the stored one.
        revision (`str`, *optional*): the branch; it must exist.
        create_pr (`bool`, *optional*, defaults to `False`): open a pull request instead of committing.
        commit_message (`str`, *optional*)

    Returns:
        `str`: the repository's address, or that of the pull request.

    Raises:
        UserError: if the folder is missing, has no README.md or is not complete, if a symbolic link stands for a file
            that would be published, or the Hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError
    from huggingface_hub.utils import validate_repo_id

    folder = Path(folder).expanduser()
    names = published_files(folder, repo_type)
    try:
        validate_repo_id(repo_id)
        api = HfApi(token=token)
        url = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True)
        if reason := _keeps_its_card(api, folder, repo_id, repo_type, revision):
            names.remove("README.md")
            logger.warning("the card of %s stays as it is: %s", repo_id, reason)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            repo_type=repo_type,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message or f"Upload {folder.resolve().name} with hyperrep",
            allow_patterns=[glob.escape(name) for name in names],
            ignore_patterns=PRIVATE,
        )
    except HFValidationError as error:
        raise UserError(f"{repo_id!r} is no Hub id; it is like org/name.") from error
    except (HTTPError, OSError, JSONDecodeError) as error:
        raise UserError(f"{folder} was not published at {repo_id!r} ({hub_reason(error)}).") from error
    return str(commit.pr_url or url)


def _keeps_its_card(api: "HfApi", folder: Path, repo_id: str, repo_type: str, revision: str | None) -> str:
    """Why the card on the Hub is better than the folder's, if it is."""
    from huggingface_hub.errors import RemoteEntryNotFoundError, RevisionNotFoundError

    card = (folder / "README.md").read_text(encoding="utf-8")
    if not is_unchanged(card):
        return ""
    with tempfile.TemporaryDirectory() as temporary:
        try:
            place = api.hf_hub_download(
                repo_id, "README.md", repo_type=repo_type, revision=revision, local_dir=temporary
            )
        except (RemoteEntryNotFoundError, RevisionNotFoundError):
            return ""
        there = Path(place).read_text(encoding="utf-8")
    if not is_unchanged(there):
        return f"somebody wrote it there. To change it, write yours into {folder / 'README.md'}, or delete it there."
    if EMPTY in card and EMPTY not in there and _same_weights(api, folder, repo_id, repo_type, revision):
        return "it is that of the same weights, evaluated."
    return ""


def _same_weights(api: "HfApi", folder: Path, repo_id: str, repo_type: str, revision: str | None) -> bool:
    """Whether every file of tensors of the folder is on the Hub."""
    from huggingface_hub.hf_api import RepoFile

    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.safetensors")}
    entries = api.get_paths_info(repo_id, list(files), repo_type=repo_type, revision=revision)
    there = {entry.path: entry.lfs.sha256 for entry in entries if isinstance(entry, RepoFile) and entry.lfs}
    return all(there.get(name) == sha256_of(path) for name, path in files.items())


def published_files(folder: Path, repo_type: str = "model") -> list[str]:
    """Names of what [`push_folder`] uploads.

    Raises:
        UserError: as [`push_folder`].
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}.")
    names = []
    for place, folders, files in os.walk(folder):
        for name in [*files, *(name for name in folders if Path(place, name).is_symlink())]:
            path = Path(place, name)
            relative = path.relative_to(folder).as_posix()
            if any(fnmatch(relative, pattern) for pattern in PRIVATE):
                continue
            if path.is_symlink():
                raise UserError(
                    f"{path} is a symbolic link, and what lies outside a folder is not published with it; put the "
                    "file itself there, or remove the link."
                )
            if any(fnmatch(relative, pattern) for pattern in PUBLISHED):
                names.append(relative)
    if "README.md" not in names:
        raise UserError(f"{folder} has no README.md: write its card first (hyperrep card {folder}).")
    needed = {"zoo_config.json": "zoo_config.json", "data": "data/*.parquet"}
    if (folder / "zoos.json").exists():
        needed = {name: f"*/{pattern}" for name, pattern in needed.items()}
    if (folder / "index.json").exists() and repo_type == "model":
        needed = {"index.json": "index.json", "networks": "model-*/model.safetensors"}
    elif repo_type == "model":
        needed = {"config.json": "config.json", "weights": "model*.safetensors"}
    if missing := [what for what, pattern in needed.items() if not any(fnmatch(name, pattern) for name in names)]:
        raise UserError(f"{folder} has no {' and no '.join(missing)}: it is not finished, or not a {repo_type}.")
    return sorted(names)
