"""One picture of a whole run: the zoo, its latents, what generated networks see, and how they train."""

from pathlib import Path

import numpy as np
import torch
from transformers import pipeline

from hyperrep.evaluation.plots import draw_curves, draw_filters
from hyperrep.representation import HyperRepModel
from hyperrep.representation.batched import encode_rows
from hyperrep.results import read_results, results_table
from hyperrep.samplers import SAMPLER_FOLDER, AnchoredSampler
from hyperrep.zoo import load_zoo, zoo_images


SHOWN_EPOCHS = (0, 1, 5)
NUM_DIGITS = 8
LINE_HEIGHT = 0.24  # of a table, in inches


def draw_report(run: Path, path: Path) -> None:
    """Draw `zoo/`, `representation/` and `samples/` of a run folder into one PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    zoo = load_zoo(run / "zoo")
    model = HyperRepModel.from_pretrained(run / "representation")
    sampler = AnchoredSampler.from_pretrained(run / "representation" / SAMPLER_FOLDER)
    rows = read_results(run / "representation" / "results" / "finetune.jsonl")

    lines = _table(rows)
    heights = [3.5, 2.4, LINE_HEIGHT * (len(lines) + 1)]  # the header has two
    height = sum(heights) + 3.2  # inches; the rest are titles and gaps
    figure = plt.figure(figsize=(13, height))
    grid = figure.add_gridspec(
        3,
        6,
        height_ratios=heights,
        left=0.05,
        right=0.97,
        top=1 - 1 / height,
        bottom=0.1 / height,
        hspace=0.32,
        wspace=0.9,
    )
    figure.suptitle(
        f"{zoo.config.num_models} networks trained on {zoo.config.images['name']}, a representation of their weights, "
        "and new networks sampled from it",
        fontsize=14,
    )

    _draw_zoo(figure.add_subplot(grid[0, :2]), zoo)
    _draw_latents(figure.add_subplot(grid[0, 2:4]), model, zoo, sampler)
    curves = figure.add_subplot(grid[0, 4:])
    draw_curves(curves, rows, first_only=True)
    curves.legend(framealpha=0.8, fontsize=8, loc="best")
    _draw_filters(figure, grid[1, :3], zoo, run)
    _draw_predictions(figure, grid[1, 3:], run, zoo_images(zoo))
    _draw_table(figure.add_subplot(grid[2, :]), lines)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw_zoo(axes, zoo) -> None:
    for split in zoo.splits.values():
        for model_id in split.model_id.unique():
            one = split[split.model_id == model_id]
            axes.plot(one.epoch, 100 * one.metrics["test_accuracy"], color="tab:blue", alpha=0.12, linewidth=0.8)
    axes.set(title="1. the zoo", xlabel="epoch", ylabel="test accuracy, %", ylim=(0, 100))
    axes.grid(alpha=0.3)


def _draw_latents(axes, model, zoo, sampler) -> None:
    """Principal components of the latents of all epochs, and of samples."""
    from sklearn.decomposition import PCA

    checkpoints = zoo["train"]
    accuracy = 100 * checkpoints.metrics["validation_accuracy"]
    latents = encode_rows(model, checkpoints.weights)
    projection = PCA(2, svd_solver="full").fit(latents.numpy())
    points = projection.transform(latents.numpy())
    shown = axes.scatter(*points.T, c=accuracy, s=6, cmap="viridis", label="zoo, every epoch")
    samples = sampler.sample(100, torch.Generator().manual_seed(0))
    axes.scatter(*projection.transform(samples.numpy()).T, s=14, color="tab:red", marker="x", label="samples")
    axes.figure.colorbar(shown, ax=axes, label="accuracy, %")
    axes.set(title="2. its latents (first two principal components)", xticks=[], yticks=[])
    axes.legend(frameon=False, fontsize=8)


def _draw_filters(figure, place, zoo, run: Path) -> None:
    """First-layer filters of training models and of generated ones."""
    from safetensors.torch import load_file

    subgrid = place.subgridspec(2, 1)
    layout = zoo.config.weight_layout()
    name = layout.tensors[0][0]
    last = zoo["train"].select([max(zoo.config.epochs)])
    trained = layout.unvectorize(last.weights[:3])[name]
    generated = torch.stack(
        [load_file(path / "model.safetensors")[name] for path in sorted((run / "samples").glob("model-*"))[:3]]
    )
    for row, (title, filters) in enumerate(
        (("3. first-layer filters of three trained networks", trained), ("and of three generated ones", generated))
    ):
        axes = figure.add_subplot(subgrid[row])
        draw_filters(axes, filters)
        axes.set_title(title, fontsize=10, loc="left")


def _draw_predictions(figure, place, run: Path, images) -> None:
    """Test images and what three generated checkpoints, loaded by transformers, call them before any training."""
    rows = 2
    subgrid = place.subgridspec(rows, NUM_DIGITS // rows, hspace=0.75)
    classifiers = [
        pipeline("image-classification", model=str(path), top_k=1)
        for path in sorted((run / "samples").glob("model-*"))[:3]
    ]
    pixels = images.test.pixels[:NUM_DIGITS]
    with torch.no_grad():
        answers = [classifier.model(pixels).logits.argmax(-1).tolist() for classifier in classifiers]
    for i in range(NUM_DIGITS):
        axes = figure.add_subplot(subgrid[divmod(i, NUM_DIGITS // rows)])
        axes.imshow(pixels[i, 0], cmap="gray_r")
        axes.set(xticks=[], yticks=[])
        truth = int(images.test.labels[i])
        text = "three networks say\n" + ", ".join(images.classes[answer[i]] for answer in answers)
        right = np.mean([answer[i] == truth for answer in answers])
        axes.set_xlabel(text, fontsize=8, color="tab:green" if right == 1 else "tab:orange" if right else "tab:red")
        if i == 0:
            axes.set_title("4. three generated networks at work, before any training", fontsize=10, loc="left")


def _table(rows) -> list[list[str]]:
    """Header and lines."""
    header, lines = results_table([row for row in rows if row.epoch in SHOWN_EPOCHS])
    _, similar = results_table(rows, "nearest_training_similarity")
    similarity = {(line[0], line[1]): line[3] for line in similar}
    header.append("similarity to nearest\ntraining network")
    return [header, *([*line, similarity.get((line[0], line[1]), "")] for line in lines)]


def _draw_table(axes, lines) -> None:
    axes.axis("off")
    table = axes.table(lines, bbox=[0, 0, 1, 1], cellLoc="center", edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    for column in range(len(lines[0])):
        table[0, column].set_height(2 * table[1, 0].get_height())
    title = "5. test accuracy in %, mean ± std over n networks (†, ‡: not as B_T, B_KDE30; similarity 100: a copy)"
    axes.set_title(title, fontsize=10)
