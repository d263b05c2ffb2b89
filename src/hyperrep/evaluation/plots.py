"""Plots made from result rows and weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ..results import QUANTITIES, Quantity, ResultRow


LINES = ("-", "--", ":", "-.")  # of a method's variants


def plot_curves(path: Path, rows: Sequence[ResultRow], what: str, quantity: Quantity) -> None:
    """A quantity over epochs of training, as a PNG of its own; beside it, where rows know of single networks, a box
    for each population before any training."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    boxes = [row for row in rows if row.what == what and row.epoch == 0 and row.quartiles]
    curves = not boxes or any(row.what == what and row.epoch for row in rows)
    panels = bool(boxes) + curves
    size = (8.4 if panels == 1 else 14, max(4.2, 0.24 * len(boxes)))
    figure, axes = plt.subplots(1, panels, figsize=size, layout="constrained", squeeze=False)
    if boxes:
        draw_boxes(axes[0, 0], boxes, quantity)
    if curves:
        draw_curves(axes[0, -1], rows, what, quantity)
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)  # no place among curves is always free
    figure.savefig(path, dpi=150, format="png")  # whatever the temporary file is called
    plt.close(figure)


def draw_boxes(axes, rows: Sequence[ResultRow], quantity: Quantity) -> None:
    """A box a population, the best median at the top: quartiles, and whiskers to the least and the greatest.

    Args:
        axes (`matplotlib.axes.Axes`)
        rows (`list[ResultRow]`): of one quantity and epoch, with quartiles.
        quantity ([`Quantity`])
    """
    scale, boxes = 100 if quantity.in_per_cent else 1, []
    for row in sorted(rows, key=lambda row: (row.quartiles or [0.0] * 5)[2]):
        names = ("whislo", "q1", "med", "q3", "whishi")
        label = f"{row.method} {row.variant} (n {row.n:,})".replace("  ", " ")
        boxes.append(dict(zip(names, (scale * value for value in row.quartiles or ()))) | {"label": label})
    axes.bxp(boxes, orientation="horizontal", showfliers=False, medianprops={"color": "C3"})
    axes.set(
        xlabel=rows[0].what.replace("_", " ") + (", %" if quantity.in_per_cent else ""),
        title=f"{rows[0].experiment} on {rows[0].target}: before training",
        xlim=(0, 100) if quantity.in_per_cent else None,
    )
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(alpha=0.3, axis="x")


def draw_curves(
    axes,
    rows: Sequence[ResultRow],
    what: str = "test_accuracy",
    quantity: Quantity = QUANTITIES["test_accuracy"],
    first_only: bool = False,
) -> None:
    """A line a population: a colour a method, black for networks trained from scratch, a style a variant. The first
    variant of a method has a band of one standard deviation.

    Args:
        axes (`matplotlib.axes.Axes`)
        rows (`list[ResultRow]`): the populations drawn are those that were generated, and B_T.
        what (`str`), quantity ([`Quantity`]): what is drawn.
        first_only (`bool`): of each method, no variant but the first.
    """
    unsampled = ("B_T", "B_F")
    curves = [row for row in rows if row.what == what and ("sampling" in row.settings or row.method in unsampled)]
    if not curves:  # of a version that did not say how populations were made
        curves = [row for row in rows if row.what == what]
    last = max((row.epoch for row in curves if row.method != "B_T"), default=max(row.epoch for row in curves))
    scale = 100 if quantity.in_per_cent else 1
    variants: dict[str, list[str]] = {}
    for row in curves:
        known = variants.setdefault(row.method, [])
        if row.variant not in known:
            known.append(row.variant)
    colours = {method: f"C{index}" for index, method in enumerate(name for name in variants if name != "B_T")}
    for method, variant in [(method, variant) for method, found in variants.items() for variant in found]:
        number = variants[method].index(variant)
        if number and first_only:
            continue
        curve = sorted(
            (row for row in curves if (row.method, row.variant) == (method, variant) and row.epoch <= last),
            key=lambda row: row.epoch,
        )
        epochs, colour = [row.epoch for row in curve], colours.get(method, "black")
        label = f"{method} {variant}".strip().replace("_released", " released")
        means = [scale * row.mean for row in curve]
        axes.plot(epochs, means, LINES[number % len(LINES)], marker="o", markersize=3, color=colour, label=label)
        if number == 0:
            low, high = ([scale * (row.mean + sign * row.std) for row in curve] for sign in (-1, 1))
            axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set(
        xlabel="epoch of training",
        ylabel=what.replace("_", " ") + (", %" if quantity.in_per_cent else ""),
        title=f"{curves[0].experiment} on {curves[0].target}",
        ylim=(0, 100) if quantity.in_per_cent else None,
    )
    axes.grid(alpha=0.3)


