"""What the ingredients of a hyper-representation are worth: one training run with every subset of them.

The ingredients are layer-wise loss normalisation (poster, L_MSE), alignment of the zoo to one network, and the
behavioural loss. Networks are reconstructed from their latents and run: reconstruction errors of two losses cannot be
compared, accuracies can. As in training, training networks answer validation images and held-out ones test images.
"""

import itertools
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..images import ImageData
from ..representation.loading import load_representation
from ..results import ResultRow, fingerprint, machine_name
from ..training import TrainingConfig, train
from ..zoo import Zoo, zoo_images


logger = logging.getLogger(__name__)

SPLITS = {"train_sample": "training", "test": "held-out"}
IMAGES = {"training": "validation images", "held-out": "test images"}
NOTHING = "none"
EXPERIMENT = "reconstruction"  # what rows say

_IS_ON: dict[str, Callable[[TrainingConfig], bool]] = {
    "normalization": lambda config: config.model_config().normalize_loss,
    "alignment": lambda config: config.align,
    "behavior": lambda config: config.runs_networks,
}
_WITHOUT: dict[str, Callable[[TrainingConfig], TrainingConfig]] = {
    "normalization": lambda config: replace(config, model=config.model | {"normalize_loss": False}),
    "alignment": lambda config: replace(config, align=False),
    "behavior": lambda config: replace(config, behavior_weight=0.0, shuffled_weight=0.0),
}


def subsets(config: TrainingConfig) -> dict[str, TrainingConfig]:
    """The configuration with every subset of its ingredients, by name such as `normalization+behavior`; all first.

    Raises:
        UserError: if it has none.
    """
    has = [name for name, is_on in _IS_ON.items() if is_on(config)]
    if not has:
        raise UserError(f"the configuration has none of {', '.join(_IS_ON)}: there is nothing to leave out.")
    found = {}
    for count in range(len(has) + 1):
        for left_out in itertools.combinations(has, count):
            part = config
            for name in left_out:
                part = _WITHOUT[name](part)
            found["+".join(name for name in has if name not in left_out) or NOTHING] = part
    return found


def run_subsets(
    config: TrainingConfig, zoo: Zoo, output: Path, images: str | None = None, only: Sequence[str] = ()
) -> list[ResultRow]:
    """Train each subset in a folder of its own; those that are complete are read, not trained again.

    Args:
        config ([`TrainingConfig`]): with all ingredients that are studied.
        zoo ([`~hyperrep.zoo.Zoo`])
        output (`Path`): folder of the runs' folders.
        images (`str`, *optional*): as for [`~hyperrep.training.train`].
        only (`list[str]`, *optional*): names of the subsets to run, all by default.

    Returns:
        `list[ResultRow]`: of every subset (`method`), for training and held-out networks (`variant`):
        `original_accuracy`, `reconstruction_accuracy`, `r2` and `r2 of LAYER`.

    Raises:
        UserError: if a name in `only` is unknown, the images are missing, or as `train` says.
    """
    parts = subsets(config)
    if unknown := [name for name in only if name not in parts]:
        raise UserError(f"subset {unknown[0]!r} is unknown; choose from {', '.join(parts)}.")
    found = zoo_images(zoo, images)  # accuracies are the point: without images, fail before hours of training
    rows = []
    for name in only or parts:
        results = train(parts[name], zoo, output / name, resume=True, images=images)
        model, _, _ = load_representation(output / name)
        settings = {
            "training": json.loads(json.dumps(asdict(parts[name]))),
            "made_with": results["machine"],
            "representation_sha256": fingerprint(model.state_dict()),
            "zoo_revision": zoo.revision,
            "zoo_sha256": results["zoo"]["sha256"],
            "images_fingerprint": found.fingerprint,
        }
        rows += _rows(name, results, zoo, found, config.seed, settings)
    return rows


