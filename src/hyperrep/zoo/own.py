"""A zoo of somebody's own networks."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from ..errors import UserError
from ..images import ImageData
from ..networks import layout_of
from ..weights import WeightLayout
from .config import OPTIONAL, ZooConfig, image_facts
from .dataset import Zoo
from .protocol import Protocol
from .settings import MAX_EPOCHS, MAX_MODELS, MAX_SEED, MIN_MODELS, SPLITS, split_models
from .split import METRICS, UNKNOWN_SEED, ZooSplit
from .stored import StoredWeights


def write_zoo(
    output: str | Path,
    networks: Tensor | StoredWeights | Sequence[Mapping[str, Tensor]],
    epoch: int | Sequence[int],
    model_id: Sequence[int] | None = None,
    split: Sequence[str] | None = None,
    metrics: Mapping[str, Sequence[float] | Tensor] | None = None,
    seed: Sequence[int] | None = None,
    layout: WeightLayout | None = None,
    network: PreTrainedConfig | None = None,
    repo: str | None = None,
    overwrite: bool = False,
    protocol: Protocol | None = None,
    images: ImageData | None = None,
) -> Path:
    """Write networks of one architecture as a zoo, one row a network, that `load_dataset` and [`load_zoo`] read.

    A column that nobody knows is no column of the files; [`load_zoo`] shows it as NaN (metrics) or -1 (seed). A value
    that is not known among others is NaN.

    Args:
        output (`str` or `Path`): a folder; its name is the zoo's.
        networks (`Tensor`, [`StoredWeights`] or `Sequence`): weight vectors (checkpoints, num_params), which may lie
            in files, or state dicts.
        epoch (`int` or `Sequence[int]`): after how many epochs of training each was taken; 0 is untrained.
        model_id (`Sequence[int]`, *optional*): (checkpoints,), 0, 1, ...: which are checkpoints of one model. By
            default, each is a model of its own.
        split (`Sequence[str]`, *optional*): (checkpoints,), `train`, `validation` or `test`, the same for all
            checkpoints of a model. By default models are split 70/15/15 at random, with seed 42.
        metrics (`Mapping`, *optional*): (checkpoints,) each, by names in [`METRICS`]; accuracies are 0 to 1.
        seed (`Sequence[int]`, *optional*): (checkpoints,), the models' seeds.
        layout ([`~hyperrep.WeightLayout`], *optional*): order of the weight vectors. By default that of `network`, or
            of the first state dict.
        network (`PreTrainedConfig`, *optional*): configuration of the networks. Without one they can be learned from
            and sampled, but not run, aligned or saved as models.
        repo (`str`, *optional*): the Hub id that the card's examples name.
        overwrite (`bool`, *optional*): replace a zoo that hyperrep wrote there.
        protocol ([`Protocol`], *optional*): by which they were trained, so that experiments can train others so.
        images ([`~hyperrep.images.ImageData`], *optional*): those that they were trained and measured on.

    Raises:
        UserError: says what does not fit, before anything is written.
    """
    if layout is None and network is not None:
        layout = layout_of(network)
    layout, weights = _vectors(networks, layout)
    rows = len(weights)
    models = _whole("model_id", range(rows) if model_id is None else model_id, rows, MAX_MODELS - 1)
    num_models = int(models.max()) + 1
    if missing := sorted(set(range(num_models)) - set(models.tolist()))[:1]:
        raise UserError(f"model_id goes up to {num_models - 1} and leaves out {missing[0]}; number models 0, 1, ...")
    epochs = _whole("epoch", [epoch] * rows if isinstance(epoch, int) else epoch, rows, MAX_EPOCHS)
    known = {} if metrics is None else {name: _metric(name, values, rows) for name, values in metrics.items()}
    if strange := sorted(set(known) - set(METRICS)):
        raise UserError(f"metrics has {strange[0]!r}; a zoo knows {', '.join(METRICS)}.")
    everything = ZooSplit(
        weights,
        models,
        torch.full((rows,), UNKNOWN_SEED) if seed is None else _whole("seed", seed, rows, MAX_SEED),
        epochs,
        {name: known.get(name, torch.full((rows,), torch.nan, dtype=torch.float32)) for name in METRICS},
    )
    given = {*known, *([] if seed is None else ["seed"])}
    config = ZooConfig(
        network={} if network is None else json.loads(network.to_json_string(use_diff=False)),
        layout=layout.to_list(),
        image_processor={} if protocol is None else protocol.processor().to_dict(),
        protocol={"name": Path(output).absolute().name} if protocol is None else protocol.to_dict(),
        images={} if images is None else image_facts(images),
        num_models=num_models,
        epochs=epochs.unique().tolist(),
        made_with={},
        unknown=[name for name in OPTIONAL if name not in given],
    )
    zoo = Zoo(Path(output).absolute().name, config, _split(everything, split, num_models))
    return zoo.save(output, overwrite, repo)


def _vectors(
    networks: Tensor | StoredWeights | Sequence[Mapping[str, Tensor]], layout: WeightLayout | None
) -> tuple[WeightLayout, Tensor | StoredWeights]:
    """The layout, and weights (checkpoints, num_params), float32."""
    if not len(networks):
        raise UserError("there are no networks to write.")
    if isinstance(networks, Tensor | StoredWeights):
        if layout is None:
            raise UserError("networks are weight vectors: give layout, which tells the tensors in them.")
        if tuple(networks.shape) != (len(networks), layout.num_params) or not networks.dtype.is_floating_point:
            raise UserError(
                f"networks are {networks.dtype} of shape {tuple(networks.shape)}; floating-point numbers of shape "
                f"({len(networks)}, {layout.num_params}) are needed, or state dicts."
            )
        if isinstance(networks, StoredWeights):
            return layout, networks
        return layout, networks.detach().to("cpu", torch.float32)
    for index, state in enumerate(networks):
        if not isinstance(state, Mapping):
            raise UserError(f"network {index} is a {type(state).__name__}; give its state_dict().")
        for name, tensor in state.items():
            if not (isinstance(tensor, Tensor) and tensor.is_floating_point()):
                kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
                raise UserError(
                    f"network {index}: {name} is {kind}; floating-point tensors are stored, leave others out."
                )
    names = {name: tuple(tensor.shape) for name, tensor in networks[0].items()}
    layout = layout or WeightLayout(tuple(names.items()))
    weights = torch.empty(len(networks), layout.num_params, dtype=torch.float32)
    for index, state in enumerate(networks):
        if set(state) != set(names):
            other = sorted(set(state) ^ set(names))[0]
            raise UserError(
                f"network {index} and network 0 differ in {other}; a zoo has networks of one architecture."
            )
        try:
            weights[index] = layout.vectorize({name: tensor.detach().cpu().float() for name, tensor in state.items()})
        except (UserError, RuntimeError) as error:  # such as one of a stack of networks
            raise UserError(f"network {index}: {error}") from error
    return layout, weights


def _column(name: str, values: Any, rows: int) -> Tensor:
    try:
        column = torch.as_tensor(values).detach().cpu() if isinstance(values, Tensor) else torch.tensor(list(values))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{name} is no list of numbers: {error}.") from error
    if tuple(column.shape) != (rows,):
        raise UserError(f"{name} has shape {list(column.shape)}; there are {rows} networks.")
    return column


def _whole(name: str, values: Any, rows: int, largest: int) -> Tensor:
    column = _column(name, values, rows)
    if column.dtype in (torch.bool,) or column.is_floating_point() or column.is_complex():
        raise UserError(f"{name} holds {column.dtype}; whole numbers are needed.")
    if not 0 <= column.min() <= column.max() <= largest:
        raise UserError(f"{name} runs from {column.min()} to {column.max()}; 0 to {largest:,} are possible.")
    return column.long()


def _metric(name: str, values: Any, rows: int) -> Tensor:
    column = _column(name, values, rows)
    if column.is_complex() or column.dtype == torch.bool:
        raise UserError(f"{name} holds {column.dtype}; numbers are needed.")
    return column.float()


def _split(rows: ZooSplit, names: Sequence[str] | None, num_models: int) -> dict[str, ZooSplit]:
    if names is None:
        if num_models < MIN_MODELS:
            raise UserError(
                f"{num_models} models cannot be split 70/15/15; write {MIN_MODELS} or more, or give split."
            )
        return {name: rows[torch.isin(rows.model_id, models)] for name, models in split_models(num_models).items()}
    if len(names) != len(rows):
        raise UserError(f"split has {len(names)} names; there are {len(rows)} networks.")
    if strange := [name for name in names if name not in SPLITS]:
        raise UserError(f"split has {strange[0]!r}; there are {', '.join(SPLITS)}.")
    return {split: rows[torch.tensor([name == split for name in names])] for split in SPLITS}