def plot_novelty(path: Path, rows: Sequence[ResultRow]) -> None:
    """Accuracy against distance from training networks, coloured by dispersion, as a PNG: a panel for each epoch. What
    is new, good and diverse at once lies in the upper right, in a light colour. Names stand
    beside the panels."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    values = {(row.what, row.method, row.variant, row.epoch): row.mean for row in rows}
    epochs = sorted({row.epoch for row in rows})
    names = list(dict.fromkeys((row.method, row.variant) for row in rows))
    size = (5.5 * len(epochs) + 3, 6.5)
    figure, panels = plt.subplots(1, len(epochs), figsize=size, layout="constrained", squeeze=False, sharey=True)
    for axes, epoch in zip(panels[0], epochs):
        accuracy, distance, spread = (
            [values.get((what, *name, epoch), np.nan) for name in names]
            for what in ("test_accuracy", "distance_ratio", "dispersion")
        )
        shown = axes.scatter(
            100 * np.array(accuracy), distance, c=spread, vmin=0, vmax=1.2, cmap="viridis", s=40, edgecolors="black"
        )
        for number, *place in zip(range(1, len(names) + 1), accuracy, distance):
            if np.isfinite(place).all():
                axes.annotate(str(number), (100 * place[0], place[1]), (4, 3), textcoords="offset points", fontsize=7)
        bar = next((row.settings["bar"] for row in rows if "bar" in row.settings), None)
        if bar is not None:
            axes.axvline(100 * bar, color="black", linewidth=0.8, linestyle=":")
        axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
        title = "before training" if epoch == 0 else f"after {epoch} epoch{'s' if epoch > 1 else ''} of training"
        axes.set(title=f"{rows[0].target}, {title}", xlabel="test accuracy, %", xlim=(0, 100))
        axes.grid(alpha=0.3)
    panels[0, 0].set_ylabel("distance to the nearest training network (1 = the zoo's own)")
    figure.colorbar(shown, ax=panels[0].tolist(), label="dispersion of weights (1 = the zoo's own)")
    labels = [f"{number}  {' '.join(name)}".replace("_released", " released") for number, name in enumerate(names, 1)]
    no_marks = [plt.Line2D([], [], linestyle="") for _ in names]
    figure.legend(no_marks, labels, loc="outside right center", fontsize=8, handlelength=0, frameon=False)
    figure.savefig(path, dpi=150, format="png")
    plt.close(figure)


def plot_against(path: Path, rows: Sequence[ResultRow], across: str, up: str) -> None:
    """Two shares of each population against each other, before training, as a PNG: a cross from the lower to the upper
    quartile of each, where they meet the medians. A colour is a method, a mark one of its variants."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    cells = {(row.what, row.method, row.variant): row for row in rows if row.epoch == 0}
    names = [name for name in dict.fromkeys((row.method, row.variant) for row in rows) if (up, *name) in cells]
    methods = list(dict.fromkeys(method for method, _ in names))
    figure, axes = plt.subplots(figsize=(10, 6), layout="constrained")
    for method, variant in names:
        x, y = (100 * np.array(_spread(cells[what, method, variant])) for what in (across, up))
        number = [other for name, other in names if name == method].index(variant)
        axes.errorbar(
            *(x[1], y[1]),
            xerr=[[x[1] - x[0]], [x[2] - x[1]]],
            yerr=[[y[1] - y[0]], [y[2] - y[1]]],
            fmt="osD^vP*X"[number % 8],
            color=f"C{methods.index(method)}" if method != "zoo" else "black",
            label=f"{method} {variant}".strip().replace("_released", " released"),
        )
    labels = [f"{what.replace('_', ' ')}, %" for what in (across, up)]
    axes.set(title=f"{rows[0].experiment} on {rows[0].target}", xlim=(0, 100), ylim=(0, 102))
    axes.set(xlabel=labels[0], ylabel=labels[1])
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    figure.savefig(path, dpi=150, format="png")
    plt.close(figure)


