"""What a run writes down beside its model: one line an epoch, what trackers keep, and the circumstances."""

import json
import platform
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers

from ..files import OutputFolder
from ..version import __version__


LOG_NAME = "training_log.jsonl"
TRACKERS = "trackers"  # folder of what trackers write, where they write files


def append_log(output: Path, entry: dict[str, Any]) -> None:
    with (output / LOG_NAME).open("a") as log:
        log.write(json.dumps(entry) + "\n")


def truncate_log(files: OutputFolder, step: int) -> None:
    """Drop what a killed run logged after its last checkpoint, those steps are run again; and lines that are no whole
    entries."""
    path = files.path / LOG_NAME
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    kept = b"".join(line for line in lines if _is_entry(line, step))
    files.write(LOG_NAME, lambda temporary: temporary.write_bytes(kept), working=True)


def _is_entry(line: bytes, step: int) -> bool:
    try:
        return line.endswith(b"\n") and 0 < json.loads(line)["step"] <= step
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


class TrackerFiles:
    """Knows which files trackers made: those in their folder that were not there before.

    Args:
        files ([`OutputFolder`]): of the run.
    """

    def __init__(self, files: OutputFolder):
        self.files, self.others = files, set(_names(files.path))

    def name(self) -> None:
        """Name what there is now as ours."""
        if names := set(_names(self.files.path)) - self.others:
            self.files.working(sorted(names))


def _names(output: Path) -> list[str]:
    return [path.relative_to(output).as_posix() for path in (output / TRACKERS).rglob("*") if path.is_file()]


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


__all__ = ["LOG_NAME", "TRACKERS", "TrackerFiles", "append_log", "flat", "machine", "truncate_log"]
