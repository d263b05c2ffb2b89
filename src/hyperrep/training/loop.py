"""The training loop of a hyper-representation: on any number of processes, and resumable to the bit."""

import logging
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from tqdm.auto import tqdm

from ..errors import UserError
from ..files import OutputFolder, check_output, disk_explained, mode_of, output_folder, read_json
from ..files.writing import Mode
from ..zoo import Zoo
from .checkpoints import RunState
from .config import TrainingConfig
from .failures import Interrupted, interruptible, memory_errors_explained
from .logs import TrackerFiles, append_log, flat, machine, truncate_log
from .selection import ModelSelection
from .start import start
from .step import learning_rate_at


RESULTS = "results/training.json"

logger = logging.getLogger(__name__)


def train(
    config: TrainingConfig,
    zoo: Zoo | str | Path,
    output: str | Path,
    resume: bool = False,
    overwrite: bool = False,
    images: str | None = None,
    also: Sequence[Zoo | str | Path] = (),
) -> dict[str, Any]:
    """Train a hyper-representation on a zoo and save it to `output`, an ordinary transformers model folder.

    Beside the model stand `training_log.jsonl` (one line an epoch), `results/training.json` (what is returned) and,
    until the run is complete, `checkpoints/`. A run that was killed goes on from there with `resume`, and ends with
    the same bytes as one that was left alone (on the same machine, with as many threads). A sampler comes after it:
    [`~hyperrep.pipeline.fit_sampler`].

    Args:
        config ([`TrainingConfig`])
        zoo ([`~hyperrep.zoo.Zoo`] or `str`): loaded, or a folder or Hub id.
        output (`str`): folder to write; it must be new unless `resume` or `overwrite` is set.
        resume (`bool`, *optional*, defaults to `False`): go on from the last checkpoint, if there is one.
        overwrite (`bool`, *optional*, defaults to `False`): remove the earlier run in `output` and start anew; refused
            where anything else lies there, or what was changed since.
        images (`str`, *optional*): where the zoo's images are, for the behavioural loss and for accuracies; as the zoo
            names them by default.
        also (`Sequence`, *optional*): further zoos to learn from, of other architectures, where the model reads
            windows of tokens (`token_size`). Losses and measures are those of `zoo`, and beside them, under `others`,
            reconstruction of each of these. To use the model on their networks, see
            [`~hyperrep.representation.adapting.adapted`].

    Returns:
        `dict`: final losses, [`~hyperrep.training.measures.Evaluator`]'s measures on a sample of the training split,
        on the validation and on the test split, and the circumstances.

    Raises:
        UserError: before anything is written, if settings, zoo and folder do not fit together; during training, if
            the loss becomes NaN or infinite.
        Interrupted: a `KeyboardInterrupt`, on SIGINT and SIGTERM, once a checkpoint is written; it says how to resume.
    """
    # 1. everything the user can get wrong, before anything is written
    output, mode = Path(output), mode_of(resume, overwrite)
    check_output(output, "representation", mode, resumable=True)
    run = start(config, zoo, output, resume, also)
    accelerator, data, checkpoints = run.accelerator, run.data, run.checkpoints
    if resume and _is_complete(output):
        logger.info("%s is already complete", output)
        return read_json(output / RESULTS)
    evaluate, behavior = run.measures(images)

    # 2. model and optimiser
    model, optimizer = run.new_model()

    # 3. the folder is ours: the last checkpoint
    with ExitStack() as stack:
        files = _claim(stack, accelerator, output, mode)
        state = asdict(RunState(step=0))
        if resume:
            state = checkpoints.load_last(model, optimizer, config.load_best_model_at_end) or state
            if accelerator.is_main_process:
                logger.info("%s: resuming after step %d", output, state["step"])
        selection = ModelSelection(config, state)
        accelerator.wait_for_everyone()  # everybody has read
        if files is not None:
            checkpoints.remove(files, after=state["step"])  # damaged ones
            checkpoints.start(files)
            truncate_log(files, state["step"])
            tracked = TrackerFiles(files)
        if config.trackers:
            accelerator.init_trackers("hyperrep", config={key: str(value) for key, value in run.settings.items()})
            if files is not None:
                tracked.name()

        # 4. the loop
        advance = run.step(model, optimizer, behavior)
        started = time.monotonic() - state["seconds"]

        def save_checkpoint() -> None:
            state["seconds"] = time.monotonic() - started
            if files is not None:
                tracked.name()
                checkpoints.save(files, model, optimizer, state)

        shown: dict[str, str] = {}
        progress = tqdm(
            desc=f"training {output.name}",
            total=advance.total_steps,
            initial=state["step"],
            unit="step",
            disable=not accelerator.is_local_main_process,
        )
        with progress, interruptible() as request, memory_errors_explained(config), disk_explained(output):
            is_over = selection.exhausted  # already, if the run was killed between its last checkpoint and its results
            while state["step"] < advance.total_steps and not is_over:
                try:
                    losses, stopping = advance(state["step"], request.signal is not None)
                except UserError as error:
                    steps = checkpoints.steps()
                    kept = f" The last good checkpoint is step {steps[-1]}." if steps else ""
                    raise UserError(f"{error}{kept}") from error
                state["step"] = step = state["step"] + 1
                for name, value in losses.items():
                    state["sums"][name] = state["sums"].get(name, 0.0) + value
                progress.update()
                shown |= {name.removesuffix("_loss"): f"{value:.3f}" for name, value in losses.items()}
                progress.set_postfix(shown, refresh=False)

                # at the end of an epoch: log, evaluate, checkpoint
                if step % advance.steps_per_epoch == 0:
                    epoch = step // advance.steps_per_epoch
                    rate = learning_rate_at(step - 1, advance.total_steps, config)
                    entry: dict[str, Any] = {"step": step, "epoch": epoch, "learning_rate": rate}
                    state["losses"] = {name: total / advance.steps_per_epoch for name, total in state["sums"].items()}
                    entry |= state["losses"]
                    entry["seconds"] = round(time.monotonic() - started, 3)
                    state["sums"] = {}
                    is_best = False
                    if accelerator.is_main_process:
                        # with selection the last epoch is a candidate, too
                        last = config.selects and step == advance.total_steps
                        if epoch % config.eval_epochs == 0 or last:
                            entry |= evaluate(model, "train_sample", "validation")
                            shown["validation R²"] = f"{entry['validation']['r2']:.3f}"
                            if config.selects:
                                is_best = selection.update(step, entry["validation"])
                        append_log(output, entry)
                    if config.trackers:
                        accelerator.log(flat(entry), step=step)
                    is_due = epoch % config.checkpoint_epochs == 0 or (is_best and config.load_best_model_at_end)
                    if is_due and step < advance.total_steps:
                        save_checkpoint()
                    if config.early_stopping_patience is not None:
                        is_over = _main_says(accelerator, selection.exhausted)
                if stopping and step < advance.total_steps:
                    save_checkpoint()
                    raise Interrupted(
                        f"interrupted after step {step} of {advance.total_steps}; a checkpoint is written, "
                        f"go on with the same command and --resume.",
                        request.signal or signal.SIGINT,  # another process was asked
                    )

        # 5. results
        if files is not None:
            if selection.best_step not in (None, state["step"]):
                checkpoints.load_model(model, selection.best_step)
            results = {
                "zoo": model.config.zoo,
                "rows": {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
                "dropped": data.dropped,
                "num_parameters": model.num_parameters(),
                "steps": state["step"],
                "train": state["losses"],
                **evaluate(model, "train_sample", "validation", "test"),
                **({"others": {one.zoo.name: one.measures(model) for one in run.others}} if run.others else {}),
                "settings": run.settings,
                "seconds": round(time.monotonic() - started, 3),
                "machine": machine(accelerator.device, accelerator.num_processes),
            }
            if selection.exhausted:
                logger.info("stopped early, after step %d", state["step"])
            if config.selects and state["best"]:
                results["best"] = {"step": state["best"]["step"], config.metric_for_best_model: state["best"]["value"]}
            with files.staging() as stage:
                model.save_pretrained(stage)
            files.write_json(RESULTS, results)  # the last, it says that the run is complete
            checkpoints.remove(files)
            if config.trackers:
                accelerator.log(flat({"test": results["test"]}), step=state["step"])
        accelerator.wait_for_everyone()
        if config.trackers:
            accelerator.end_training()
            if files is not None:
                tracked.name()
    return read_json(output / RESULTS)


def _claim(stack: ExitStack, accelerator: Accelerator, output: Path, mode: Mode) -> OutputFolder | None:
    """The output folder, emptied if it is to be overwritten, for the main process; the others get `None` once it has
    it.

    Raises:
        UserError: on every process, if the main one does not get it.
    """
    files, refusal = None, None
    accelerator.wait_for_everyone()  # nobody writes before everybody has looked
    if accelerator.is_main_process:
        try:
            files = stack.enter_context(output_folder(output, "representation", mode, resumable=True))
            if mode == "overwrite":
                files.clear()
        except UserError as error:
            refusal = error
    if _main_says(accelerator, refusal is not None):
        raise refusal or UserError(f"the first process cannot write to {output}.")
    return files


def _is_complete(output: Path) -> bool:
    return all((output / name).is_file() for name in (RESULTS, "config.json", "model.safetensors"))


def _main_says(accelerator: Accelerator, yes: bool) -> bool:
    """What the main process has decided, on every process."""
    return bool(broadcast(torch.tensor(float(yes), device=accelerator.device)).item())


__all__ = ["train"]
