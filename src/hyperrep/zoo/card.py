"""The card of a zoo: README.md with metadata, statistics and a picture, made from the data alone."""

from pathlib import Path
from string import Template
from typing import Any

import torch

from ..files import signed_card
from ..networks.describe import describe, plain
from ..tables import markdown_table
from .accuracy import AccuracyRow, accuracy_by_epoch, accuracy_rows, accuracy_table, write_accuracy
from .config import OPTIONAL, ZooConfig, listed
from .parquet import are_in_rows
from .protocol import NETWORK_FACTORS
from .split import METRICS, ZooSplit


CARD_FILES = ("README.md", "accuracy.png", "results/accuracy.jsonl")
TAGS = ["model-zoo", "weight-space-learning", "hyper-representation"]

TRAINING_IMAGES = {
    "mnist": 60_000,
    "mnist-grid": 60_000,
    "svhn": 73_257,
    "svhn-kaiming": 73_257,
    "cifar10": 50_000,
    "stl10": 5_000,
    "fashion-mnist": 60_000,
    "usps": 7_291,
}

_TEMPLATE = Template(
    """
# $title: $num_models networks

A population of $num_models networks of one architecture ($size)$how, stored at $num_epochs epochs:
$num_rows checkpoints, one row each.

$picture## Load

```python
from hyperrep import load_zoo

zoo = load_zoo("$repo")          # or load_dataset("$repo") for the plain rows
$example
```

$accuracy$factors_table

$training## Columns

`model_id`, `epoch` (0 is untrained), $weights$columns.
${units}Splits are by model$shares: $split_sizes.
$terms"""
)

_IN_ROWS = 'zoo["train"].weights             # (checkpoints, {num_params}), float32'
_IN_FILES = 'zoo["train"].select([EPOCH]).weights    # (checkpoints, {num_params}), float32: read now, and only these'
_WEIGHTS = "`weights` (in the order of `zoo_config.json`, each tensor row-major)"
_FILE = "`file` (the network: a safetensors file of this repository, its tensors by name)"

_PICTURE = "![Test accuracy over epochs](accuracy.png)\n\n"

_ACCURACY = Template(
    """## Accuracy

Test accuracy, mean ± std (ddof 0) over n models, in per cent$test_note.

$accuracy_table

$published_note$images_note"""
)

_TRAINING = Template(
    """## How it was trained

```bash
$command
```

| | |
|---|---|
| images | $images: $train_size to train, $validation_size to validate, $test_size to test |
| preprocessing | $preprocessing |
| network | $network |
| initial weights | $initial |
| optimiser | $optimizer, learning rate $learning_rate, weight decay $weight_decay, batch size $batch_size |
| seeds | $first_seed to $last_seed; a seed decides initial weights, image order and dropout |
| made with | $made_with |

"""
)


