"""Everything that a training run needs, and everything that the user can get wrong, before anything is written."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import ProjectConfiguration, is_bf16_available
from torch import optim
from transformers import PreTrainedConfig

from ..errors import UserError
from ..images import ImageData, ImageSplit
from ..networks import example_images, new_module
from ..population import Engine, choose_engine
from ..representation import HyperRepConfig, HyperRepModel, HyperRepProcessor
from ..representation.canonical import graph_of
from ..representation.pca import initialize_by_pca
from ..weights import WeightLayout, verify_symmetry
from ..zoo import Zoo, load_zoos, zoo_images
from .behavior import BehavioralLoss
from .checkpoints import Checkpoints
from .config import TrainingConfig
from .data import TrainingData
from .logs import TRACKERS
from .measures import Evaluator
from .memory import check_memory
from .moments import Moments
from .others import Examples, OtherZoo, check_windows
from .step import TrainingStep
from .streams import seed_of


# Settings that change what is written down, not what is learned: a resumed run may have others.
BOOKKEEPING = {"eval_epochs", "checkpoint_epochs", "log_with"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes:
        config ([`TrainingConfig`]), zoo ([`~hyperrep.zoo.Zoo`]), data ([`TrainingData`]), accelerator (`Accelerator`)
        settings (`dict`): of the configuration, those that decide what is learned.
        checkpoints ([`Checkpoints`])
        model_config ([`HyperRepConfig`])
        processor ([`HyperRepProcessor`]): fitted to the data, which it has aligned.
        others (`tuple`): further zoos.
    """

    config: TrainingConfig
    zoo: Zoo
    data: TrainingData
    accelerator: Accelerator
    settings: dict[str, Any]
    checkpoints: Checkpoints
    model_config: HyperRepConfig
    processor: HyperRepProcessor
    others: tuple[OtherZoo, ...] = ()

    def measures(self, images: str | None) -> tuple[Evaluator, BehavioralLoss | None]:
        """What the model is evaluated by, and the loss that runs networks, if there is to be one.

        Args:
            images (`str`, *optional*): where the zoo's images are; as the zoo names them by default.

        Raises:
            UserError: if networks must be run on images and cannot be.
        """
        found = _networks_and_images(self.config, self.zoo, images, self.accelerator.is_main_process)
        if found is None:
            return Evaluator(self.data), None
        network, pictures = found
        engine, behavior = choose_engine("auto", network), None
        if self.config.runs_networks:
            behavior = self._behavior(network, pictures, engine)
        return Evaluator(self.data, network, engine, pictures), behavior

    def _behavior(self, network: PreTrainedConfig, images: ImageData, engine: Engine) -> BehavioralLoss:
        if self.config.behavior_images > len(images.train):
            raise UserError(
                f"behavior_images {self.config.behavior_images} exceeds the {len(images.train)} training images."
            )
        device = self.accelerator.device
        split = ImageSplit(images.train.pixels.to(device), images.train.labels.to(device))
        moments = Moments(self.data.train, self.processor.layer_sizes, self.processor.layer_std.to(device))
        return BehavioralLoss(network, split, self.config, engine, moments)

    def new_model(self) -> tuple[HyperRepModel, optim.Optimizer]:
        """The model at step 0, on the accelerator's device, and its optimiser."""
        config, device = self.config, self.accelerator.device
        torch.manual_seed(seed_of("weights", config.seed))
        model = HyperRepModel(self.model_config)
        model.processor.load_state_dict(self.processor.state_dict())
        if config.pca_init:
            initialize_by_pca(model, self.data.train)
        model.to(device)
        if config.torch_compile:
            model.compile()  # in place; accelerate's own would also compile later runs of this process
        optimizer_class = optim.AdamW if config.optimizer == "adamw" else optim.Adam
        optimizer = optimizer_class(
            model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )
        return model, optimizer

    def step(self, model: HyperRepModel, optimizer: optim.Optimizer, behavior: BehavioralLoss | None) -> TrainingStep:
        """What takes the model from one step to the next; all weights lie on the device, views are made there."""
        weights = self.data.train.to(self.accelerator.device)
        layout = WeightLayout.from_list(self.zoo.config.layout)
        symmetries, graph = self.model_config.symmetries, None
        if self.config.permute and symmetries != "chain":
            graph = graph_of(self.zoo.config.network, signs=symmetries == "signs")
        return TrainingStep(
            self.config, self.accelerator, model, optimizer, weights, layout, behavior, graph, self.examples()
        )

    def examples(self) -> list[Examples]:
        """What windows are drawn from, on the accelerator's device; nothing where networks are read as a whole."""
        if self.model_config.token_size is None:
            return []
        zoos = [(self.data, self.processor), *((other.data, other.processor) for other in self.others)]
        return [Examples(data.train.to(self.accelerator.device), processor) for data, processor in zoos]


