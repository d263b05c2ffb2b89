"""The training loop of a hyper-representation: on any number of processes, and resumable to the bit."""

import json
import logging
import math
import platform
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from torch import Tensor, optim
from tqdm.auto import tqdm

from ..errors import UserError
from ..images import ImageSplit
from ..population import choose_engine
from ..representation import HyperRepModel
from ..representation.batched import encode_rows
from ..samplers import SAMPLER_FOLDER, KDESampler
from ..version import __version__
from ..weights import WeightLayout
from ..weights.augmentation import corrupt, permute
from ..zoo import Zoo, load_zoo, zoo_images
from .behavior import BehavioralLoss
from .checkpoints import Checkpoints, write_json
from .config import TrainingConfig
from .data import TrainingData, epoch_order, seed_from
from .evaluation import evaluate_reconstruction


LOSSES = ("loss", "reconstruction_loss", "contrastive_loss", "behavior_loss", "shuffled_loss")
# Settings that change what is written down, not what is learned: a resumed run may have others.
BOOKKEEPING = ("eval_epochs", "checkpoint_epochs", "log_with")

logger = logging.getLogger(__name__)


def train(
    config: TrainingConfig,
    zoo: Zoo | str | Path,
    output: str | Path,
    resume: bool = False,
    overwrite: bool = False,
    images: str | None = None,
) -> dict[str, Any]:
    """Train a hyper-representation on a zoo and save it to `output`, an ordinary transformers model folder.

    Beside the model stand `sampler/` (independent KDE over the latents of the best 30 %), `training_log.jsonl` (one
    line an epoch), `results/training.json` (what is returned) and, until the run is complete, `checkpoints/`. A run
    that was killed goes on from there with `resume`, and ends with the same bytes as one that was left alone.

    Args:
        config ([`TrainingConfig`])
        zoo ([`~hyperrep.zoo.Zoo`] or `str`): loaded, or a folder or Hub id.
        output (`str`): folder to write; it must be new unless `resume` or `overwrite` is set.
        resume (`bool`, *optional*, defaults to `False`): go on from the last checkpoint, if there is one.
        overwrite (`bool`, *optional*, defaults to `False`): delete the earlier run in `output` and start anew.
        images (`str`, *optional*): where the zoo's images are, for the behavioural loss; as the zoo names them by
            default.

    Returns:
        `dict`: final losses, R^2 on the validation and the test split, and the circumstances.

    Raises:
        UserError: before anything is written, if settings, zoo and folder do not fit together; during training, if
            the loss becomes NaN or infinite.
        KeyboardInterrupt: on SIGINT, once a checkpoint is written; it says how to resume.
    """
    # 1. check everything the user can get wrong, before anything is written
    output = Path(output)
    if config.log_with and config.log_with not in get_available_trackers():
        available = ", ".join(map(str, get_available_trackers())) or "none"
        raise UserError(f"tracker log_with {config.log_with!r} is not installed; there are: {available}.")
    zoo = zoo if isinstance(zoo, Zoo) else load_zoo(zoo)
    data = TrainingData.from_zoo(zoo, config.epochs, config.weight_threshold, config.align)
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision, log_with=config.log_with, project_dir=str(output)
    )
    processes, rank, device = accelerator.num_processes, accelerator.process_index, accelerator.device
    if config.batch_size % processes:
        raise UserError(f"batch_size {config.batch_size} is no multiple of the {processes} processes.")
    if config.batch_size > len(data.train):
        raise UserError(f"batch_size {config.batch_size} exceeds the {len(data.train)} training checkpoints.")
    settings = {key: value for key, value in asdict(config).items() if key not in BOOKKEEPING}
    checkpoints = Checkpoints(output, settings | {"zoo_sha256": data.digest, "num_processes": processes})
    checkpoints.check(resume, overwrite)
    results_path = output / "results" / "training.json"
    if resume and results_path.exists():
        logger.info("%s is already complete", output)
        return json.loads(results_path.read_text())
    behavior = _behavioral_loss(config, zoo, images, device)
    accelerator.wait_for_everyone()  # nobody writes before everybody has looked

    # 2. model and optimiser, the last checkpoint in them
    torch.manual_seed(config.seed)
    model = HyperRepModel(_model_config(config, zoo, data))
    model.set_layer_statistics(data.train)
    if model.reference is not None and data.reference is not None:
        model.reference.copy_(data.reference)
    model.to(device)
    optimizer_class = optim.AdamW if config.optimizer == "adamw" else optim.Adam
    optimizer = optimizer_class(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "sums": dict.fromkeys(LOSSES, 0.0)}
    if resume:
        state = checkpoints.load_last(model, optimizer) or state
        logger.info("%s: resuming after step %d", output, state["step"])
    if accelerator.is_main_process:
        checkpoints.start(overwrite)
        _truncate_log(output, state["step"])
    # the schedule is a function of the step and stays out of accelerate, which would run it once per process
    wrapped_model, wrapped_optimizer = accelerator.prepare(model, optimizer)
    if config.log_with:
        accelerator.init_trackers("hyperrep", config={key: str(value) for key, value in settings.items()})

    # 3. the loop; all weights lie on the device, views are made there
    weights = data.train.to(device)  # (checkpoints, num_params)
    train_mean = data.train.mean(dim=0)
    layout = WeightLayout.from_list(zoo.config.layout)
    generator = torch.Generator(device)
    num_views = 2 if model.config.contrast_weight else 1
    steps_per_epoch = len(weights) // config.batch_size
    total_steps = steps_per_epoch * config.num_train_epochs
    order, order_of_epoch = torch.empty(0), -1
    started = time.monotonic() - state["seconds"]

    def save_checkpoint() -> None:
        state["seconds"] = time.monotonic() - started
        if accelerator.is_main_process:
            checkpoints.save(model, optimizer, state)

    wrapped_model.train()
    shown: dict[str, str] = {}
    progress = tqdm(
        desc=f"training {output.name}",
        total=total_steps,
        initial=state["step"],
        unit="step",
        disable=not accelerator.is_local_main_process,
    )
    with progress, _interruptible() as interrupted:
        while state["step"] < total_steps:
            # 3a. this process' share of the batch; everything random comes from (seed, step, rank) alone
            step, epoch = state["step"], state["step"] // steps_per_epoch
            if epoch != order_of_epoch:
                order, order_of_epoch = epoch_order(len(weights), config.seed, epoch), epoch
            position = step % steps_per_epoch * config.batch_size
            share = order[position : position + config.batch_size].chunk(processes)[rank]
            step_seed = seed_from(config.seed, step, rank)
            torch.manual_seed(step_seed)  # dropout
            generator.manual_seed(step_seed)
            views, targets, clean = make_views(weights[share.to(device)], layout, config, num_views, generator)

            # 3b. losses; one reduction tells every process the means, a NaN anywhere, and whether to stop
            output_of_step = wrapped_model(views, target=targets, num_views=num_views)
            parts: dict[str, Any] = {name: getattr(output_of_step, name, None) for name in LOSSES}
            if behavior is not None:
                parts |= behavior(model, clean, output_of_step, len(share), generator)
            told = torch.stack(
                [torch.zeros((), device=device) if part is None else part.detach() for part in parts.values()]
            )
            told = torch.cat([told, torch.tensor([float(interrupted.is_set())], device=device)])
            *losses, stop = accelerator.reduce(told, "mean").tolist()
            if not math.isfinite(losses[0]):
                last = f"the last good checkpoint is step {checkpoints.steps()[-1]}" if checkpoints.steps() else ""
                raise UserError(
                    f"the loss is {losses[0]} at step {step + 1}; lower learning_rate {config.learning_rate} or set "
                    f"max_grad_norm. {last}".strip()
                )

            # 3c. update
            rate = learning_rate_at(step, total_steps, config)
            for group in optimizer.param_groups:
                group["lr"] = rate
            accelerator.backward(parts["loss"])
            if config.max_grad_norm:
                accelerator.clip_grad_norm_(wrapped_model.parameters(), config.max_grad_norm)
            wrapped_optimizer.step()
            wrapped_optimizer.zero_grad()
            state["step"] = step = step + 1
            for name, value in zip(LOSSES, losses):
                state["sums"][name] += value
            progress.update()
            shown |= {name.removesuffix("_loss"): f"{value:.3f}" for name, value in zip(LOSSES, losses)}
            progress.set_postfix(shown, refresh=False)

            # 3d. at the end of an epoch: log, evaluate, checkpoint
            if step % steps_per_epoch == 0:
                epoch += 1
                entry: dict[str, Any] = {"step": step, "epoch": epoch, "learning_rate": rate}
                entry |= {name: total / steps_per_epoch for name, total in state["sums"].items()}
                entry["seconds"] = round(time.monotonic() - started, 3)
                state["sums"] = dict.fromkeys(LOSSES, 0.0)
                if accelerator.is_main_process:
                    if epoch % config.eval_epochs == 0:
                        entry["validation"] = evaluate_reconstruction(model, data.validation, train_mean)
                        shown["validation R²"] = f"{entry['validation']['r2']:.3f}"
                    _append_log(output, entry)
                if config.log_with:
                    accelerator.log(_flat(entry), step=step)
                if epoch % config.checkpoint_epochs == 0 and step < total_steps:
                    save_checkpoint()
            if stop and step < total_steps:
                save_checkpoint()
                raise KeyboardInterrupt(
                    f"interrupted after step {step} of {total_steps}; a checkpoint is written, "
                    f"go on with the same command and --resume."
                )

    # 4. results
    accelerator.wait_for_everyone()
    results = {
        "zoo": model.config.zoo,
        "rows": {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
        "dropped": data.dropped,
        "num_parameters": model.num_parameters(),
        "steps": total_steps,
        "train": _last_log(output),
        "validation": evaluate_reconstruction(model, data.validation, train_mean),
        "test": evaluate_reconstruction(model, data.test, train_mean),
        "settings": settings,
        "seconds": round(time.monotonic() - started, 3),
        "machine": _machine(device, processes),
    }
    if accelerator.is_main_process:
        model.save_pretrained(output)
        KDESampler().fit(encode_rows(model, data.train), data.scores).save_pretrained(output / SAMPLER_FOLDER)
        write_json(results_path, results)
        checkpoints.remove()
    accelerator.wait_for_everyone()
    if config.log_with:
        accelerator.end_training()
    return results


def make_views(
    weights: Tensor, layout: WeightLayout, config: TrainingConfig, num_views: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Views of a batch of networks, and what the model shall make of them.

    Returns:
        `tuple[Tensor, Tensor, Tensor]`: views, targets, and the permuted networks before erasing and noise; all
        (num_views * batch, num_params), view after view.
    """
    settings = config.augmentation
    weights = weights.repeat(num_views, 1)
    if settings.permute:
        weights = permute(weights, layout, generator)
    views = corrupt(weights, settings, generator)
    return views, views if config.erase_target == "augmented" else weights, weights


def learning_rate_at(step: int, total_steps: int, config: TrainingConfig) -> float:
    """Learning rate of a step (from 0): linear warm-up, then constant or a cosine to zero."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.lr_schedule == "constant":
        return float(config.learning_rate)
    share = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def _model_config(config: TrainingConfig, zoo: Zoo, data: TrainingData):
    return config.model_config(
        layout=zoo.config.layout,
        network=zoo.config.network,
        image_processor=zoo.config.image_processor,
        zoo={
            "name": zoo.name,
            "revision": zoo.revision,
            "epochs": config.epochs,
            "weight_threshold": config.weight_threshold,
            "num_train": len(data.train),
            "sha256": data.digest,
        },
        aligned=config.align,
    )


def _behavioral_loss(
    config: TrainingConfig, zoo: Zoo, images: str | None, device: torch.device
) -> BehavioralLoss | None:
    """The behavioural loss, if its weights ask for it."""
    if not (config.behavior_weight or config.shuffled_weight):
        return None
    split = zoo_images(zoo, images).train
    network = zoo.config.network_config()
    split = ImageSplit(split.pixels.to(device), split.labels.to(device))
    return BehavioralLoss(network, split, config, choose_engine("auto", network))


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that SIGINT sets; a second SIGINT stops at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may have handlers
        yield event
        return
    before = signal.getsignal(signal.SIGINT)

    def on_interrupt(*_: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def _append_log(output: Path, entry: dict[str, Any]) -> None:
    with (output / "training_log.jsonl").open("a") as log:
        log.write(json.dumps(entry) + "\n")


def _truncate_log(output: Path, step: int) -> None:
    """Drop what a killed run logged after its last checkpoint: those steps are run again."""
    path = output / "training_log.jsonl"
    if path.exists():
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step))


def _last_log(output: Path) -> dict[str, Any]:
    entry = json.loads((output / "training_log.jsonl").read_text().splitlines()[-1])
    return {name: entry[name] for name in LOSSES}


def _flat(entry: dict[str, Any]) -> dict[str, float]:
    """Nested metrics as `validation/r2`, for trackers."""
    flat: dict[str, float] = {}
    for key, value in entry.items():
        if isinstance(value, dict):
            flat |= {f"{key}/{name}": inner for name, inner in _flat(value).items()}
        else:
            flat[key] = value
    return flat


def _machine(device: torch.device, processes: int) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": processes,
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "hyperrep": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
    }


__all__ = ["learning_rate_at", "make_views", "train"]
