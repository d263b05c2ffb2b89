"""What a run writes down beside its model: one line an epoch, and the circumstances."""

import json
import platform
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers

from ..version import __version__


LOG_NAME = "training_log.jsonl"


def append_log(output: Path, entry: dict[str, Any]) -> None:
    with (output / LOG_NAME).open("a") as log:
        log.write(json.dumps(entry) + "\n")


def truncate_log(output: Path, step: int) -> None:
    """Drop what a killed run logged after its last checkpoint: those steps are run again."""
    path = output / LOG_NAME
    if path.exists():
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step))


def last_losses(output: Path) -> dict[str, float]:
    """Training losses of the last epoch in the log."""
    entry = json.loads((output / LOG_NAME).read_text().splitlines()[-1])
    return {name: value for name, value in entry.items() if name == "loss" or name.endswith("_loss")}


def flat(entry: dict[str, Any]) -> dict[str, float]:
    """Nested metrics as `validation/r2`, for trackers."""
    values: dict[str, float] = {}
    for key, value in entry.items():
        if isinstance(value, dict):
            values |= {f"{key}/{name}": inner for name, inner in flat(value).items()}
        else:
            values[key] = value
    return values


def machine(device: torch.device, processes: int) -> dict[str, Any]:
    """Where a run took place, and with which versions."""
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


__all__ = ["append_log", "flat", "last_losses", "machine", "truncate_log"]
