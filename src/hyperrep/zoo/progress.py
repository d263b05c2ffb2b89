"""How far a shard of a zoo has come, in a file: a build that was killed goes on from there."""

import logging
import time
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import UserError
from ..files.writing import written_atomically
from ..population import Population


INTERVAL = 120.0  # seconds between two writes: what a kill costs at most, beside the epoch it falls into
STATE = ("weights", "first_moment", "second_moment")

logger = logging.getLogger(__name__)


class Progress:
    """The file of an unfinished shard: its population after an epoch, and the rows that were kept so far.

    Args:
        path (`Path`): in a folder that is there.
        kept (`list[int]`): the epochs whose rows are kept.
        epochs (`int`): how long the shard is trained.
        shapes (`dict[str, list[int]]`): of one epoch's row of each column.
    """

    def __init__(self, path: Path, kept: list[int], epochs: int, shapes: dict[str, list[int]]):
        self.path, self.kept, self.epochs, self.shapes = path, kept, epochs, shapes
        self._written = time.monotonic()

    def epoch(self) -> int:
        """The epoch that the file holds, 0 if there is none. One that is damaged is reported and removed."""
        if not self.path.exists():
            return 0
        try:
            with safe_open(self.path, framework="pt") as file:
                known = file.metadata() or {}
            epoch, steps = int(known.get("epoch", 0)), int(known.get("steps", -1))
        except (SafetensorError, ValueError) as error:
            return _remove_damaged(self.path, str(error))
        if not (0 < epoch < self.epochs and steps >= 0):
            return _remove_damaged(self.path, f"it says epoch {epoch} and step {steps}")
        rows = self._rows(epoch)
        expected = {f"rows.{name}": [rows, *shape] for name, shape in self.shapes.items()}
        expected |= {f"population.{name}": self.shapes["weights"] for name in STATE}
        return epoch if is_whole(self.path, expected) else 0

    def restore(self, population: Population, rows: dict[str, Tensor]) -> int:
        """Put what the file holds into `population` and the first of `rows`, (kept epochs, ...), each.

        Returns:
            `int`: the epoch that comes next.
        """
        if not (epoch := self.epoch()):
            return 0
        with safe_open(self.path, framework="pt") as file:
            population.steps = int(file.metadata()["steps"])
            for name in STATE:
                getattr(population, name).copy_(file.get_tensor(f"population.{name}"))
            for name, values in rows.items():
                values[: self._rows(epoch)] = file.get_tensor(f"rows.{name}")
        return epoch + 1

    def keep(self, epoch: int, population: Population, rows: dict[str, Tensor]) -> None:
        """Write the file, unless it is too early or the shard is done. A full disk ends no training."""
        if not 0 < epoch < self.epochs or time.monotonic() - self._written < INTERVAL:
            return
        tensors = {f"population.{name}": getattr(population, name) for name in STATE}
        tensors |= {f"rows.{name}": values[: self._rows(epoch)] for name, values in rows.items()}
        try:
            with written_atomically(self.path) as temporary:
                save_file(tensors, temporary, metadata={"epoch": str(epoch), "steps": str(population.steps)})
        except UserError as error:
            logger.warning("the progress after epoch %d is not kept: %s", epoch, error)
        self._written = time.monotonic()  # after the write, so that slow disks do not take all the time

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _rows(self, epoch: int) -> int:
        return sum(kept <= epoch for kept in self.kept)


def is_whole(path: Path, shapes: dict[str, list[int]]) -> bool:
    """Whether a file holds float32 tensors of these shapes. One that does not is reported and removed."""
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in shapes}
            found = {name: part.get_shape() for name, part in slices.items() if part.get_dtype() == "F32"}
    except SafetensorError as error:
        return bool(_remove_damaged(path, str(error)))
    if found == shapes:
        return True
    name = next(name for name in shapes if found.get(name) != shapes[name])
    return bool(_remove_damaged(path, f"{name} has shape {found.get(name)} instead of {shapes[name]}"))


def _remove_damaged(path: Path, reason: str) -> int:
    logger.warning("%s is damaged (%s); its models are trained again", path, reason)
    path.unlink(missing_ok=True)
    return 0
