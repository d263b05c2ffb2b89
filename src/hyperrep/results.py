"""Result files: one JSON line a number, with everything needed to repeat it. Cards, tables and plots are made from
these files alone."""

import hashlib
import json
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor

from .errors import UserError
from .files import OutputFolder, construct, read_json_lines
from .tables import Table, shown_epochs
from .version import __version__


@dataclass(frozen=True)
class Quantity:
    """How a quantity is shown.

    Args:
        title (`str`): above its table.
        in_per_cent (`bool`): it is a share, 0 to 1.
        of_all (`bool`): of all networks of a population together, so that it has no spread.
    """

    title: str
    in_per_cent: bool = True
    of_all: bool = False

    def shown(self, row: "ResultRow") -> str:
        """`mean ± std`."""
        scale, digits = (100, 1) if self.in_per_cent else (1, 3)
        spread = "" if self.of_all else f" ± {scale * row.std:.{digits}f}"
        return f"{scale * row.mean:.{digits}f}{spread}"


# in the order that they are shown; an experiment may have others of its own
QUANTITIES = {
    "test_accuracy": Quantity("Test accuracy, % (mean ± std over n networks)"),
    "nearest_training_similarity": Quantity("Error-set similarity to the nearest training model, % (100 = a copy)"),
    "nearest_sample_similarity": Quantity("Error-set similarity to the nearest network of the same population, %"),
    "ensemble_accuracy": Quantity("Test accuracy of the majority vote of n networks, %", of_all=True),
    "wall_time": Quantity("Wall time, seconds", in_per_cent=False, of_all=True),
}
OPTIONAL = ("quartiles", "interval", "p_values")  # fields that a line need not have
MARKS = ("†", "‡", "§")  # of populations that a number differs from
SIGNIFICANT = 0.05


@strict
@dataclass
class ResultRow:
    """One number: the mean and spread of a quantity over a population.

    Attributes:
        what (`str`): the quantity: `test_accuracy` (0 to 1), `nearest_similarity` (0 to 1), ...
        experiment (`str`): `finetune`, ...
        method (`str`): the population: `B_T`, `B_KDE30`, `S_KDE30`, ...; the number is `top` in per cent.
        variant (`str`): of the sampling method, or empty.
        source (`str`): the representation, or the zoo for baselines.
        target (`str`): the images.
        epoch (`int`): of fine-tuning; 0 is before any.
        n (`int`), mean, std (`float`): over the population's models; std with ddof 0, as in the paper.
        seed (`int`): of the sampling.
        zoo (`str`), revision (`str`, *optional*): the zoo, and the representation's commit on the Hub.
        machine (`str`), seconds (`float`): where, and how long the population took.
        settings (`dict`): everything else that made the number; empty in files of hyperrep 0.1.0.
        quartiles (`list[float]`, *optional*): least, lower quartile, median, upper quartile and greatest; where there
            is one number a network, and not in files of hyperrep 0.1.0.
        interval (`list[float]`, *optional*): 95 % confidence interval of the mean.
        p_values (`dict[str, float]`, *optional*): of no difference from another population, by its name.

    Raises:
        UserError: if a number is not finite.
    """

    what: str
    experiment: str
    method: str
    variant: str
    source: str
    target: str
    epoch: int
    n: int
    mean: float
    std: float
    seed: int
    zoo: str
    revision: str | None
    machine: str
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)
    quartiles: list[float] | None = None
    interval: list[float] | None = None
    p_values: dict[str, float] | None = None

    @property
    def population(self) -> str:
        """Method and variant."""
        return f"{self.method} {self.variant}".strip()

    def __post_init__(self):
        numbers = {"mean": self.mean, "std": self.std, "seconds": self.seconds}
        numbers |= {f"quartile {i}": value for i, value in enumerate(self.quartiles or ())}
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise UserError(f"{self.what} of {self.method}, epoch {self.epoch}: {name} is {value}, no number.")
        if self.n < 1 or self.epoch < 0 or self.std < 0:
            raise UserError(
                f"{self.what} of {self.method} has n {self.n}, epoch {self.epoch}, std {self.std}; one is too low."
            )
        if self.quartiles is not None and (len(self.quartiles) != 5 or sorted(self.quartiles) != self.quartiles):
            raise UserError(f"{self.what} of {self.method}, epoch {self.epoch}: quartiles {self.quartiles} are none.")
        if self.interval is not None and (len(self.interval) != 2 or sorted(self.interval) != self.interval):
            raise UserError(f"{self.what} of {self.method}, epoch {self.epoch}: interval {self.interval} is none.")

    @classmethod
    def of(cls, values: Tensor, **fields) -> "ResultRow":
        """A row from one value a model (models,)."""
        values = values.double()
        if len(values) > 1:
            fields["quartiles"] = values.quantile(torch.linspace(0, 1, 5, dtype=values.dtype)).tolist()
        return cls(n=len(values), mean=values.mean().item(), std=values.std(correction=0).item(), **fields)

    def to_dict(self) -> dict[str, Any]:
        """What a line of a file says."""
        return {name: value for name, value in asdict(self).items() if name not in OPTIONAL or value is not None}


