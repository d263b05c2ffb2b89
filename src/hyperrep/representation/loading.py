"""Load a representation from a folder or the Hub, with errors a user can act on."""

from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedConfig

from ..errors import UserError
from ..hub import resolve_folder
from .configuration_hyperrep import HyperRepConfig
from .modeling_hyperrep import HyperRepModel


def load_representation(
    path_or_id: str | Path, revision: str | None = None, token: str | None = None
) -> tuple[HyperRepModel, Path, str | None]:
    """The model, its local folder, and the commit on the Hub it came from.

    Raises:
        UserError: if there is no such folder or repository, it is no representation, its weights are damaged, or it
            holds a pickle in place of safetensors.
    """
    folder, commit = resolve_folder(str(path_or_id), revision=revision, token=token)
    if not (folder / "config.json").exists():
        raise UserError(f"{path_or_id} is not a representation: it has no config.json.")
    try:
        # transformers would only warn, and leave every weight as it was initialised
        model_type = PreTrainedConfig.get_config_dict(folder)[0].get("model_type")
        if model_type != HyperRepConfig.model_type:
            raise UserError(f"{path_or_id} is not a representation: its model_type is {model_type!r}.")
        return HyperRepModel.from_pretrained(folder), folder, commit
    except SafetensorError as error:
        raise UserError(f"the weights in {path_or_id} are damaged: {error}.") from error
    except OSError as error:
        raise UserError(" ".join(str(error).split())) from error
