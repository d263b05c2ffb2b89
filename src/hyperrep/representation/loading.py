"""Load a representation from a folder or the Hub, with errors a user can act on."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from ..errors import UserError
from ..files import read_json, read_tensors
from ..files.reading import wording
from ..hub import resolve_folder
from .configuration_hyperrep import HyperRepConfig
from .modeling_hyperrep import HyperRepModel
from .strict import refuse_pickles


WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


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

    Its files are read by our own door, and nothing but them: names, types and sizes are checked before memory is
    asked for, and what a configuration says about other code or files is left out.

    Args:
        path_or_id (`str` or `Path`): local folder or Hub id.
        revision, token, cache_dir, local_files_only, subfolder: see [`~hyperrep.hub.resolve_folder`].
        kwargs: for [`HyperRepModel.from_pretrained`], such as `dtype` and `device_map`.

    Raises:
        UserError: if there is no such folder or repository, it is no representation, a setting is impossible, a tensor
            is missing, too many, of another shape or not finite, or there is a pickle in place of safetensors.
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
    values = read_json(folder / "config.json")
    if values.get("model_type") != HyperRepConfig.model_type:
        raise UserError(f"{path_or_id} is not a representation: its model_type is {values.get('model_type')!r}.")
    values.pop("auto_map", None)
    config = read_config(values, folder / "config.json")
    model = HyperRepModel.from_pretrained(None, config=config, state_dict=_read_weights(folder, config), **kwargs)
    model.config.name_or_path = str(path_or_id)
    return model, folder, commit


def read_config(values: dict[str, Any], where: Path) -> HyperRepConfig:
    """A configuration from the values of a file.

    Raises:
        UserError: names the setting that is impossible.
    """
    # not a setting of ours, and transformers looks it up among torch's attributes without a check
    dtype = values.get("dtype")
    if dtype is not None and not (isinstance(dtype, str) and isinstance(getattr(torch, dtype, None), torch.dtype)):
        raise UserError(f"{where}: dtype is {dtype!r}; it must be a floating-point type such as 'float32'.")
    try:
        return HyperRepConfig.from_dict(values)
    except (StrictDataclassError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: {wording(error)}") from error


def _read_weights(folder: Path, config: HyperRepConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        expected = HyperRepModel(config).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    counters = [name for name, tensor in expected.items() if not tensor.is_floating_point()]
    if (folder / WEIGHTS).exists():
        return read_tensors(folder / WEIGHTS, shapes, counters)
    try:
        refuse_pickles(str(folder), {"local_files_only": True})
    except OSError as error:
        raise UserError(f"{error}") from error
    if not (folder / INDEX).exists():
        raise UserError(f"{folder} is not a representation: it has no {WEIGHTS}.")
    weight_map = read_json(folder / INDEX)["weight_map"]
    if different := sorted(set(shapes) ^ set(weight_map)):
        raise UserError(f"{folder / INDEX}: tensors are missing or too many: {', '.join(different[:5])}.")
    tensors: dict[str, Tensor] = {}
    for shard in set(weight_map.values()):
        part = {name: shapes[name] for name in weight_map if weight_map[name] == shard}
        tensors |= read_tensors(folder / shard, part, counters)
    return tensors
