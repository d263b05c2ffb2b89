"""Load a representation from a folder or the Hub, with errors a user can act on."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedConfig

from ..errors import UserError
from ..hub import resolve_folder
from .configuration_hyperrep import HyperRepConfig
from .modeling_hyperrep import HyperRepModel


def load_representation(
    path_or_id: str | Path,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    subfolder: str = "",
    **kwargs: Any,
) -> tuple[HyperRepModel, Path, str | None]:
    """The model, its local folder, and the commit on the Hub it came from.

    Args:
        path_or_id (`str` or `Path`): local folder or Hub id.
        revision, token, cache_dir, local_files_only, subfolder: see [`~hyperrep.hub.resolve_folder`].
        kwargs: for [`HyperRepModel.from_pretrained`], such as `dtype` and `device_map`.

    Raises:
        UserError: if there is no such folder or repository, it is no representation, its weights are damaged, or it
            holds a pickle in place of safetensors.
    """
    folder, commit = resolve_folder(
        path_or_id,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        subfolder=subfolder,
    )
    if not (folder / "config.json").exists():
        raise UserError(f"{path_or_id} is not a representation: it has no config.json.")
    try:
        # transformers would only warn, and leave every weight as it was initialised
        model_type = PreTrainedConfig.get_config_dict(folder)[0].get("model_type")
        if model_type != HyperRepConfig.model_type:
            raise UserError(f"{path_or_id} is not a representation: its model_type is {model_type!r}.")
        return HyperRepModel.from_pretrained(folder, **kwargs), folder, commit
    except SafetensorError as error:
        raise UserError(f"the weights in {path_or_id} are damaged: {error}.") from error
    except OSError as error:
        raise UserError(" ".join(str(error).split())) from error