def _rows(
    name: str, results: dict[str, Any], zoo: Zoo, images: ImageData, seed: int, settings: dict[str, Any]
) -> list[ResultRow]:
    rows = []
    for split, variant in SPLITS.items():
        measures = results[split]
        accuracy, n = measures["accuracy"], measures["accuracy"]["original"]["n"]
        values = {f"{which}_accuracy": (accuracy[which]["mean"], accuracy[which]["std"]) for which in accuracy}
        values["r2"] = (measures["r2"], 0.0)
        values |= {f"r2 of {layer}": (value, 0.0) for layer, value in measures["r2_per_layer"].items()}
        for what in [what for what, (mean, _) in values.items() if mean is None or not math.isfinite(mean)]:
            logger.warning("%s of %s, %s networks, is no number; it is left out.", what, name, variant)
            del values[what]
        rows += [
            ResultRow(
                what,
                EXPERIMENT,
                method=name,
                variant=variant,
                source=zoo.name,
                target=images.name,
                epoch=0,
                n=n,
                mean=mean,
                std=std,
                seed=seed,
                zoo=zoo.name,
                revision=zoo.revision,
                machine=machine_name(),
                seconds=results["seconds"],
                settings=settings | {"images": IMAGES[variant]},
            )
            for what, (mean, std) in values.items()
        ]
    return rows


def ablation_table(rows: Sequence[ResultRow]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of a table: one line a subset; accuracies in per cent."""
    cells = {(row.method, row.variant, row.what): row for row in rows}
    variants = list(SPLITS.values())
    header = ["ingredients", *(f"{v} networks, {IMAGES[v]}" for v in variants), *(f"R², {v}" for v in variants)]
    lines = [
        [
            method,
            *(_accuracy(cells[method, variant, "reconstruction_accuracy"]) for variant in variants),
            *(f"{row.mean:.3f}" if (row := cells.get((method, variant, "r2"))) else "" for variant in variants),
        ]
        for method in dict.fromkeys(row.method for row in rows)
    ]
    first = rows[0].method
    originals = [_accuracy(cells[first, variant, "original_accuracy"]) for variant in variants]
    return header, [["(originals)", *originals, "", ""], *lines]


def _accuracy(row: ResultRow) -> str:
    return f"{100 * row.mean:.1f} ± {100 * row.std:.1f}"


def plot_ablation(path: Path, rows: Sequence[ResultRow]) -> None:
    """Left, what reconstructed networks are worth; right, which layers were reconstructed at all."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    methods = list(dict.fromkeys(row.method for row in rows))
    cells = {(row.method, row.variant, row.what): row for row in rows}
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5.6), layout="constrained")
    below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12), "fontsize": 8, "ncols": 2}

    for offset, (variant, colour) in zip((-0.2, 0.2), zip(SPLITS.values(), ("tab:blue", "tab:orange")), strict=True):
        found = [cells[method, variant, "reconstruction_accuracy"] for method in methods]
        left.barh(
            [index + offset for index in range(len(methods))],
            [100 * row.mean for row in found],
            height=0.38,
            xerr=[100 * row.std for row in found],
            color=colour,
            label=f"{variant} networks, {IMAGES[variant]}",
        )
        original = cells[methods[0], variant, "original_accuracy"]
        left.axvline(100 * original.mean, color=colour, linestyle=":", label=f"originals, {variant}")
    left.set(yticks=range(len(methods)), yticklabels=methods, xlim=(0, 100), xlabel="accuracy, %")
    left.set_title(f"networks of {rows[0].zoo}, reconstructed")
    left.invert_yaxis()
    left.legend(**below)

    layers = [row.what for row in rows if row.what.startswith("r2 of ") and row.method == methods[0]]
    layers = list(dict.fromkeys(layers))
    for index, method in enumerate(methods):
        held_out = [cells.get((method, "held-out", layer)) for layer in layers]
        values = [row.mean if row else math.nan for row in held_out]
        style = "-" if "normalization" in method else "--"
        right.plot(values, style, marker="o", markersize=4, color=f"C{index}", label=method)
    right.set(xticks=range(len(layers)), ylabel="R² of held-out networks' weights", ylim=(-0.2, 1))
    right.set_xticklabels([layer.removeprefix("r2 of ") for layer in layers])
    right.set_title("by layer; dashed without layer-wise loss normalisation")
    right.axhline(0, color="black", linewidth=0.6)
    right.grid(alpha=0.3)
    right.legend(**below)
    figure.savefig(path, dpi=130, format="png")  # whatever the temporary file is called
    plt.close(figure)


__all__ = ["ablation_table", "plot_ablation", "run_subsets", "subsets"]
