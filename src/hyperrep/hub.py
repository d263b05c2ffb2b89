"""A Hub id and a local folder are interchangeable: resolve either to a folder, and publish a folder."""

from pathlib import Path

from .errors import UserError


# What a published folder may hold. Checkpoints of a training run hold pickles and stay at home.
PUBLISHED = ["*.json", "*.jsonl", "*.safetensors", "*.parquet", "*.md", "*.png", "*.yaml"]
PRIVATE = ["checkpoints/*", ".*", "*/.*", "*.bin", "*.pkl", "*.pt"]


def resolve_folder(
    path_or_id: str, repo_type: str = "model", revision: str | None = None, token: str | None = None
) -> tuple[Path, str | None]:
    """The local folder of a representation or zoo, downloaded from the Hub if it is not a folder already.

    Args:
        path_or_id (`str`): local folder or Hub id.
        repo_type (`str`, *optional*, defaults to `"model"`): `model` or `dataset`.
        revision, token (`str`, *optional*): for the Hub.

    Returns:
        `tuple[Path, str | None]`: the folder, and the commit on the Hub it came from.

    Raises:
        UserError: if there is no such folder, nor such a repository within reach.
    """
    path = Path(path_or_id)
    if path.is_dir():
        return path, None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(path_or_id)
    except HFValidationError as error:
        raise UserError(f"there is no folder {path_or_id!r}, and it cannot be a Hub id either.") from error
    try:
        folder = snapshot_download(
            path_or_id, repo_type=repo_type, revision=revision, token=token, allow_patterns=PUBLISHED
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path_or_id!r} is neither a local folder nor a {repo_type} on the Hub ({reason})") from error
    return Path(folder), Path(folder).name


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
    """Publish a representation's or a zoo's folder in one commit; never uploads pickles or training checkpoints.

    Returns:
        `str`: the repository's address.

    Raises:
        UserError: if the folder is missing or has no README.md.
    """
    from huggingface_hub import HfApi

    folder = Path(folder)
    if not (folder / "README.md").exists():
        raise UserError(f"{folder} has no README.md: write its card first (hyperrep card {folder}).")
    api = HfApi(token=token)
    url = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True)
    api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        repo_type=repo_type,
        revision=revision,
        create_pr=create_pr,
        commit_message=commit_message or f"Upload {folder.resolve().name} with hyperrep",
        allow_patterns=PUBLISHED,
        ignore_patterns=PRIVATE,
    )
    return str(url)