def write_card(folder: Path, config: ZooConfig, splits: dict[str, ZooSplit], repo: str | None = None) -> Path:
    """Write `README.md`, `accuracy.png` and `results/` into a zoo's folder; returns the card's path.

    Args:
        repo (`str`, *optional*): the Hub id that the examples name.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    published = config.published_accuracy()
    known = any(rows.metrics["test_accuracy"].isfinite().any() for rows in splits.values())
    rows = accuracy_rows(splits, published) if known else []
    if known:
        write_accuracy(folder / "results" / "accuracy.jsonl", rows)
        plot_accuracy(folder / "accuracy.png", config, splits, published)
    # and not somebody's own, or trained elsewhere, of which less is known
    built = "recipe" in config.protocol and bool(config.made_with)

    data = DatasetCardData(
        license="cc-by-4.0" if built else None,
        pretty_name=_title(config),
        tags=TAGS,
        size_categories=size_category(sum(map(len, splits.values()))),
        configs=[
            {
                "config_name": "default",
                "data_files": data_files(config.files),
            }
        ]
        if config.files
        else None,
    )
    in_rows = are_in_rows(config)
    text = _TEMPLATE.substitute(
        example=(_IN_ROWS if in_rows else _IN_FILES).format(num_params=f"{config.weight_layout().num_params:,}"),
        weights=_WEIGHTS if in_rows else _FILE,
        title=_title(config),
        num_models=f"{config.num_models:,}",
        size=config.weight_layout().described,
        how=_how(config) if built else "",
        picture=_PICTURE if known else "",
        num_epochs=len(config.epochs),
        num_rows=f"{sum(map(len, splits.values())):,}",
        repo=repo or f"org/cnn-zoo-{config.protocol.get('name', 'own')}",
        accuracy=_accuracy(config, rows) if known else "",
        factors_table=_factors_table(config, splits) if known else "",
        columns="".join(f", `{name}`" for name in (*OPTIONAL, *config.factors()) if name not in config.unknown),
        units=_units(built) if set(METRICS) - set(config.unknown) else "",
        shares=", 70/15/15" if built else "",
        terms="\nCode: Apache-2.0. Zoo: CC-BY-4.0; the images keep their own terms.\n" if built else "",
        training=_training(config) if built and "train" in config.images else "",
        split_sizes=", ".join(f"{name} {len(rows):,} checkpoints" for name, rows in splits.items()),
    )
    path = folder / "README.md"
    DatasetCard(signed_card(data, text)).save(path)
    return path


def _how(config: ZooConfig) -> str:
    differ_in = "seed and in how they were trained" if config.factors() else "seed"
    return f" that differ only in their {differ_in}, trained on {config.images.get('name', 'unknown images')}"


def _units(built: bool) -> str:
    running = "; those of training are running means over the epoch, each batch as seen before its step"
    gap = "the generalization gap is training minus test accuracy"
    return f"Losses are in nats, accuracies 0 to 1{running if built else ''}; {gap}.\n"


def _accuracy(config: ZooConfig, rows: list[AccuracyRow]) -> str:
    published = config.published_accuracy()
    return _ACCURACY.substitute(
        accuracy_table=markdown_table(*accuracy_table(rows)),
        published_note="Published values: rows B_T of Schürholt et al., NeurIPS 2022. " if published else "",
        test_note=_test_note(config),
        images_note=_images_note(config),
    )


def _title(config: ZooConfig) -> str:
    title = str(config.protocol.get("title") or config.protocol.get("name") or "Model zoo")
    return title if title.lower().endswith("zoo") else f"{title} model zoo"


def data_files(files: dict[str, list[str]], folder: str = "") -> list[dict[str, Any]]:
    """What the metadata of a card say of the files of each split.

    Args:
        files (`dict`): of a zoo's configuration.
        folder (`str`, *optional*): of the repository, with a `/` behind it.
    """
    # one by one: `datasets` takes two folders of one name and one pattern for the same data
    names = {split: [f"{folder}{name}" for name in files[split]] for split in files}
    return [{"split": split, "path": own[0] if len(own) == 1 else own} for split, own in names.items()]


def _training(config: ZooConfig) -> str:
    differing = dict.fromkeys(config.factors(), "from the grid")
    recipe = config.protocol["recipe"] | differing
    network, initial = describe(config.network | {k: v for k, v in differing.items() if k in NETWORK_FACTORS})
    first_seed, images = config.protocol.get("first_seed", 1), config.images

    return _TRAINING.substitute(
        command=_command(config),
        images=images["name"],
        train_size=f"{images['train']:,}",
        validation_size=f"{images['validation']:,}",
        test_size=f"{images.get('test', 0):,}",
        preprocessing=_preprocessing(config),
        network=network,
        initial=initial,
        optimizer=recipe["optimizer"],
        learning_rate=recipe["learning_rate"],
        weight_decay=recipe["weight_decay"],
        batch_size=recipe["batch_size"],
        first_seed=first_seed,
        last_seed=first_seed + config.num_models - 1,
        made_with=", ".join(f"{key} {value}" for key, value in config.made_with.items()),
    )


def size_category(rows: int) -> str:
    """The Hub's name for this many rows."""
    for limit, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K")):
        if rows < limit:
            return name
    return "100K<n<1M"


def _command(config: ZooConfig) -> str:
    """The command that builds this zoo."""
    protocol, last = config.protocol, config.protocol["epochs"]
    source = "FOLDER_OF_THESE_IMAGES" if _saw_a_part(config) else protocol["images"]
    parts = [f"hyperrep zoo build --protocol {protocol['name']} --images {source}"]
    if config.images.get("label_column"):
        parts.append(f"--label-column {config.images['label_column']!r}")
    parts.append(f"--models {config.num_models} --epochs {last}")
    test_epochs = protocol.get("test_epochs", last)
    if test_epochs > last:
        parts.append(f"--test-epochs {test_epochs}")
    if len(config.epochs) <= test_epochs:
        parts.append(f"--keep-epochs {listed(config.epochs)}")
    if (first_seed := protocol.get("first_seed", 1)) != 1:
        parts.append(f"--first-seed {first_seed}")
    return " ".join([*parts, f"--output cnn-zoo-{protocol['name']}"])


