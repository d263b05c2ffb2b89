"""Load a representation from a folder or the Hub, with errors a user can act on."""

from pathlib import Path

from ..errors import UserError
from ..hub import resolve_folder
from .modeling_hyperrep import HyperRepModel


def load_representation(
    path_or_id: str | Path, revision: str | None = None, token: str | None = None
) -> tuple[HyperRepModel, Path, str | None]:
    """The model, its local folder, and the commit on the Hub it came from.

    Raises:
        UserError: if there is no such folder or repository, it is no representation, or it holds a pickle in place of
            safetensors.
    """
    folder, commit = resolve_folder(str(path_or_id), revision=revision, token=token)
    if not (folder / "config.json").exists():
        raise UserError(f"{path_or_id} is not a representation: it has no config.json.")
    try:
        return HyperRepModel.from_pretrained(folder), folder, commit
    except OSError as error:
        raise UserError(" ".join(str(error).split())) from error