def write_results(output: OutputFolder, name: str, rows: Iterable[ResultRow]) -> Path:
    """Write rows as JSON lines.

    Args:
        output ([`OutputFolder`]): where.
        name (`str`): of the file, relative to the folder.
        rows (`list[ResultRow]`)
    """
    return output.write_text(name, "".join(json.dumps(row.to_dict()) + "\n" for row in rows))


def read_results(path: str | Path) -> list[ResultRow]:
    """The rows of a file.

    Raises:
        UserError: names the file and the line that is damaged, lacks a field, or holds another type or NaN.
    """
    return [construct(ResultRow, values, where) for where, values in read_json_lines(path)]


def versions() -> dict[str, str]:
    """What made a number, for a row's settings."""
    return {"hyperrep": __version__, "torch": torch.__version__}


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and contents, the same wherever the tensors are and however they were stored."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def stored_sampler(rows: Iterable[ResultRow]) -> str:
    """The population that the representation's own sampler gave, such as `S_KDE30 (independent)`; empty if none."""
    found = [row for row in rows if row.settings.get("stored_sampler")]
    return f"{found[0].method} ({found[0].variant or found[0].settings['sampling']['method']})" if found else ""


def result_tables(rows: Sequence[ResultRow], quantities: Mapping[str, Quantity] | None = None) -> list[Table]:
    """A table of each quantity, with its title, over the epochs that are shown.

    Args:
        rows (`list[ResultRow]`): of one experiment.
        quantities (`Mapping[str, Quantity]`, *optional*): those of its own.
    """
    known = {**QUANTITIES, **(quantities or {})}
    found = dict.fromkeys(row.what for row in rows)
    epochs = shown_epochs(row.epoch for row in rows)
    shown = [row for row in rows if row.epoch in epochs]
    tables = []
    for what in [*(what for what in known if what in found), *(what for what in found if what not in known)]:
        quantity = known.get(what) or Quantity(what.replace("_", " "), in_per_cent=False)
        title = quantity.title
        if rivals := rivals_of(row for row in shown if row.what == what):
            title += "; " + ", ".join(f"{mark} not as {rival}" for rival, mark in zip(rivals, MARKS))
            title += f" (Mann-Whitney, Holm, p < {SIGNIFICANT})"
        tables.append((title, *results_table(shown, what, quantity)))
    if intervals := interval_table(shown):
        tables.insert(1, intervals)
    return tables


def results_table(
    rows: Iterable[ResultRow], what: str = "test_accuracy", quantity: Quantity | None = None
) -> tuple[list[str], list[list[str]]]:
    """Header and lines of a table: one line a population, one column an epoch."""
    quantity = quantity or QUANTITIES[what]
    rows = [row for row in rows if row.what == what]
    epochs = sorted({row.epoch for row in rows})
    populations = list(dict.fromkeys((row.method, row.variant) for row in rows))
    cells = {(row.method, row.variant, row.epoch): row for row in rows}
    marks = dict(zip(rivals_of(rows), MARKS))
    lines = []
    for method, variant in populations:
        found = [cells.get((method, variant, epoch)) for epoch in epochs]
        n = next(row.n for row in found if row)
        lines.append(
            [method, variant, str(n), *(quantity.shown(row) + _marked(row, marks) if row else "" for row in found)]
        )
    return ["method", "variant", "n", *(f"epoch {epoch}" for epoch in epochs)], lines


def rivals_of(rows: Iterable[ResultRow]) -> list[str]:
    """The populations that numbers were tested against."""
    return list(dict.fromkeys(rival for row in rows for rival in row.p_values or ()))


def _marked(row: ResultRow, marks: Mapping[str, str]) -> str:
    found = "".join(mark for rival, mark in marks.items() if (row.p_values or {}).get(rival, 1.0) < SIGNIFICANT)
    return f" {found}" if found else ""


def interval_table(rows: Sequence[ResultRow]) -> Table | None:
    """Confidence intervals of mean test accuracies, in per cent, as [`results_table`]; `None` if there are none."""
    found = [row for row in rows if row.what == "test_accuracy" and row.interval is not None]
    if not found:
        return None
    epochs = sorted({row.epoch for row in found})
    cells = {
        (row.population, row.epoch): f"{100 * row.interval[0]:.1f} to {100 * row.interval[1]:.1f}"
        for row in found
        if row.interval is not None
    }
    lines = [
        [name, *(cells.get((name, epoch), "") for epoch in epochs)]
        for name in dict.fromkeys(r.population for r in found)
    ]
    return "95 % interval of the mean test accuracy, %", ["networks", *(f"epoch {epoch}" for epoch in epochs)], lines


@cache
def machine_name() -> str:
    """Processor, cores and accelerator in words."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    name = f"{os.cpu_count()} cores of {processor}"
    return f"{name}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else name
