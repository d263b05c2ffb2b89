"""Plots made from result rows alone."""

from collections.abc import Sequence
from pathlib import Path

from .results import ResultRow


COLOURS = {"B_T": "black", "B_KDE30": "tab:orange", "S_KDE30": "tab:blue", "S_U": "tab:grey"}
LINES = {"independent": "-", "joint": "--", "as_released": ":", "": "-"}


def plot_finetune(path: Path, rows: Sequence[ResultRow]) -> None:
    """Test accuracy over fine-tuning epochs, a line a population with a band of one standard deviation."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    curves = [row for row in rows if row.what == "test_accuracy" and row.method in COLOURS]
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for method, variant in dict.fromkeys((row.method, row.variant) for row in curves):
        curve = sorted(
            (row for row in curves if (row.method, row.variant) == (method, variant)), key=lambda row: row.epoch
        )
        epochs = [row.epoch for row in curve]
        means = [100 * row.mean for row in curve]
        label = f"{method} {variant}".strip().replace("_released", " released")
        axes.plot(epochs, means, LINES[variant], marker="o", markersize=3, color=COLOURS[method], label=label)
        if variant in ("", "independent"):
            low, high = ([100 * (row.mean + sign * row.std) for row in curve] for sign in (-1, 1))
            axes.fill_between(epochs, low, high, color=COLOURS[method], alpha=0.15, linewidth=0)
    target = curves[0].target
    axes.set(xlabel="epoch of (fine-)tuning", ylabel="test accuracy, %", title=f"Fine-tuning on {target}")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower right")
    figure.savefig(path, dpi=150)
    plt.close(figure)
