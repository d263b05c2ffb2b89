"""What the app shows: networks drawn from a representation, how good they are, and how new."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from hyperrep import HyperRepPipeline
from hyperrep.errors import UserError
from hyperrep.evaluation.plots import draw_filters
from hyperrep.generated import WeightGenerationOutput
from hyperrep.images import ImageData, load_images
from hyperrep.networks import processor_from
from hyperrep.pipeline import seeded
from hyperrep.population import Recipe, choose_engine, train_population
from hyperrep.samplers import refit, sampler_classes
from hyperrep.zoo import get_protocol


HERE = Path(__file__).parent
REPRESENTATIONS = ("../model_cards/hyperrep-digits", "../model_cards/hyperrep-mnist")  # beside the app; or Hub ids
MOST_NETWORKS = 100
FIRST_ORDER_SEED = 2_000_000  # image orders that neither a zoo nor an evaluation uses


@dataclass(frozen=True)
class Shown:
    """
    Attributes:
        networks ([`WeightGenerationOutput`])
        table (`list[list]`): epoch, generated and random starts: accuracy in per cent.
        about (`str`): in words, what was drawn and how near it is to training networks.
        figure (`Figure`): first-layer filters, accuracy over distance.
    """

    networks: WeightGenerationOutput
    table: list[list[str]]
    about: str
    figure: Figure


def methods() -> list[str]:
    """That draw from latents in seconds."""
    return [kind.method for kind in sampler_classes() if "latents" in kind.spaces and kind.tabled]


def show(representation: str, method: str, target: float, count: int, seed: int) -> Shown:
    """Draw networks, test them at once and after one epoch of training, beside as many random starts.

    Args:
        representation (`str`): folder or Hub id.
        method (`str`): see [`methods`].
        target (`float`): accuracy asked for: from 0, the worst third of the training networks, to 1, the best.
        count (`int`), seed (`int`)
    """
    count = min(int(count), MOST_NETWORKS)
    place = HERE / representation
    pipe = HyperRepPipeline.from_pretrained(place if place.is_dir() else representation)
    pipe.sampler = aimed(pipe.sampler, method, target)
    networks = pipe(count, generator=seeded(int(seed)))

    images, recipe = training_of(pipe)
    config = networks.model(0).config
    engine = choose_engine("auto", config)
    seeds = range(FIRST_ORDER_SEED, FIRST_ORDER_SEED + count)
    curves = [
        [result.test.accuracy for result in train_population(config, recipe, images, seeds, 1, engine, weights=start)]
        for start in (networks.weights, None)
    ]
    table = [[str(epoch), *(spread(curve[epoch]) for curve in curves)] for epoch in (0, 1)]
    distances = [entry["relative_distance"] or 0.0 for entry in networks.nearest or []]
    middle = float(torch.tensor(distances).median()) if distances else 0.0
    scores, chosen = pipe.sampler.scores, pipe.sampler.chosen
    about = (
        f"{count} networks by {method}, fitted to {len(scores[chosen])} of {len(scores)} training latents. "
        f"Their latents lie {middle:.2f} times as far from the nearest training network's as those lie from one "
        "another: near 0, they would be copies."
    )
    return Shown(networks, table, about, picture(networks, curves[0][0], distances))


def aimed(sampler: Any, method: str, target: float) -> Any:
    """The sampler over that third of the training networks whose accuracy is asked for."""
    if not 0 <= target <= 1:
        raise UserError(f"target is {target}; it must lie between 0 and 1.")
    third = {"top": 1 / 3, "worst": target < 1 / 3}
    if 1 / 3 <= target <= 2 / 3:
        third = {"top": 1.0, "worst": False}
    return refit(sampler, method, **third)


def training_of(pipe: HyperRepPipeline) -> tuple[ImageData, Recipe]:
    """Images and recipe of the zoo, by the name of its protocol."""
    protocol = get_protocol(str((pipe.model.config.zoo or {}).get("protocol")))
    processor = processor_from(pipe.model.config.image_processor or {})
    return load_images(protocol.images, processor, protocol.validation_fraction), protocol.recipe


def spread(accuracy: torch.Tensor) -> str:
    return f"{100 * accuracy.mean():.1f} ± {100 * accuracy.std(correction=0):.1f}"


def picture(networks: WeightGenerationOutput, accuracy: torch.Tensor, distances: list[float]) -> Figure:
    figure = Figure(figsize=(9, 5.5))
    top, bottom = figure.subplots(2, 1, height_ratios=(1, 4))
    name = networks.layout.tensors[0][0]
    draw_filters(top, networks.layout.unvectorize(networks.weights[:8])[name])
    top.set_title(f"first-layer filters of {min(8, len(networks))} of them", fontsize=10)
    if distances:
        bottom.scatter(distances, 100 * accuracy, s=14)
        bottom.axvline(1, color="grey", linestyle=":")
        bottom.set(
            xlabel="distance to the nearest training network (0: a copy; 1: as training networks lie apart)",
            ylabel="test accuracy, %",
            ylim=(0, 100),
            xlim=(0, 1.1 * max(1.0, *distances)),
        )
        bottom.set_title("good, and new?", fontsize=10)
        bottom.grid(alpha=0.3)
    figure.tight_layout()
    return figure
