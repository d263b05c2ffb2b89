"""A zoo on disk: Parquet files that `datasets.load_dataset` reads, one row a checkpoint, split by model.

Beside the data, `zoo_config.json` holds what columns cannot: architecture, parameter layout, preprocessing, protocol.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ..errors import UserError
from ..hub import resolve_folder
from ..images import ImageData, load_images
from ..networks import SmallCNNConfig, SmallCNNImageProcessor
from ..weights import WeightLayout
from .settings import SPLITS


CONFIG_NAME = "zoo_config.json"
METRICS = (
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "test_loss",
    "test_accuracy",
    "generalization_gap",
)
_IDENTITY = {"model_id": pa.int32(), "seed": pa.int32(), "epoch": pa.int16()}


@dataclass(frozen=True)
class ZooConfig:
    """What all checkpoints of a zoo share, as stored in `zoo_config.json`.

    Attributes:
        network (`dict`): the networks' configuration, with `model_type` and without what varies among them.
        layout (`list`): names and shapes of their tensors in the order of the weight vector.
        image_processor (`dict`): preprocessing, as in `preprocessor_config.json`.
        protocol (`dict`): the training recipe.
        images (`dict`): name and fingerprint of the images.
        num_models (`int`), epochs (`list[int]`): what was stored.
        made_with (`dict`): engine and versions.
    """

    network: dict[str, Any]
    layout: list
    image_processor: dict[str, Any]
    protocol: dict[str, Any]
    images: dict[str, Any]
    num_models: int
    epochs: list[int]
    made_with: dict[str, Any]

    def __post_init__(self):
        # zoos of earlier versions name one of the values that a factor has
        shared = {name: value for name, value in self.network.items() if name not in self.factors()}
        object.__setattr__(self, "network", shared)

    def weight_layout(self) -> WeightLayout:
        return WeightLayout.from_list(self.layout)

    def network_config(self) -> SmallCNNConfig:
        """The architecture all networks share; initialiser and dropout, which decide no output, may vary.

        Raises:
            UserError: if they have different activations.
        """
        if "hidden_act" in self.factors():
            raise UserError("the networks of this zoo differ in hidden_act; they cannot be run as one architecture.")
        return SmallCNNConfig.from_dict(self.network)

    def factors(self) -> dict[str, list]:
        """Values of each generating factor, empty unless the zoo is a grid."""
        return self.protocol.get("grid", {})

    def save(self, folder: Path) -> None:
        (folder / CONFIG_NAME).write_text(json.dumps(asdict(self), indent=2) + "\n")


@dataclass(frozen=True)
class ZooSplit:
    """Checkpoints, one row each.

    Attributes:
        weights (`Tensor`): (checkpoints, num_params), float32.
        model_id, seed, epoch (`Tensor`): (checkpoints,), int64.
        metrics (`dict[str, Tensor]`): (checkpoints,), float32; names in [`METRICS`].
        factors (`dict[str, ndarray]`): (checkpoints,), text or numbers: the generating factors of a grid zoo.
    """

    weights: Tensor
    model_id: Tensor
    seed: Tensor
    epoch: Tensor
    metrics: dict[str, Tensor]
    factors: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, index: Tensor | slice) -> "ZooSplit":
        """Rows by index, slice or boolean mask."""
        return ZooSplit(
            self.weights[index],
            self.model_id[index],
            self.seed[index],
            self.epoch[index],
            {name: values[index] for name, values in self.metrics.items()},
            {
                name: values[index.numpy() if isinstance(index, Tensor) else index]
                for name, values in self.factors.items()
            },
        )

    def select(self, epochs: list[int]) -> "ZooSplit":
        """The checkpoints of these epochs.

        Raises:
            UserError: if the zoo holds none of one of them.
        """
        stored = sorted(set(self.epoch.tolist()))
        if missing := sorted(set(epochs) - set(stored)):
            raise UserError(f"epochs {missing} are not in the zoo; it holds {stored}.")
        return self[torch.isin(self.epoch, torch.tensor(epochs))]

    def within(self, weight_threshold: float, name: str = "given") -> "ZooSplit":
        """The checkpoints that can be learned from: no NaN, and no weight beyond the threshold in absolute value.

        Args:
            weight_threshold (`float`): infinity keeps every finite checkpoint.
            name (`str`, *optional*): what the error calls them.

        Raises:
            UserError: if none is left.
        """
        largest = self.weights.abs().amax(dim=1)
        kept = (largest <= weight_threshold) & torch.isfinite(largest)  # False for NaN, too
        if not kept.any():
            raise UserError(
                f"the filter drops all {len(self)} {name} checkpoints: each holds a NaN or a weight beyond "
                f"weight_threshold {weight_threshold}. Raise the threshold or choose other epochs."
            )
        return self[kept]


@dataclass(frozen=True)
class Zoo:
    """A loaded zoo: `zoo["train"]`, `zoo["validation"]`, `zoo["test"]`.

    Attributes:
        name (`str`): its Hub id or folder name.
        revision (`str`, *optional*): commit on the Hub.
    """

    name: str
    config: ZooConfig
    splits: dict[str, ZooSplit]
    revision: str | None = None

    def __getitem__(self, split: str) -> ZooSplit:
        return self.splits[split]


def load_zoo(path_or_id: str | Path, revision: str | None = None, token: str | None = None) -> Zoo:
    """Load a zoo from a local folder or the Hub into tensors.

    Raises:
        UserError: if there is no zoo at that place, or its build was not finished.
    """
    folder, commit = resolve_folder(str(path_or_id), repo_type="dataset", revision=revision, token=token)
    path = folder / CONFIG_NAME
    if not path.exists():
        unfinished = (folder / ".build").exists()
        hint = "its build was interrupted: finish it with --resume" if unfinished else "it is not a zoo"
        raise UserError(f"{path_or_id} holds no {CONFIG_NAME}: {hint}.")
    config = ZooConfig(**json.loads(path.read_text()))
    splits = {split: _read_split(folder, split, config) for split in SPLITS}
    is_folder = Path(path_or_id).is_dir()
    return Zoo(Path(path_or_id).resolve().name if is_folder else str(path_or_id), config, splits, commit)


def zoo_images(zoo: Zoo, source: str | None = None) -> ImageData:
    """The images a zoo was trained on.

    Args:
        zoo ([`Zoo`])
        source (`str`, *optional*): where they are: Hub id, folder or `digits`; by default what the zoo calls them.

    Raises:
        UserError: if they cannot be found, or are not the same images to the last pixel.
    """
    protocol, images = zoo.config.protocol, zoo.config.images
    data = load_images(
        source or images["name"],
        SmallCNNImageProcessor.from_dict(zoo.config.image_processor),
        protocol["validation_fraction"],
        max_images=images["train"] + images["validation"],
    )
    if data.fingerprint != images["fingerprint"]:
        raise UserError(
            f"zoo {zoo.name} was trained on {images['train']:,} images of {images['name']} (fingerprint "
            f"{images['fingerprint']}); {source or images['name']} gives {len(data.train):,} others "
            f"({data.fingerprint})."
        )
    return data


def _read_split(folder: Path, split: str, config: ZooConfig) -> ZooSplit:
    num_params = config.weight_layout().num_params
    files = sorted((folder / "data").glob(f"{split}-*.parquet"))
    if not files:
        raise UserError(f"{folder} holds no data/{split}-*.parquet.")
    table = pa.concat_tables([pq.read_table(file) for file in files]).combine_chunks()
    weights = table.column("weights").combine_chunks()
    flat = (weights.chunk(0) if isinstance(weights, pa.ChunkedArray) else weights).flatten().to_numpy()
    if flat.size != len(table) * num_params:
        raise UserError(
            f"{folder}: {split} has {flat.size} weights in {len(table)} rows, the layout says {num_params} a row."
        )

    def column(name: str, dtype: Any) -> Tensor:
        return torch.from_numpy(table.column(name).to_numpy().astype(dtype))

    return ZooSplit(
        torch.from_numpy(flat.reshape(len(table), num_params).copy()),
        column("model_id", np.int64),
        column("seed", np.int64),
        column("epoch", np.int64),
        {name: column(name, np.float32) for name in METRICS},
        {name: np.array(table.column(name).to_pylist()) for name in config.factors()},
    )


def write_split(folder: Path, split: str, rows: ZooSplit) -> None:
    """Write one split as a single Parquet file, columnar: weights as `FixedSizeList<float32>`."""
    columns: dict[str, pa.Array] = {
        name: pa.array(getattr(rows, name).numpy(), type=dtype) for name, dtype in _IDENTITY.items()
    }
    flat = pa.array(rows.weights.contiguous().numpy().reshape(-1))
    columns["weights"] = pa.FixedSizeListArray.from_arrays(flat, rows.weights.shape[1])
    columns |= {name: pa.array(rows.metrics[name].numpy(), type=pa.float32()) for name in METRICS}
    columns |= {name: pa.array(values.tolist()) for name, values in rows.factors.items()}
    path = folder / "data" / f"{split}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    # float weights do not compress; dictionaries and statistics on them only cost time
    pq.write_table(pa.table(columns), path, compression="none", use_dictionary=False, row_group_size=10_000)
