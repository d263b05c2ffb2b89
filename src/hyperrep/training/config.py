"""Settings of a training run: a flat YAML file whose keys are checked, overridden by `--key value`."""

import contextlib
import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError

from ..errors import UserError
from ..files import construct, parse_yaml, read_yaml
from ..files.reading import wording
from ..representation import HyperRepConfig
from ..weights.augmentation import Augmentation


# What the zoo decides, not the user: a configuration file cannot set it.
FROM_ZOO = ("layout", "network", "image_processor", "zoo", "aligned")
MODEL_KEYS = tuple(name for name in HyperRepConfig.__annotations__ if name not in FROM_ZOO and name != "model_type")
PRESETS = Path(__file__).parent.parent / "presets"
LARGEST_COUNT = 10**9  # of steps, networks, units, ...; a seed may be any number of 63 bits
BEHAVIOR_WEIGHTS = ("behavior_weight", "shuffled_weight", "moments_weight")
CHOICES = {
    "optimizer": ("adam", "adamw"),
    "lr_schedule": ("constant", "cosine"),
    "mixed_precision": ("no", "bf16"),
    "erase_target": ("augmented", "clean"),
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
        ensemble_share (`float`, *optional*, defaults to 0.0): share, from 0 to 1, of that cross-entropy which is not
            each network's own but that of their mean probabilities, so that they learn to err differently.
        moments_weight (`float`, *optional*, defaults to 0.0): weight of how far means and standard deviations of these
            networks' weights, and distances of pairs, are from those of the training networks, see
            [`~hyperrep.training.moments.Moments`].
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
            `probe_r2`, see [`~hyperrep.training.measures.Evaluator`].
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
    ensemble_share: float | int = 0.0
    moments_weight: float | int = 0.0
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
        for name, value in (vars(self) | self.model).items():
            _check_numbers(name, value, str(TYPES.get(name)), name == "seed")
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
        for name in ("weight_threshold", "learning_rate"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be positive.")
        for name in ("weight_decay", "warmup_steps", "max_grad_norm", "seed", *BEHAVIOR_WEIGHTS):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must not be negative.")
        if not 0 <= self.ensemble_share <= 1:
            raise UserError(f"ensemble_share is {self.ensemble_share}; it must be a share in [0, 1].")
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise UserError(f"early_stopping_patience is {self.early_stopping_patience}; it must be at least 1.")
        if not self.epochs:
            raise UserError("epochs is empty; name the zoo's epochs to learn from, such as [21, 22, 23, 24, 25].")
        if self.model.get("token_size") is not None:
            for name in (*BEHAVIOR_WEIGHTS, "permute"):
                if value := getattr(self, name):
                    raise UserError(
                        f"token_size {self.model['token_size']} reads networks through windows, and {name} {value} "
                        f"needs whole ones; set {name} to {type(value)()}."
                    )
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
            raise UserError(wording(error)) from error

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str | Path = "settings") -> "TrainingConfig":
        """From flat keys, those of the model among them.

        Args:
            values (`Mapping`)
            where (`str` or `Path`, *optional*): where they come from, for the message.

        Raises:
            UserError: for an unknown key, naming the nearest one, or a value that does not fit.
        """
        _check_keys(values, where)
        values = {key: _typed(value, TYPES[key]) for key, value in values.items()}
        for key, value in values.items():
            _check_numbers(f"{where}: {key}", value, str(TYPES[key]), key == "seed")
        model = {key: value for key, value in values.items() if key in MODEL_KEYS}
        rest = {key: value for key, value in values.items() if key not in MODEL_KEYS}
        return construct(cls, {"model": model} | rest, where)

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> "TrainingConfig":
        """From a YAML file, or a preset of the package by its name, with `overrides` on top.

        Raises:
            UserError: as [`from_dict`], or if there is no such file or preset, or the file is no YAML.
        """
        values, overrides = read_yaml(settings_file(path)), dict(overrides or {})
        _check_keys(values, path)
        _check_keys(overrides, "overrides")
        return cls.from_dict(values | overrides, f"{path} with overrides" if overrides else path)


# of every key that a file may have
TYPES = {item.name: item.type for item in dataclasses.fields(TrainingConfig) if item.name != "model"} | {
    name: HyperRepConfig.__annotations__[name] for name in MODEL_KEYS
}


def presets() -> list[str]:
    """Names of the settings that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def settings_file(name_or_path: str | Path) -> Path:
    """The file of settings at a path, or the package's preset of that name; a file wins over a preset.

    Raises:
        UserError: if there is neither.
    """
    path, name = Path(name_or_path), str(name_or_path)
    with contextlib.suppress(OSError):  # a name that is too long
        if path.is_file():
            return path
    if name in presets():
        return PRESETS / f"{name}.yaml"
    if path.suffix or path.name != name:
        raise UserError(f"there is no configuration file {path}.")
    nearest = difflib.get_close_matches(name, presets(), n=1, cutoff=0.0)[0]
    raise UserError(
        f"there is neither a file nor a preset {name!r}; did you mean {nearest!r}? Presets are {', '.join(presets())}."
    )


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """`["--learning-rate", "1e-3", "--permute=false"]` as `{"learning_rate": "1e-3", "permute": False}`.

    Raises:
        UserError: if a key has no value, a value no key, a key comes twice, or a value is no YAML.
    """
    overrides: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        option, equals, value = argument.partition("=")
        if not option.startswith("--"):
            raise UserError(f"argument {argument!r} stands alone; settings are given as --key value.")
        if not equals:
            if not rest:
                raise UserError(f"{argument} has no value; settings are given as --key value.")
            value = rest.pop(0)
        key = option[2:].replace("-", "_")
        if key in overrides:
            raise UserError(f"{option} is given twice.")
        overrides[key] = parse_yaml(value, f"{option} {value}")
    return overrides


def _check_keys(values: Mapping[str, Any], where: str | Path) -> None:
    for key in values:
        if key not in TYPES:
            nearest = difflib.get_close_matches(str(key), TYPES, n=1, cutoff=0.0)[0]
            raise UserError(f"{where}: key {key!r} is unknown; did you mean {nearest!r}?")


def _check_numbers(name: str, value: Any, expected: str, is_seed: bool) -> None:
    """What no setting's number may be: NaN, infinite, huge, or a truth value in place of a number."""
    if isinstance(value, list | tuple):
        for item in value:
            _check_numbers(name, item, expected, is_seed)
    elif isinstance(value, bool):
        if "bool" not in expected:
            raise UserError(f"{name} is {str(value).lower()}; it takes no truth value.")
    elif isinstance(value, int):
        largest = 2**63 - 1 if is_seed else LARGEST_COUNT
        if abs(value) > largest:
            raise UserError(f"{name} is {_shown(value)}; it must be at most {largest}.")
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} is {value}; it must be a finite number.")


def _shown(number: int) -> str:
    return str(number) if abs(number) < 10**30 else f"a number of {number.bit_length()} bits"


def _typed(value: Any, expected: Any) -> Any:
    """What YAML 1.1 takes for something else: `1e-3` is text, for want of a dot; `1` is no float; `no` is false."""
    if expected == list[float] and isinstance(value, list):
        return [_typed(item, float) for item in value]
    if "float" in str(expected) and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    if expected is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST_COUNT:
        return float(value)
    return "no" if value is False and expected is str else value


__all__ = ["MODEL_KEYS", "TrainingConfig", "parse_overrides", "presets", "settings_file"]
