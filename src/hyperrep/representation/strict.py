"""What loading a representation insists on, beyond what transformers does: safetensors only, and nothing filled in."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.utils import cached_file


HUB_ARGUMENTS = {"cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token"}
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def refuse_pickles(name_or_path: str, where: Mapping[str, Any]) -> None:
    """Whether a model's files are safetensors, as far as they are there.

    Args:
        name_or_path (`str`): local folder or Hub id.
        where (`Mapping`): arguments of `from_pretrained` that say where on the Hub, or which variant.

    Raises:
        OSError: if there is a pickle instead, or an index names a file that is none of the safetensors beside it.
    """
    folder = Path(name_or_path, where.get("subfolder") or "")
    if folder.is_dir() and not any(folder.glob("model*.safetensors*")):
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
        if pickles:
            raise OSError(
                f"{folder} holds {', '.join(pickles)} but no model.safetensors: pickles can run code and are "
                "never loaded. Ask its author for safetensors, or convert a file you trust with safetensors.torch."
            )
    suffix = f".{where['variant']}" if where.get("variant") else ""
    hub = {key: value for key, value in where.items() if key in HUB_ARGUMENTS}
    for file_name in (f"model{suffix}.safetensors", f"model.safetensors.index{suffix}.json"):
        file = cached_file(name_or_path, file_name, _raise_exceptions_for_missing_entries=False, **hub)
        if file is not None:
            break
    if file is None or not file.endswith(".json"):
        return
    try:
        shards = set(json.loads(Path(file).read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OSError(f"{file} is no index of safetensors files.") from error
    for shard in shards:
        if Path(str(shard)).name != shard or not shard.endswith(".safetensors"):
            raise OSError(f"{file} names {shard!r}; only safetensors files beside it are read.")


def refuse_incomplete(model: nn.Module, info: Mapping[str, Any], source: Any) -> None:
    """Whether a model was filled by its files, all of them, with numbers.

    Args:
        model (`nn.Module`), info (`Mapping`): as `from_pretrained` returns them with `output_loading_info`.
        source: where they come from, for the message.

    Raises:
        ValueError: if tensors are missing, unexpected, or hold NaN or infinity.
    """
    for problem in ("missing", "unexpected"):
        if names := sorted(info[f"{problem}_keys"]):
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise ValueError(f"{source}: tensors are {problem}: {', '.join(names[:5])}{more}.")
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.is_meta and not torch.isfinite(tensor).all():
            raise ValueError(f"{source}: {name} holds NaN or infinite numbers.")
