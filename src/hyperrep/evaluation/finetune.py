"""The poster's first table: do generated networks start better, and train better, than random ones?

Populations (names of the paper): B_T is trained from scratch (the zoo's test split), B_KDE30 is drawn from a density
over the *weights* of the best 30 %, S_KDE30 from a density over their *latents*, S_U uniformly from latent space.
Beside them stand the zoo itself, its reconstructions, and how similar each generated network is to a training model.
"""

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..errors import UserError
from ..images import ImageData
from ..networks import SmallCNNConfig
from ..population import Engine, Recipe, train_population
from ..representation import HyperRepModel
from ..representation.batched import decode_rows, encode_rows
from ..samplers import KDE_VARIANTS, KDESampler, UniformSampler
from ..zoo import Zoo, ZooSplit
from .novelty import nearest_similarity, vote_accuracy
from .results import ResultRow, machine_name


FIRST_ORDER_SEED = 1_000_000  # image orders of fine-tuned networks: none that a zoo's own seeds would give


@dataclass(frozen=True)
class FinetuneSettings:
    """Args:
    num_models (`int`, *optional*, defaults to 50): networks in each generated population.
    epochs (`int`, *optional*, defaults to 25): fine-tuning epochs, by the zoo's own recipe.
    top (`float`, *optional*, defaults to 0.3): share of the training checkpoints, best by zoo validation accuracy,
        that the densities are fitted to.
    bandwidth (`float`, *optional*, defaults to 0.002): of the kernel density, in latents and in weights.
    variants (`tuple[str, ...]`): of the kernel density, see [`KDESampler`].
    seed (`int`, *optional*, defaults to 0): of the sampling and of the image orders.
    """

    num_models: int = 50
    epochs: int = 25
    top: float = 0.3
    bandwidth: float = 0.002
    variants: tuple[str, ...] = KDE_VARIANTS
    seed: int = 0

    def __post_init__(self):
        if self.num_models < 1:
            raise UserError(f"num_models is {self.num_models}; it must be at least 1.")
        if self.epochs < 0:
            raise UserError(f"epochs is {self.epochs}; it must be 0 or more.")
        for variant in self.variants:
            KDESampler(variant, self.bandwidth, self.top)  # checks its own ranges, before anything is trained


def evaluate_finetune(
    model: HyperRepModel,
    zoo: Zoo,
    images: ImageData,
    engine: Engine,
    settings: FinetuneSettings,
    source: str,
    revision: str | None = None,
    progress_folder: Path | None = None,
) -> list[ResultRow]:
    """Fine-tune every population on the zoo's images and report test accuracy after every epoch.

    Args:
        model ([`HyperRepModel`]): the representation.
        zoo ([`Zoo`]): the zoo it was trained on.
        images ([`ImageData`]): the images that zoo was trained on.
        engine ([`Engine`])
        settings ([`FinetuneSettings`])
        source (`str`), revision (`str`, *optional*): what the rows call the representation.
        progress_folder (`Path`, *optional*): finished populations are kept here, so that an interrupted evaluation
            goes on where it was.

    Raises:
        UserError: if the zoo's layout is not the model's.
    """
    if zoo.config.layout != model.config.layout:
        raise UserError(f"zoo {zoo.name} holds networks of another layout than the representation {source}.")
    network, recipe = zoo.config.network_config(), Recipe(**zoo.config.protocol["recipe"])
    training, held_out = (seen_rows(model, zoo, split) for split in ("train", "test"))

    fields = {
        "experiment": "finetune",
        "source": source,
        "target": images.name,
        "seed": settings.seed,
        "zoo": zoo.name,
        "revision": revision,
        "machine": machine_name(),
    }
    rows = [*_scratch_rows(zoo, fields), *_reference_rows(model, engine, network, training, held_out, images, fields)]
    training_errors = engine.evaluate(network, training.weights, images.test.pixels, images.test.labels, True)
    assert training_errors.predictions is not None

    rows += _zoo_rows(training, training_errors.predictions, images, settings, fields)

    populations = list(_populations(model, training, settings))
    total = len(populations) * settings.num_models * settings.epochs
    with tqdm(total=total, unit="model-epoch", desc="fine-tuning") as progress:
        for method, variant, weights in populations:
            path = progress_folder / f"{method}-{variant or 'only'}.json" if progress_folder else None
            key = asdict(settings) | {"images": images.fingerprint, "weights": weights.double().sum().item()}
            outcome = _read_outcome(path, key)
            if outcome is None:
                outcome = _finetune(
                    network, recipe, images, weights, training_errors.predictions, engine, settings, progress
                )
                _write_outcome(path, key, outcome)
            else:
                progress.n += settings.num_models * settings.epochs
                progress.initial = progress.n  # an honest rate counts only what this run trains
            rows.extend(_outcome_rows(outcome, method, variant, fields))
    return rows


def seen_rows(model: HyperRepModel, zoo: Zoo, split: str) -> ZooSplit:
    """A split as the representation's training took it: its epochs, by its filter.

    A representation that does not say gets the last stored epoch, and all finite checkpoints.
    """
    record = model.config.zoo or {}
    rows = zoo[split].select(list(record.get("epochs") or [max(zoo.config.epochs)]))
    return rows.within(record.get("weight_threshold", math.inf), split)