def start(
    config: TrainingConfig,
    zoo: Zoo | str | Path,
    output: Path,
    resume: bool = False,
    also: Sequence[Zoo | str | Path] = (),
) -> Start:
    """Check settings, zoo, device and the earlier run; writes nothing. See [`~hyperrep.training.train`].

    Raises:
        UserError: if they do not fit together.
    """
    _check_surroundings(config)
    zoo, *more = (one for given in (zoo, *also) for one in ([given] if isinstance(given, Zoo) else load_zoos(given)))
    configs = [_with_symmetries(config, one) for one in (zoo, *more)]
    config = configs[0]
    data = TrainingData.from_zoo(zoo, config.epochs, config.weight_threshold)
    accelerator = _accelerator(config, output)
    _check_batches(config, data, accelerator.num_processes)
    bookkeeping = BOOKKEEPING - {"eval_epochs"} if config.selects else BOOKKEEPING
    settings = {key: value for key, value in asdict(config).items() if key not in bookkeeping}
    processes = {"num_processes": accelerator.num_processes}
    deciding = {"layout": zoo.config.layout, **settings, "zoo_sha256": data.digest, **processes}
    others = tuple(OtherZoo.of(one, its, partial(_model_config, its)) for one, its in zip(more, configs[1:]))
    deciding["also_sha256"] = [other.data.digest for other in others] or None
    checkpoints = Checkpoints(output, deciding, zoo.name)
    if resume:
        checkpoints.check_settings()
    model_config = _model_config(config, zoo, data, others)
    check_memory(model_config, accelerator.device)
    processor = HyperRepProcessor(model_config).fit(data.train, data.best if config.align else None)
    run = Start(config, zoo, data, accelerator, settings, checkpoints, model_config, processor, others)
    if examples := run.examples():
        check_windows(examples, config.batch_size)
    data.align(processor)
    return run


def _check_surroundings(config: TrainingConfig) -> None:
    available = [str(tracker) for tracker in get_available_trackers()]
    for tracker in config.trackers:
        if tracker not in available:
            there_are = ", ".join(available) or "none"
            raise UserError(f"tracker log_with {tracker!r} is not installed; there are: {there_are}.")
    if config.mixed_precision == "bf16" and not is_bf16_available():
        raise UserError("mixed_precision bf16 is not supported by this device; set mixed_precision no.")


def _accelerator(config: TrainingConfig, output: Path) -> Accelerator:
    try:
        accelerator = Accelerator(
            mixed_precision=config.mixed_precision,
            log_with=config.trackers or None,
            project_config=ProjectConfiguration(str(output), logging_dir=str(output / TRACKERS)),
        )
    except ValueError as error:  # such as another precision than that of an earlier run in this process
        raise UserError(f"accelerate does not start: {error}") from error
    # an environment variable of the launcher would otherwise win over the settings
    accelerator.gradient_accumulation_steps = config.gradient_accumulation_steps
    return accelerator


