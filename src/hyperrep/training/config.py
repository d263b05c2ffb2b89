"""Settings of a training run: a flat YAML file whose keys are checked, overridden by `--key value`."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError

from ..errors import UserError
from ..representation import HyperRepConfig
from ..weights.augmentation import Augmentation


# What the zoo decides, not the user: a configuration file cannot set it.
FROM_ZOO = ("layout", "network", "image_processor", "zoo", "aligned")
MODEL_KEYS = tuple(name for name in HyperRepConfig.__annotations__ if name not in FROM_ZOO and name != "model_type")
BEHAVIOR_WEIGHTS = ("behavior_weight", "shuffled_weight", "interpolated_weight", "density_weight")
CHOICES = {
    "optimizer": ("adam", "adamw"),
    "lr_schedule": ("constant", "cosine"),
    "mixed_precision": ("no", "bf16"),
    "erase_target": ("augmented", "clean"),
    "interpolated_targets": ("labels", "mixture"),
    "metric_for_best_model": ("reconstruction_loss", "r2", "accuracy", "probe_r2"),
}


@strict
@dataclass
class TrainingConfig:
    """How a hyper-representation is trained.

    Args:
        model (`dict`, *optional*): fields of [`HyperRepConfig`]; in a file they stand beside the keys below.
        epochs (`list[int]`, *optional*, defaults to `[21, 22, 23, 24, 25]`): which epochs of the zoo's networks are
            learned (NeurIPS 2022 configuration).
        weight_threshold (`float`, *optional*, defaults to 5.0): checkpoints with a larger absolute weight, or a NaN,
            are left out.
        align (`bool`, *optional*, defaults to `False`): permute the hidden units of every network to lie close to
            those of the best one before anything else; then `permute` should be off.
        pca_init (`bool`, *optional*, defaults to `False`): start from the principal components of each layer's neurons
            instead of random weights, see [`~hyperrep.representation.pca.initialize_by_pca`].
        permute, erase_prob, erase_scale, additive_noise, multiplicative_noise: see
            [`~hyperrep.weights.augmentation.Augmentation`].
        erase_target (`str`, *optional*, defaults to `"augmented"`): `augmented` reconstructs the view, erased zeros
            and noise included, as published; `clean` the network before erasing and noise.
        behavior_weight (`float`, *optional*, defaults to 0.0): weight of the cross-entropy between the outputs of
            networks and of their reconstructions, see [`~hyperrep.training.behavior.BehavioralLoss`].
        shuffled_weight (`float`, *optional*, defaults to 0.0): weight of the cross-entropy with the labels of networks
            decoded from latents shuffled per dimension across the batch.
        interpolated_weight (`float`, *optional*, defaults to 0.0): of the same for latents between two networks.
        interpolated_targets (`str`, *optional*, defaults to `"labels"`): or `mixture`, what the two networks answer.
        density_weight (`float`, *optional*, defaults to 0.0): of the same for latents drawn, independently in each
            dimension, from a Gaussian kernel density over the batch.
        density_bandwidth (`float`, *optional*, defaults to 0.002): its standard deviation, as [`KDESampler`]'s.
        behavior_images (`int`, *optional*, defaults to 32): training images a step for these terms.
        batch_size (`int`, *optional*, defaults to 64): networks a step, over all processes together.
        gradient_accumulation_steps (`int`, *optional*, defaults to 1): micro-batches that a step's batch is divided
            into, one after the other, to save memory; unlike in transformers, `batch_size` counts them all. NT-Xent
            finds its negatives, and shuffled latents their partners, within one micro-batch.
        num_train_epochs (`int`, *optional*, defaults to 200): passes over the training split.
        optimizer (`str`, *optional*, defaults to `"adamw"`): or `adam`, whose weight decay is an L2 term.
        learning_rate (`float`, *optional*, defaults to 1e-3): at its peak, whatever the number of processes.
        weight_decay (`float`, *optional*, defaults to 0.0).
        lr_schedule (`str`, *optional*, defaults to `"cosine"`): to zero; or `constant`.
        warmup_steps (`int`, *optional*, defaults to 50): of linear warm-up.
        max_grad_norm (`float`, *optional*, defaults to 1.0): gradients are clipped to this norm; 0 means never.
        mixed_precision (`str`, *optional*, defaults to `"no"`): or `bf16`.
        seed (`int`, *optional*, defaults to 42): of initial weights, order, augmentation and dropout.
        eval_epochs (`int`, *optional*, defaults to 10): evaluate on the validation split every so many epochs.
        checkpoint_epochs (`int`, *optional*, defaults to 10): write a checkpoint every so many epochs.
        metric_for_best_model (`str`, *optional*, defaults to `"reconstruction_loss"`): of the validation split, what
            the next two settings compare: `reconstruction_loss`, `r2`, `accuracy` (of reconstructed networks) or
            `probe_r2`, see [`~hyperrep.training.evaluation.Evaluator`].
        load_best_model_at_end (`bool`, *optional*, defaults to `False`): the model is that of the best evaluation, not
            of the last step.
        early_stopping_patience (`int`, *optional*): stop after so many evaluations in a row without a better one.
        torch_compile (`bool`, *optional*, defaults to `False`): compile the model with inductor, which takes a minute
            at the start.
        log_with (`str` or `list[str]`, *optional*): trackers of accelerate, such as `tensorboard`, `trackio`, `wandb`.

    Raises:
        UserError: if a value has the wrong type or lies outside its range.
    """

    model: dict[str, Any] = field(default_factory=dict)

    epochs: list[int] = field(default_factory=lambda: [21, 22, 23, 24, 25])
    weight_threshold: float | int = 5.0

    align: bool = False
    pca_init: bool = False
    permute: bool = True
    erase_prob: float | int = 0.5
    erase_scale: list[float] = field(default_factory=lambda: [0.02, 0.33])
    additive_noise: float | int = 0.0
    multiplicative_noise: float | int = 0.0
    erase_target: str = "augmented"

    behavior_weight: float | int = 0.0
    shuffled_weight: float | int = 0.0
    interpolated_weight: float | int = 0.0
    interpolated_targets: str = "labels"
    density_weight: float | int = 0.0
    density_bandwidth: float | int = 0.002
    behavior_images: int = 32

    batch_size: int = 64
    gradient_accumulation_steps: int = 1
    num_train_epochs: int = 200
    optimizer: str = "adamw"
    learning_rate: float | int = 1e-3
    weight_decay: float | int = 0.0
    lr_schedule: str = "cosine"
    warmup_steps: int = 50
    max_grad_norm: float | int = 1.0
    mixed_precision: str = "no"
    seed: int = 42

    eval_epochs: int = 10
    checkpoint_epochs: int = 10
    metric_for_best_model: str = "reconstruction_loss"
    load_best_model_at_end: bool = False
    early_stopping_patience: int | None = None
    torch_compile: bool = False
    log_with: str | list[str] | None = None

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f"{name} {getattr(self, name)!r} is unknown; choose from {', '.join(choices)}.")
        for name in (
            "batch_size",
            "gradient_accumulation_steps",
            "num_train_epochs",
            "eval_epochs",
            "checkpoint_epochs",
            "behavior_images",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("weight_threshold", "learning_rate", "density_bandwidth"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be positive.")
        for name in ("weight_decay", "warmup_steps", "max_grad_norm", "seed", *BEHAVIOR_WEIGHTS):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must not be negative.")
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise UserError(f"early_stopping_patience is {self.early_stopping_patience}; it must be at least 1.")
        if not self.epochs:
            raise UserError("epochs is empty; name the zoo's epochs to learn from, such as [21, 22, 23, 24, 25].")
        _ = self.augmentation  # checks its own ranges
        self.model_config()

    @property
    def augmentation(self) -> Augmentation:
        if len(self.erase_scale) != 2:
            raise UserError(f"erase_scale is {self.erase_scale}; it must be two rising shares in [0, 1].")
        return Augmentation(
            permute=self.permute,
            erase_prob=self.erase_prob,
            erase_scale=(self.erase_scale[0], self.erase_scale[1]),
            additive_noise=self.additive_noise,
            multiplicative_noise=self.multiplicative_noise,
        )

    @property
    def selects(self) -> bool:
        """Whether evaluations decide about the model."""
        return self.load_best_model_at_end or self.early_stopping_patience is not None

    @property
    def greater_is_better(self) -> bool:
        return not self.metric_for_best_model.endswith("loss")

    @property
    def trackers(self) -> list[str]:
        return [self.log_with] if isinstance(self.log_with, str) else self.log_with or []

    @property
    def runs_networks(self) -> bool:
        """Whether training runs decoded networks on images."""
        return any(getattr(self, name) for name in BEHAVIOR_WEIGHTS)

    def model_config(self, **from_zoo: Any) -> HyperRepConfig:
        """The model's configuration, with what the zoo decides ([`FROM_ZOO`]).

        Raises:
            UserError: as [`HyperRepConfig`] words it.
        """
        try:
            return HyperRepConfig(**from_zoo, **self.model)
        except (StrictDataclassError, ValueError) as error:
            raise UserError(_wording(error)) from error

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainingConfig":
        """From flat keys, those of the model among them.

        Raises:
            UserError: for an unknown key, naming the nearest one, or a value that does not fit.
        """
        own = [item.name for item in dataclasses.fields(cls) if item.name != "model"]
        types = {item.name: item.type for item in dataclasses.fields(cls)} | HyperRepConfig.__annotations__
        model: dict[str, Any] = {}
        training: dict[str, Any] = {}
        for key, value in values.items():
            if key not in own and key not in MODEL_KEYS:
                raise UserError(f"key {key!r} is unknown; did you mean {_nearest(key, [*own, *MODEL_KEYS])!r}?")
            (training if key in own else model)[key] = _as_number(value, types[key])
        try:
            return cls(model=model, **training)
        except StrictDataclassError as error:
            raise UserError(_wording(error)) from error

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> "TrainingConfig":
        """From a YAML file, with `overrides` on top.

        Raises:
            UserError: as [`from_dict`], or if the file does not exist or holds no keys.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f"there is no configuration file {path}.")
        try:
            values = yaml.safe_load(path.read_text()) or {}
        except yaml.YAMLError as error:
            raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
        if not isinstance(values, dict):
            raise UserError(f"{path} holds a {type(values).__name__}; it should hold lines `key: value`.")
        return cls.from_dict(values | dict(overrides or {}))


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """`["--learning-rate", "1e-3", "--permute=false"]` as `{"learning_rate": "1e-3", "permute": False}`.

    Raises:
        UserError: if a key has no value, or a value no key.
    """
    overrides: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        key, equals, value = argument.partition("=")
        if not key.startswith("--"):
            raise UserError(f"argument {argument!r} stands alone; settings are given as --key value.")
        if not equals:
            if not rest:
                raise UserError(f"{argument} has no value; settings are given as --key value.")
            value = rest.pop(0)
        overrides[key[2:].replace("-", "_")] = yaml.safe_load(value)
    return overrides


def _as_number(value: Any, expected: Any) -> Any:
    """YAML 1.1 reads `1e-3` as text, for want of a dot."""
    if isinstance(value, str) and "float" in str(expected):
        try:
            return float(value)
        except ValueError:
            return value
    if isinstance(value, list) and expected == list[float]:
        return [float(item) if isinstance(item, int) else item for item in value]
    return value


def _nearest(key: str, valid: list[str]) -> str:
    return difflib.get_close_matches(str(key), valid, n=1, cutoff=0.0)[0]


def _wording(error: Exception) -> str:
    """The sentence inside a strict dataclass' error, on one line."""
    cause = error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ else error
    return " ".join(str(cause).split())


__all__ = ["MODEL_KEYS", "TrainingConfig", "parse_overrides"]