def _spread(row: ResultRow) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile; of a single network, its number."""
    least = row.quartiles or [row.mean] * 5
    return least[1], least[2], least[3]


def plot_ensembles(path: Path, rows: Sequence[ResultRow], quantities: Mapping[str, Quantity]) -> None:
    """Every quantity over the size of ensembles, as a PNG: a column for each, a row for each epoch, a line with error
    bars for each population."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    epochs = sorted({row.epoch for row in rows})
    size = (3.6 * len(quantities), 3.2 * len(epochs))
    figure, axes = plt.subplots(
        len(epochs), len(quantities), figsize=size, layout="constrained", squeeze=False, sharex=True, sharey="col"
    )
    for line, epoch in zip(axes, epochs):
        for panel, (what, quantity) in zip(line, quantities.items()):
            scale = 100 if quantity.in_per_cent else 1
            found: dict[str, list[ResultRow]] = {}
            for row in rows:
                if (row.what, row.epoch) == (what, epoch):
                    found.setdefault(row.population.rpartition("of ")[0].strip(), []).append(row)
            for number, (label, several) in enumerate(found.items()):
                several.sort(key=lambda row: row.settings["members"])
                members = [row.settings["members"] for row in several]
                means, stds = ([scale * getattr(row, name) for row in several] for name in ("mean", "std"))
                panel.errorbar(members, means, stds, marker="o", markersize=3, color=f"C{number}", label=label)
            panel.set(title=f"{what.replace('_', ' ')}{', %' if quantity.in_per_cent else ''}")
            panel.grid(alpha=0.3)
        line[0].set_ylabel(f"{rows[0].target}, epoch {epoch}")
    for panel in axes[-1]:
        panel.set(xlabel="members", xscale="log")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)
    figure.savefig(path, dpi=120, format="png")
    plt.close(figure)


def plot_properties(path: Path, rows: Sequence[ResultRow], quantities: Mapping[str, Quantity]) -> None:
    """How well each property is read off each kind of features, as a PNG: a panel for each quantity, a group of bars
    for each property and probe."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = [what for what in quantities if any(row.what == what for row in rows)]
    groups = {what: list(dict.fromkeys(row.variant for row in rows if row.what == what)) for what in shown}
    features = list(dict.fromkeys(row.method for row in rows))
    widths = [max(len(found), 1) for found in groups.values()]
    size = (3 + 1.1 * sum(widths), 4.6)
    figure, axes = plt.subplots(
        1, len(shown), figsize=size, layout="constrained", squeeze=False, gridspec_kw={"width_ratios": widths}
    )
    for panel, what in zip(axes[0], shown):
        scale = 100 if quantities[what].in_per_cent else 1
        cells = {(row.method, row.variant): scale * row.mean for row in rows if row.what == what}
        for number, name in enumerate(features):
            places = np.arange(len(groups[what])) + (number - (len(features) - 1) / 2) * 0.8 / len(features)
            heights = [cells.get((name, variant), np.nan) for variant in groups[what]]
            panel.bar(places, heights, 0.8 / len(features), color=f"C{number}", label=name)
        labels = [variant.replace(", ", "\n").replace("_", " ") for variant in groups[what]]
        panel.set_xticks(range(len(labels)), labels, fontsize=7)
        panel.set(title=quantities[what].title, ylim=(min(0, panel.get_ylim()[0], 0) if scale == 1 else 0, scale))
        panel.grid(alpha=0.3, axis="y")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", fontsize=8, frameon=False)
    figure.savefig(path, dpi=150, format="png")
    plt.close(figure)


def plot_asked(path: Path, rows: Sequence[ResultRow]) -> None:
    """What was got for each quantile of accuracy that was asked for, as a PNG: a panel for each way of asking, a box
    for each quantile (quartiles, and whiskers to the least and the greatest). The first panel is the zoo itself; its
    medians, what one asks for, are the dashed line in the others."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tested = [row for row in rows if row.what == "test_accuracy"]
    panels: dict[str, list[ResultRow]] = {}
    for row in tested:
        panels.setdefault(f"{row.method} {row.variant.split('quantile')[0]}".strip(), []).append(row)
    everything = panels.pop("zoo training models", [])
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.2 * len(panels), 4.6), layout="constrained", squeeze=False, sharey=True
    )
    names = ("whislo", "q1", "med", "q3", "whishi")
    goal = [(row.settings["quantile"], 100 * _spread(row)[1]) for row in panels.get("zoo", [])]
    for panel, (title, found) in zip(axes[0], panels.items()):
        shown = [*(everything if title == "zoo" else []), *found]
        labels = [f"{row.settings['quantile']:.2g}" if "quantile" in row.settings else "all" for row in shown]
        boxes = [dict(zip(names, 100 * np.array(row.quartiles or [row.mean] * 5))) for row in shown]
        panel.bxp(boxes, showfliers=False, medianprops={"color": "C3"})
        panel.set_xticks(range(1, len(labels) + 1), labels)
        if goal and title != "zoo":
            places = {label: place for place, label in enumerate(labels, 1)}
            known = [
                (places[f"{quantile:.2g}"], accuracy) for quantile, accuracy in goal if f"{quantile:.2g}" in places
            ]
            panel.plot(*zip(*known), "k--", linewidth=1, label="the zoo's median")
            panel.legend(fontsize=8, frameon=False, loc="lower right")
        panel.set(title=title, xlabel="quantile asked for")
        panel.grid(alpha=0.3, axis="y")
    axes[0, 0].set_ylabel(f"test accuracy on {rows[0].target}, %")
    figure.savefig(path, dpi=150, format="png")
    plt.close(figure)


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