def _check_batches(config: TrainingConfig, data: TrainingData, processes: int) -> None:
    if config.batch_size % (processes * config.gradient_accumulation_steps):
        raise UserError(
            f"batch_size {config.batch_size} is no multiple of {processes} processes times "
            f"{config.gradient_accumulation_steps} gradient_accumulation_steps."
        )
    if config.moments_weight and config.batch_size < 2 * processes * config.gradient_accumulation_steps:
        raise UserError(
            f"moments_weight {config.moments_weight} compares populations, and batch_size {config.batch_size} leaves "
            "one network to a process or micro-batch; give it two or more."
        )
    if config.batch_size > len(data.train) and config.model.get("token_size") is None:
        raise UserError(f"batch_size {config.batch_size} exceeds the {len(data.train)} training checkpoints.")


def _model_config(
    config: TrainingConfig, zoo: Zoo, data: TrainingData, others: Sequence[OtherZoo] = ()
) -> HyperRepConfig:
    return config.model_config(
        layout=zoo.config.layout,
        network=zoo.config.network or None,
        image_processor=zoo.config.image_processor or None,
        zoo={
            "name": zoo.name,
            "revision": zoo.revision,
            "epochs": config.epochs,
            "weight_threshold": config.weight_threshold,
            "num_train": len(data.train),
            "sha256": data.digest,
            "protocol": zoo.config.protocol.get("name"),
            "validation_fraction": zoo.config.protocol.get("validation_fraction"),
            **({"also": [other.record() for other in others]} if others else {}),
        },
        aligned=config.align,
    )


def _with_symmetries(config: TrainingConfig, zoo: Zoo) -> TrainingConfig:
    """The configuration with the symmetries by which this zoo's networks are permuted and aligned: where none are
    asked for, those of a chain of layers or, if the networks form none, the permutations that tracing them finds.

    Raises:
        UserError: if they cannot be permuted or aligned so.
    """
    if not (config.permute or config.align):
        return config
    symmetries = config.model.get("symmetries")
    try:
        if symmetries in (None, "chain"):
            # which activation is all the same: where the networks differ in it, the default will do
            network = zoo.config.architecture()
            try:
                verify_symmetry(zoo.config.weight_layout(), new_module(network), example_images(network))
            except UserError:
                if symmetries is not None:
                    raise
                symmetries = "permutations"
        if symmetries in ("permutations", "signs"):
            # there has to be one such network; signs depend on its activation
            zoo.config.network_config() if symmetries == "signs" else zoo.config.architecture()
            graph_of(zoo.config.network, signs=symmetries == "signs")
    except UserError as error:
        raise UserError(f"zoo {zoo.name}: {error} Set permute and align to false.") from error
    return config if symmetries is None else replace(config, model=config.model | {"symmetries": symmetries})


def _networks_and_images(
    config: TrainingConfig, zoo: Zoo, source: str | None, is_main: bool
) -> tuple[PreTrainedConfig, ImageData] | None:
    """What it takes to run networks; `None`, with a warning, where they cannot be run and need not be.

    Raises:
        UserError: if they cannot be run and must.
    """
    network = None
    try:
        network = zoo.config.network_config()  # there is none where the networks' activations differ
        if source is None and "fingerprint" not in zoo.config.images:
            raise UserError(f"zoo {zoo.name} does not say which images it was trained on.")
        return network, zoo_images(zoo, source)
    except UserError as error:
        if config.runs_networks:
            raise UserError(f"the behavioural loss runs networks on images: {error}") from error
        if source and network is not None:
            raise
        if config.selects and config.metric_for_best_model == "accuracy":
            raise UserError(f"metric_for_best_model accuracy needs the zoo's images: {error}") from error
        if is_main:
            logger.warning("accuracies of reconstructed networks are left out: %s", error)
        return None


__all__ = ["Start", "start"]