def _test_note(config: ZooConfig) -> str:
    last = config.protocol.get("epochs", max(config.epochs))
    test_epochs = config.protocol.get("test_epochs", last)
    if test_epochs == last:
        return ""
    return f"; only the test split's models were trained beyond epoch {last}, to {test_epochs}"


def _factors_table(config: ZooConfig, splits: dict[str, ZooSplit]) -> str:
    """Accuracy by value of each generating factor at the last epoch all models reached; empty without factors."""
    if not config.factors():
        return ""
    last_epoch = config.protocol.get("epochs", max(config.epochs))
    epoch = max((epoch for epoch in config.epochs if epoch <= last_epoch), default=config.epochs[0])
    lines = []
    last = [split.epoch == epoch for split in splits.values()]
    accuracy = 100 * torch.cat([split.metrics["test_accuracy"][at] for split, at in zip(splits.values(), last)])
    for name, values in config.factors().items():
        of_model = [
            value for split, at in zip(splits.values(), last) for value in split.factors[name][at.numpy()].tolist()
        ]
        for value in values:
            selected = accuracy[[i for i, other in enumerate(of_model) if other == value]]
            if len(selected):
                spread = f"{selected.mean():.1f} ± {selected.std(correction=0):.1f}"
                lines.append([name, str(value), spread, str(len(selected))])
    table = markdown_table(["factor", "value", "test accuracy", "models"], lines)
    return f"\n\n## Generating factors\n\nAt epoch {epoch}, over all values of the other factors.\n\n{table}"


def _saw_a_part(config: ZooConfig) -> bool:
    """Whether the images are fewer than those of the data set that the protocol names."""
    if "train" not in config.images:
        return False
    used = config.images["train"] + config.images["validation"]
    return used != TRAINING_IMAGES.get(config.protocol.get("name", ""), used)


def _preprocessing(config: ZooConfig) -> str:
    processor = config.image_processor_object()

    def get(name: str) -> Any:  # which of these a processor has, is its own affair
        return getattr(processor, name, None)

    size, fit = (get("crop_size"), "crop") if get("do_center_crop") else (get("size"), "resize")
    mean, std = (plain(list(get(name) or ())) for name in ("image_mean", "image_std"))
    parts = {
        "channels": get("num_channels"),
        "size": getattr(size, "height", size),
        "fit": fit,
        "mean": mean,
        "std": std,
    }
    return ", ".join(f"{name} {value}" for name, value in parts.items() if value not in (None, ""))


def _images_note(config: ZooConfig) -> str:
    if not _saw_a_part(config) or "recipe" not in config.protocol:
        return ""
    used = config.images["train"] + config.images["validation"]
    full = TRAINING_IMAGES[config.protocol["name"]]
    seen = f"**This zoo saw {used:,} of the {full:,} training images"
    if not config.protocol["published_accuracy"]:
        return f"{seen}.**"
    batch_size = config.protocol["recipe"]["batch_size"]
    there = round(full * (1 - config.protocol["validation_fraction"]) / batch_size)
    return (
        f"{seen}; its accuracies are not comparable with them.** An epoch is "
        f"{-(-config.images['train'] // batch_size):,} steps here and was {there:,} there."
    )


def plot_accuracy(
    path: Path, config: ZooConfig, splits: dict[str, ZooSplit], published: dict[int, tuple[float, float]]
) -> None:
    """Test accuracy of every model over epochs, their mean, and the published values."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for rows in splits.values():
        for model in rows.model_id.unique()[:100]:
            one = rows.model_id == model  # and not its rows, which would be a copy of their weights
            accuracy = 100 * rows.metrics["test_accuracy"][one]
            axes.plot(rows.epoch[one], accuracy, color="tab:blue", alpha=0.08, linewidth=0.8)
    statistics = accuracy_by_epoch(splits)
    axes.plot(list(statistics), [s[0] for s in statistics.values()], color="tab:blue", label="mean of this zoo")
    shown = {epoch: value for epoch, value in published.items() if epoch <= max(statistics)}
    if shown:
        means, stds = zip(*shown.values())
        axes.errorbar(list(shown), means, stds, fmt="o", color="tab:orange", capsize=3, label="published (B_T)")
    axes.set(xlabel="epoch", ylabel="test accuracy, %")
    axes.set_title(f"{_title(config)}: {config.num_models} networks", parse_math=False)  # a name may have dollar signs
    axes.grid(alpha=0.3)
    figure.legend(frameon=False, loc="outside lower center", ncols=2)  # beside the axes, where no curve can be
    figure.savefig(path, dpi=150)
    plt.close(figure)
