"""Large networks of a zoo: a safetensors file each, whose name stands in the network's row.

A row of millions of numbers is nothing that a table can show, and whoever wants one network would have to fetch those
beside it. As a file it is a checkpoint like any other: `module.load_state_dict(load_file(path))`.
"""

import os
import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..errors import UserError
from ..files import sha256_of
from ..files.reading import stored_tensors
from ..weights import WeightLayout


FOLDER = "weights"
NAME = re.compile(rf"{FOLDER}/[\w-][\w.-]*\.safetensors")
LARGEST_IN_ROWS = 2**20  # numbers of a network that stands in its row: 4 MiB


def write_checkpoint(zoo: Path, model: int, epoch: int, vector: Tensor, layout: WeightLayout) -> str:
    """Write one network into a zoo's folder.

    Args:
        zoo (`Path`): the folder.
        model, epoch (`int`)
        vector (`Tensor`): (num_params,), float32.
        layout ([`WeightLayout`])

    Returns:
        `str`: the name, relative to the folder; it changes with the content, so that no row can have another zoo's.
    """
    (zoo / FOLDER).mkdir(exist_ok=True)
    temporary = zoo / FOLDER / "next.safetensors"
    # copies: safetensors takes no views of one storage
    tensors = {name: tensor.clone() for name, tensor in layout.unvectorize(vector).items()}
    save_file(tensors, temporary, metadata={"format": "pt"})
    name = f"{FOLDER}/model-{model:05d}-epoch-{epoch:03d}-{sha256_of(temporary)[:16]}.safetensors"
    os.replace(temporary, zoo / name)
    return name


def checkpoint_paths(zoo: Path, names: list[str]) -> list[Path]:
    """Where the files of these rows lie.

    Raises:
        UserError: if a name leads out of the zoo, or there is no such file.
    """
    for name in names:
        if not NAME.fullmatch(name):
            raise UserError(f"{zoo}: file {name[:80]!r} is no name of a checkpoint in {FOLDER}/.")
        if not (zoo / name).is_file():
            raise UserError(f"{zoo} lacks {name}, which a row names.")
    return [zoo / name for name in names]


def read_checkpoint(path: Path, layout: WeightLayout) -> Tensor:
    """The vector of a file, (num_params,), float32. It may hold NaN, as rows may.

    Raises:
        UserError: if it cannot be read, is damaged, or holds other tensors than the zoo's networks have.
    """
    tensors = stored_tensors(path, dict(layout.tensors))
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise UserError(f"{path}: {name} holds {tensor.dtype}; float32 is needed.")
    return layout.vectorize(tensors)


__all__ = ["FOLDER", "LARGEST_IN_ROWS", "checkpoint_paths", "read_checkpoint", "write_checkpoint"]
