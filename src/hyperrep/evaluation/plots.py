"""Plots made from result rows and weights."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ..results import ResultRow


COLOURS = {
    "B_T": "black",
    "B_KDE": "tab:orange",
    "S_KDE": "tab:blue",
    "S_U": "tab:grey",
    "S_stored": "tab:red",
}
LINES = {"independent": "-", "joint": "--", "as_released": ":", "": "-"}


def plot_finetune(path: Path, rows: Sequence[ResultRow]) -> None:
    """Test accuracy over fine-tuning epochs, as a PNG of its own."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8.4, 4.2), layout="constrained")
    draw_finetune_curves(axes, rows)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)  # no place among the curves is always free
    figure.savefig(path, dpi=150, format="png")  # whatever the temporary file is called
    plt.close(figure)


def draw_finetune_curves(axes, rows: Sequence[ResultRow], variants: Sequence[str] = tuple(LINES)) -> None:
    """A line a population; the independent variants with a band of one standard deviation."""
    curves = [row for row in rows if row.what == "test_accuracy" and _colour(row.method) and row.variant in variants]
    last = max(row.epoch for row in curves if row.method != "B_T")
    for method, variant in dict.fromkeys((row.method, row.variant) for row in curves):
        curve = sorted(
            (row for row in curves if (row.method, row.variant) == (method, variant) and row.epoch <= last),
            key=lambda row: row.epoch,
        )
        epochs, colour = [row.epoch for row in curve], _colour(method)
        means = [100 * row.mean for row in curve]
        label = f"{method} {variant}".strip().replace("_released", " released")
        axes.plot(epochs, means, LINES[variant], marker="o", markersize=3, color=colour, label=label)
        if variant in ("", "independent"):
            low, high = ([100 * (row.mean + sign * row.std) for row in curve] for sign in (-1, 1))
            axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set(
        xlabel="epoch of training",
        ylabel="test accuracy, %",
        title=f"fine-tuning on {curves[0].target}",
        ylim=(0, 100),
    )
    axes.grid(alpha=0.3)


def _colour(method: str) -> str | None:
    """Of `S_KDE30`, that of `S_KDE`; `None` if it has no curve."""
    return COLOURS.get(method.rstrip("0123456789."))


def draw_filters(axes, filters: Tensor) -> None:
    """Filters of several networks side by side, each network's in two rows.

    Args:
        filters (`Tensor`): (networks, filters, channels, height, width).
    """
    images = filters.mean(dim=2).numpy()  # (networks, filters, height, width)
    images = images / np.abs(images).max(axis=(2, 3), keepdims=True)
    framed = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    columns = framed.shape[1] // 2
    networks = [
        np.concatenate([np.concatenate(list(row), axis=1) for row in (network[:columns], network[columns:])], axis=0)
        for network in framed
    ]
    gap = np.full((networks[0].shape[0], 2), np.nan)
    axes.imshow(np.concatenate([part for network in networks for part in (network, gap)][:-1], axis=1), cmap="RdBu_r")
    axes.axis("off")
