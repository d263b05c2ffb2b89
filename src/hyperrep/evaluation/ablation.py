"""What the ingredients of a hyper-representation are worth: one training run with every subset of them, or with one
thing changed.

The ingredients are layer-wise loss normalisation (poster, L_MSE), alignment of the zoo to one network, and the
behavioural loss. Contrast, permuted views, the width of the latent and the size of the zoo are changed one at a time.
Networks are reconstructed from their latents and run: reconstruction errors of two losses cannot be
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

import torch

from ..errors import UserError
from ..images import ImageData
from ..representation.loading import load_representation
from ..results import ResultRow, fingerprint, machine_name
from ..tables import per_cent
from ..training import TrainingConfig, train
from ..training.config import BEHAVIOR_WEIGHTS
from ..zoo import Zoo, zoo_images


logger = logging.getLogger(__name__)

SPLITS = {"train_sample": "training", "test": "held-out"}
IMAGES = {"training": "validation images", "held-out": "test images"}
NOTHING = "none"
EXPERIMENT = "reconstruction"  # what rows say
CONTRAST_WEIGHT = 0.0996  # of the paper's MNIST representation
WIDTHS = (0.25, 0.5, 2)  # of that which is configured
SIZES = (50, 100, 200, 350, 500, 700)  # training networks
FEWER = "networks-"

_IS_ON: dict[str, Callable[[TrainingConfig], bool]] = {
    "normalization": lambda config: config.model_config().normalize_loss,
    "alignment": lambda config: config.align,
    "behavior": lambda config: config.runs_networks,
}
_NO_BEHAVIOR: dict[str, Any] = dict.fromkeys(BEHAVIOR_WEIGHTS, 0.0)
_WITHOUT: dict[str, Callable[[TrainingConfig], TrainingConfig]] = {
    "normalization": lambda config: replace(config, model=config.model | {"normalize_loss": False}),
    "alignment": lambda config: replace(config, align=False),
    "behavior": lambda config: replace(config, **_NO_BEHAVIOR),
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


def contrast(config: TrainingConfig) -> dict[str, TrainingConfig]:
    """As it is, and with the contrastive loss switched on (at the paper's weight) or off."""
    weight = 0.0 if config.model_config().contrast_weight else CONTRAST_WEIGHT
    changed = replace(config, model=config.model | {"contrast_weight": weight})
    return {_whole(config): config, "contrast" if weight else "no-contrast": changed}


def permutation(config: TrainingConfig) -> dict[str, TrainingConfig]:
    """As it is, and with randomly permuted views instead of alignment; or without, where it has them already."""
    if config.permute:
        return {_whole(config): config, "no-permutation": replace(config, permute=False)}
    return {_whole(config): config, "permutation": replace(config, permute=True, align=False)}


def width(config: TrainingConfig) -> dict[str, TrainingConfig]:
    """As it is, and with latents (of a network, or of each neuron) of a quarter, half and twice the width."""
    model = config.model_config()
    name = "neuron_latent_size" if model.latents_per == "neuron" else "latent_size"
    widths = dict.fromkeys(max(1, int(getattr(model, name) * factor)) for factor in WIDTHS)
    return {_whole(config): config} | {
        f"width-{width}": replace(config, model=config.model | {name: width}) for width in widths
    }


def size(config: TrainingConfig, networks: int) -> dict[str, TrainingConfig]:
    """As it is, and with fewer networks of the zoo, by names such as `networks-50`; in about as many steps.

    Raises:
        UserError: if the zoo has too few training networks to leave some out.
    """
    found = {_whole(config): config}
    for count in [count for count in SIZES if count < networks]:
        longer = {
            name: round(getattr(config, name) * networks / count)
            for name in ("num_train_epochs", "eval_epochs", "checkpoint_epochs")
        }
        found[f"{FEWER}{count}"] = replace(config, **longer)  # type: ignore[arg-type]
    if len(found) == 1:
        raise UserError(
            f"the zoo has {networks} training networks; more than {SIZES[0]} are needed to leave some out."
        )
    return found


def _whole(config: TrainingConfig) -> str:
    """The name of the configuration as it is, the same in every study."""
    return "+".join(name for name, is_on in _IS_ON.items() if is_on(config)) or NOTHING


STUDIES: dict[str, Callable[[TrainingConfig, int], dict[str, TrainingConfig]]] = {
    "ingredients": lambda config, _: subsets(config),
    "contrast": lambda config, _: contrast(config),
    "permutation": lambda config, _: permutation(config),
    "width": lambda config, _: width(config),
    "size": size,
}


def run_studies(
    config: TrainingConfig,
    zoo: Zoo,
    output: Path,
    images: str | None = None,
    only: Sequence[str] = (),
    studies: Sequence[str] = ("ingredients",),
) -> list[ResultRow]:
    """Train each part of the studies in a folder of its own; those that are complete are read, not trained again.

    Args:
        config ([`TrainingConfig`]): with all ingredients that are studied.
        zoo ([`~hyperrep.zoo.Zoo`])
        output (`Path`): folder of the runs' folders.
        images (`str`, *optional*): as for [`~hyperrep.training.train`].
        only (`list[str]`, *optional*): names of the parts to run, all by default.
        studies (`list[str]`, *optional*): of [`STUDIES`].

    Returns:
        `list[ResultRow]`: of every part (`method`), for training and held-out networks (`variant`):
        `original_accuracy`, `reconstruction_accuracy`, `r2` and `r2 of LAYER`.

    Raises:
        UserError: if a study or a name in `only` is unknown, the images are missing, or as `train` says.
    """
    if unknown := [name for name in studies if name not in STUDIES]:
        raise UserError(f"study {unknown[0]!r} is unknown; choose from {', '.join(STUDIES)}.")
    networks = len(zoo["train"].model_id.unique())
    parts = {name: part for study in studies for name, part in STUDIES[study](config, networks).items()}
    if unknown := [name for name in only if name not in parts]:
        raise UserError(f"part {unknown[0]!r} is unknown; choose from {', '.join(parts)}.")
    found = zoo_images(zoo, images)  # accuracies are the point: without images, fail before hours of training
    rows = []
    for name in only or parts:
        count = int(name.removeprefix(FEWER)) if name.startswith(FEWER) else networks
        seen = _first(zoo, count)
        results = train(parts[name], seen, output / name, resume=True, images=images)
        model, _, _ = load_representation(output / name)
        settings = {
            "training": json.loads(json.dumps(asdict(parts[name]))),
            "training_networks": count,
            "made_with": results["machine"],
            "representation_sha256": fingerprint(model.state_dict()),
            "zoo_revision": zoo.revision,
            "zoo_sha256": results["zoo"]["sha256"],
            "images_fingerprint": found.fingerprint,
        }
        rows += _rows(name, results, seen, found, config.seed, settings)
    return rows


def _first(zoo: Zoo, networks: int) -> Zoo:
    """The zoo with no more than so many training networks, the first ones."""
    train = zoo["train"]
    chosen = train[torch.isin(train.model_id, train.model_id.unique()[:networks])]
    return replace(zoo, splits=zoo.splits | {"train": chosen})


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
    """Header and lines of a table: one line a run; accuracies in per cent, and the images they were measured on."""
    cells = {(row.method, row.variant, row.what): row for row in rows}
    variants = list(SPLITS.values())
    shown = (f"{variant} networks, {IMAGES[variant]}" for variant in variants)
    header = ["trained with", *shown, *(f"R² of weights, {variant}" for variant in variants)]
    lines = [
        [
            method,
            *(_accuracy(cells.get((method, variant, "reconstruction_accuracy"))) for variant in variants),
            *(f"{row.mean:.3f}" if (row := cells.get((method, variant, "r2"))) else "" for variant in variants),
        ]
        for method in dict.fromkeys(row.method for row in rows)
    ]
    first = rows[0].method
    originals = [_accuracy(cells.get((first, variant, "original_accuracy"))) for variant in variants]
    return header, [["(originals)", *originals, "", ""], *lines]


def _accuracy(row: ResultRow | None) -> str:
    return per_cent(row.mean, row.std) if row else ""


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
        left.axvline(
            100 * original.mean, color=colour, linestyle=":", label=f"originals, {variant}, {IMAGES[variant]}"
        )
    left.set(yticks=range(len(methods)), yticklabels=methods, xlim=(0, 100), xlabel="accuracy, %")
    left.set_title(f"networks of {rows[0].zoo}, reconstructed, on images of {rows[0].target}")
    left.invert_yaxis()
    left.legend(**below)

    layers = [row.what for row in rows if row.what.startswith("r2 of ") and row.method == methods[0]]
    layers = list(dict.fromkeys(layers))
    for index, method in enumerate(methods):
        held_out = [cells.get((method, "held-out", layer)) for layer in layers]
        values = [row.mean if row else math.nan for row in held_out]
        style = "-" if _is_normalized(rows, method) else "--"
        right.plot(values, style, marker="o", markersize=4, color=f"C{index}", label=method)
    right.set(xticks=range(len(layers)), ylabel="R² of held-out networks' weights", ylim=(-0.2, 1))
    right.set_xticklabels([layer.removeprefix("r2 of ") for layer in layers])
    right.set_title("by layer; dashed without layer-wise loss normalisation")
    right.axhline(0, color="black", linewidth=0.6)
    right.grid(alpha=0.3)
    right.legend(**below)
    figure.savefig(path, dpi=130, format="png")  # whatever the temporary file is called
    plt.close(figure)


def _is_normalized(rows: Sequence[ResultRow], method: str) -> bool:
    training = next(row.settings.get("training") for row in rows if row.method == method)
    # files of hyperrep 0.1.0 have no settings, and no runs but subsets
    return training["model"].get("normalize_loss", True) if training else "normalization" in method


__all__ = [
    "STUDIES",
    "ablation_table",
    "contrast",
    "permutation",
    "plot_ablation",
    "run_studies",
    "size",
    "subsets",
    "width",
]
