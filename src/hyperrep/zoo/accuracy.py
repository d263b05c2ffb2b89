"""Test accuracy of a zoo over its epochs, as its result file has it and its card shows it."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.dataclasses import strict

from ..files import construct, read_json_lines
from ..tables import per_cent, shown_epochs
from .split import ZooSplit


@strict
@dataclass
class AccuracyRow:
    """One number: test accuracy (0 to 1) of a zoo's networks at an epoch.

    Attributes:
        what (`str`): `test_accuracy`.
        split (`str`): `all`, or `test`, the models that rows B_T are of.
        epoch (`int`), n (`int`): of training; of models.
        mean, std (`float`): over the models; std with ddof 0.
        published (`list[float]`, *optional*): mean and std of the poster.
    """

    what: str
    split: str
    epoch: int
    n: int
    mean: float | int
    std: float | int
    published: list[float] | None = None

    def shown(self, published: bool = False) -> str:
        """`mean ± std` in per cent; behind it in brackets, if asked for, what was published."""
        reference = f" ({per_cent(*self.published)})" if published and self.published else ""
        return per_cent(self.mean, self.std) + reference


def accuracy_by_epoch(splits: Mapping[str, ZooSplit]) -> dict[int, tuple[float, float, int]]:
    """Epoch to mean and std (ddof 0) of test accuracy in per cent, and the number of models, over all splits."""
    epoch = torch.cat([rows.epoch for rows in splits.values()])
    accuracy = 100 * torch.cat([rows.metrics["test_accuracy"] for rows in splits.values()])
    statistics = {}
    for value in sorted(set(epoch.tolist())):
        selected = accuracy[epoch == value]
        statistics[value] = (selected.mean().item(), selected.std(correction=0).item(), len(selected))
    return statistics


def accuracy_rows(splits: Mapping[str, ZooSplit], published: Mapping[int, Sequence[float]]) -> list[AccuracyRow]:
    """Every stored epoch, of all models and of the test split's.

    Args:
        splits (`dict[str, ZooSplit]`)
        published (`dict[int, tuple[float, float]]`): mean and std in per cent, by epoch.
    """
    rows = []
    for name, chosen in {"all": splits, "test": {"test": splits["test"]}}.items():
        for epoch, (mean, std, count) in accuracy_by_epoch(chosen).items():
            if not math.isfinite(mean):  # of somebody's own zoo, which does not say
                continue
            known = [round(value / 100, 6) for value in published[epoch]] if epoch in published else None
            mean, std = round(mean / 100, 6), round(std / 100, 6)
            rows.append(AccuracyRow("test_accuracy", name, epoch, count, mean, std, known))
    return rows


def write_accuracy(path: Path, rows: Sequence[AccuracyRow]) -> None:
    """One JSON line a row."""
    lines: list[dict[str, Any]] = [asdict(row) for row in rows]
    for line in lines:
        if line["published"] is None:
            del line["published"]
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def read_accuracy(path: str | Path) -> list[AccuracyRow]:
    """The rows of a zoo's result file.

    Raises:
        UserError: names the file and the line that is damaged.
    """
    return [construct(AccuracyRow, values, where) for where, values in read_json_lines(path)]


def accuracy_table(rows: Sequence[AccuracyRow]) -> tuple[list[str], list[list[str]]]:
    """Header and lines: all models, and the test split's, at the epochs that are shown."""
    everyone, test = ({row.epoch: row for row in rows if row.split == split} for split in ("all", "test"))
    published = any(row.published for row in rows)
    header = ["epoch", "all models", "n", "test split (B_T)", "n", *(["published"] if published else [])]
    shown, lines = shown_epochs(everyone), []
    for epoch, row in everyone.items():
        if epoch in shown or row.published:
            held_out = [test[epoch].shown(), str(test[epoch].n)] if epoch in test else ["", "0"]
            reference = [per_cent(*row.published) if row.published else ""] if published else []
            lines.append([str(epoch), row.shown(), str(row.n), *held_out, *reference])
    return header, lines