def _populations(
    model: HyperRepModel, training: ZooSplit, settings: FinetuneSettings
) -> Iterator[tuple[str, str, Tensor]]:
    """Method, variant and weights (num_models, num_params) of every generated population."""
    scores = training.metrics["validation_accuracy"]
    latents = encode_rows(model, training.weights)
    # the baseline gets the weights as the representation does: aligned, if it was trained on aligned ones
    for method, points in (("S_KDE30", latents), ("B_KDE30", model.align(training.weights))):
        for variant in settings.variants:
            sampler = KDESampler(variant=variant, bandwidth=settings.bandwidth, top=settings.top)
            drawn = sampler.fit(points, scores).sample(settings.num_models, _generator(settings))
            yield method, variant, decode_rows(model, drawn) if method.startswith("S_") else drawn
    uniform = UniformSampler().fit(latents, scores).sample(settings.num_models, _generator(settings))
    yield "S_U", "", decode_rows(model, uniform)


def _generator(settings: FinetuneSettings) -> torch.Generator:
    return torch.Generator().manual_seed(settings.seed)


def _scratch_rows(zoo: Zoo, fields: dict) -> Iterator[ResultRow]:
    """B_T: the zoo's test split, which was trained from scratch already."""
    test = zoo["test"]
    for epoch in sorted(set(test.epoch.tolist())):
        accuracy = test.metrics["test_accuracy"][test.epoch == epoch]
        yield ResultRow.of(
            accuracy, what="test_accuracy", method="B_T", variant="", epoch=epoch, seconds=0.0, **fields
        )


def _reference_rows(
    model: HyperRepModel,
    engine: Engine,
    network: SmallCNNConfig,
    training: ZooSplit,
    held_out: ZooSplit,
    images: ImageData,
    fields: dict,
) -> Iterator[ResultRow]:
    """Accuracy of the zoo's checkpoints and of their reconstructions, training models and held-out ones."""
    for name, rows in (("training models", training), ("held-out models", held_out)):
        start = time.perf_counter()
        reconstructed = decode_rows(model, encode_rows(model, rows.weights))
        accuracy = engine.evaluate(network, reconstructed, images.test.pixels, images.test.labels).accuracy
        originals = rows.metrics["test_accuracy"]
        for method, values in (("zoo", originals), ("reconstructed", accuracy)):
            seconds = time.perf_counter() - start
            yield ResultRow.of(
                values, what="test_accuracy", method=method, variant=name, epoch=0, seconds=seconds, **fields
            )


def _zoo_rows(
    training: ZooSplit, predictions: Tensor, images: ImageData, settings: FinetuneSettings, fields: dict
) -> Iterator[ResultRow]:
    """How alike the best training models are, one checkpoint each, and their vote: what samples are held against."""
    scores = training.metrics["validation_accuracy"]
    chosen = (scores >= torch.quantile(scores, 1 - settings.top)).nonzero().flatten()
    chosen = torch.stack(
        [chosen[training.model_id[chosen] == model][-1] for model in training.model_id[chosen].unique()]
    )
    similarity = nearest_similarity(predictions[chosen], None, images.test.labels)
    fields = fields | {"method": "zoo", "variant": "best training models", "epoch": 0, "seconds": 0.0}
    yield ResultRow.of(similarity, what="nearest_sample_similarity", **fields)
    yield _vote_row(vote_accuracy(predictions[chosen], images.test.labels), len(chosen), fields)


def _vote_row(accuracy: float, voters: int, fields: dict) -> ResultRow:
    """Accuracy of one ensemble; n is the number of its networks."""
    return replace(ResultRow.of(torch.tensor([accuracy]), what="ensemble_accuracy", **fields), n=voters)


def _finetune(
    network: SmallCNNConfig,
    recipe: Recipe,
    images: ImageData,
    weights: Tensor,
    training_predictions: Tensor,
    engine: Engine,
    settings: FinetuneSettings,
    progress: tqdm,
) -> dict:
    """Accuracy after every epoch (epochs + 1, models), and similarities of the networks before fine-tuning."""
    start = time.perf_counter()
    first = FIRST_ORDER_SEED * (settings.seed + 1)
    seeds: Sequence[int] = range(first, first + len(weights))
    accuracy = []
    for result in train_population(network, recipe, images, seeds, settings.epochs, engine, weights=weights):
        accuracy.append(result.test.accuracy.tolist())
        progress.update(len(weights) if result.epoch > 0 else 0)
    labels = images.test.labels
    predictions = engine.evaluate(network, weights, images.test.pixels, labels, predictions=True).predictions
    assert predictions is not None
    return {
        "test_accuracy": accuracy,
        "nearest_training_similarity": nearest_similarity(predictions, training_predictions, labels).tolist(),
        "nearest_sample_similarity": nearest_similarity(predictions, None, labels).tolist(),
        "ensemble_accuracy": vote_accuracy(predictions, labels),
        "seconds": time.perf_counter() - start,
    }


def _outcome_rows(outcome: dict, method: str, variant: str, fields: dict) -> Iterator[ResultRow]:
    fields = fields | {"method": method, "variant": variant, "seconds": outcome["seconds"]}
    for epoch, accuracy in enumerate(outcome["test_accuracy"]):
        yield ResultRow.of(torch.tensor(accuracy), what="test_accuracy", epoch=epoch, **fields)
    for what in ("nearest_training_similarity", "nearest_sample_similarity"):
        yield ResultRow.of(torch.tensor(outcome[what]), what=what, epoch=0, **fields)
    yield _vote_row(outcome["ensemble_accuracy"], len(outcome["nearest_sample_similarity"]), fields | {"epoch": 0})


def _read_outcome(path: Path | None, key: dict) -> dict | None:
    """What an interrupted run left for this population, if it was the same population."""
    if path is None or not path.exists():
        return None
    stored = json.loads(path.read_text())
    return stored["outcome"] if stored["key"] == json.loads(json.dumps(key)) else None


def _write_outcome(path: Path | None, key: dict, outcome: dict) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"key": key, "outcome": outcome}))
    temporary.replace(path)
