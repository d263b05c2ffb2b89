"""Result files: one JSON line a number, with everything needed to repeat it. Cards, tables and plots are made from
these files alone."""

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True)
class ResultRow:
    """One number: the mean and spread of a quantity over a population.

    Attributes:
        what (`str`): the quantity: `test_accuracy` (0 to 1), `nearest_similarity` (0 to 1), ...
        experiment (`str`): `finetune`, ...
        method (`str`): the population: `B_T`, `B_KDE30`, `S_KDE30`, ...
        variant (`str`): of the sampling method, or empty.
        source (`str`): the representation, or the zoo for baselines.
        target (`str`): the images.
        epoch (`int`): of fine-tuning; 0 is before any.
        n (`int`), mean, std (`float`): over the population's models; std with ddof 0, as in the paper.
        seed (`int`): of the sampling.
        zoo (`str`), revision (`str`, *optional*): the zoo, and the representation's commit on the Hub.
        machine (`str`), seconds (`float`): where, and how long the population took.
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

    @classmethod
    def of(cls, values: Tensor, **fields) -> "ResultRow":
        """A row from one value a model (models,)."""
        values = values.double()
        return cls(n=len(values), mean=values.mean().item(), std=values.std(correction=0).item(), **fields)


def write_results(path: Path, rows: Iterable[ResultRow]) -> None:
    """Write rows as JSON lines, to a temporary name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    temporary.replace(path)


def read_results(path: Path) -> list[ResultRow]:
    return [ResultRow(**json.loads(line)) for line in path.read_text().splitlines()]


def results_table(rows: Iterable[ResultRow], what: str = "test_accuracy") -> tuple[list[str], list[list[str]]]:
    """Header and lines of a table: one line a population, one column an epoch, `mean ± std` in per cent."""
    rows = [row for row in rows if row.what == what]
    epochs = sorted({row.epoch for row in rows})
    populations = list(dict.fromkeys((row.method, row.variant) for row in rows))
    cells = {(row.method, row.variant, row.epoch): row for row in rows}
    lines = []
    for method, variant in populations:
        found = [cells.get((method, variant, epoch)) for epoch in epochs]
        n = next(row.n for row in found if row)
        lines.append([method, variant, str(n), *(_in_per_cent(row) if row else "" for row in found)])
    return ["method", "variant", "n", *(f"epoch {epoch}" for epoch in epochs)], lines


def _in_per_cent(row: ResultRow) -> str:
    spread = "" if row.what == "ensemble_accuracy" else f" ± {100 * row.std:.1f}"  # there is one ensemble
    return f"{100 * row.mean:.1f}{spread}"


def markdown_table(header: list[str], lines: list[list[str]]) -> str:
    """The table in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *lines])


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
