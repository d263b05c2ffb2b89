"""The poster's first table: do generated networks start better, and train better, than random ones?

Populations (names of the paper): B_T is trained from scratch (the zoo's test split), B_KDE30 is drawn from a density
over the *weights* of the best 30 %, S_KDE30 from a density over their *latents*, S_U uniformly from latent space; the
number is the share of the best in per cent. S_stored is drawn from the sampler that ships with the representation,
unless that is one of the others. Beside them stand the zoo itself, its reconstructions, and how similar each generated
network is to a training model.
"""

import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedConfig

from ..errors import UserError
from ..files import construct
from ..images import ImageData
from ..pipeline import check_width
from ..population import Engine, Recipe, train_population
from ..representation import HyperRepModel
from ..representation.batched import decode_rows, encode_rows
from ..results import ResultRow, fingerprint, machine_name, versions
from ..samplers import Sampler
from ..training.data import TrainingData
from ..zoo import Zoo, ZooSplit
from .novelty import nearest_similarity, vote_accuracy
from .populations import Filter, FinetuneSettings, Population, check_memory, draw_populations, finite
from .progress import Outcome, Progress


logger = logging.getLogger(__name__)


def check_belongs(model: HyperRepModel, zoo: Zoo, sampler: Sampler | None, source: str) -> None:
    """Whether representation, zoo and sampler belong together.

    Raises:
        UserError: if the zoo's tensors have other names or shapes than the representation's, or the sampler's latents
            another width.
    """
    if zoo.config.layout != model.config.layout:
        raise UserError(f"zoo {zoo.name} holds networks of another layout than the representation {source}.")
    if sampler is not None:
        check_width(model, sampler)


def evaluate_finetune(
    model: HyperRepModel,
    zoo: Zoo,
    images: ImageData,
    engine: Engine,
    settings: FinetuneSettings,
    source: str,
    revision: str | None = None,
    progress: Progress | None = None,
    sampler: Sampler | None = None,
) -> list[ResultRow]:
    """Fine-tune every population on the zoo's images and report test accuracy after every epoch.

    Args:
        model ([`HyperRepModel`]): the representation.
        zoo ([`Zoo`]): the zoo it was trained on.
        images ([`ImageData`]): the images that zoo was trained on.
        engine ([`Engine`])
        settings ([`FinetuneSettings`])
        source (`str`), revision (`str`, *optional*): what the rows call the representation.
        progress ([`Progress`], *optional*): keeps finished populations.
        sampler ([`Sampler`], *optional*): the one that ships with the representation.

    Raises:
        UserError: if zoo, representation and sampler do not belong together, the populations would not fit into
            memory, or decoded networks are not finite.
    """
    check_belongs(model, zoo, sampler, source)
    network, recipe = zoo.config.network_config(), construct(Recipe, zoo.config.protocol["recipe"], f"zoo {zoo.name}")
    check_memory(model, images, settings)
    seen = Filter.of(model, zoo)
    training, held_out = (seen.rows(zoo, split) for split in ("train", "test"))
    if not torch.isfinite(training.metrics["validation_accuracy"]).any():
        raise UserError(f"zoo {zoo.name} has no validation accuracies, by which the best are chosen.")
    digest = TrainingData.from_zoo(zoo, seen.epochs, seen.weight_threshold).digest
    recorded = (model.config.zoo or {}).get("sha256")
    if recorded not in (None, digest):
        logger.warning(
            "the checkpoints of zoo %s are not those that %s was trained on: their SHA-256 is %s, the representation "
            "records %s.",
            *(zoo.name, source, digest, recorded),
        )
    circumstances = {
        **versions(),
        "engine": engine.name,
        "representation_sha256": fingerprint(model.state_dict()),
        "zoo_revision": zoo.revision,
        "zoo_sha256": digest,
        "images_fingerprint": images.fingerprint,
        "epochs_seen": seen.epochs,
        "weight_threshold": seen.weight_threshold if math.isfinite(seen.weight_threshold) else None,
    }
    fields = {
        "experiment": "finetune",
        "source": source,
        "target": images.name,
        "seed": settings.seed,
        "zoo": zoo.name,
        "revision": revision,
        "machine": machine_name(),
        "settings": circumstances,
    }
    rows = [*_scratch_rows(zoo, fields), *_reference_rows(model, engine, network, training, held_out, images, fields)]
    training_errors = engine.evaluate(network, training.weights, images.test.pixels, images.test.labels, True)
    assert training_errors.predictions is not None

    rows += _zoo_rows(training, training_errors.predictions, images, settings, fields)

    populations = list(draw_populations(model, training, settings, sampler))
    if progress is not None:
        progress.check([population.name for population in populations])
    total = len(populations) * settings.num_models * settings.epochs
    with tqdm(total=total, unit="model-epoch", desc="fine-tuning") as bar:
        for population in populations:
            made = circumstances | population.settings | _training_settings(zoo, settings)
            outcome = progress.read(population.name, made, settings.epochs) if progress else None
            if outcome is None:
                weights, predictions = population.weights, training_errors.predictions
                outcome = _finetune(network, recipe, images, weights, predictions, engine, settings, made, bar)
                if progress is not None:
                    progress.write(population.name, outcome)
            else:
                bar.n += settings.num_models * settings.epochs
                bar.initial = bar.n  # an honest rate counts only what this run trains
            rows.extend(_outcome_rows(outcome, population, fields))
    return rows


def _training_settings(zoo: Zoo, settings: FinetuneSettings) -> dict[str, Any]:
    """How a generated population is fine-tuned."""
    seeds = settings.order_seeds
    return {
        "num_models": settings.num_models,
        "fine_tuning_epochs": settings.epochs,
        "sampling_seed": settings.seed,
        "order_seeds": [seeds[0], seeds[-1]],
        "recipe": json.loads(json.dumps(zoo.config.protocol["recipe"])),
    }


def _scratch_rows(zoo: Zoo, fields: dict) -> Iterator[ResultRow]:
    """B_T: the zoo's test split, which was trained from scratch already; every model counts, none is filtered out."""
    test = zoo["test"]
    fields = fields | {"settings": fields["settings"] | {"epochs_seen": None, "weight_threshold": None}}
    for epoch in sorted(set(test.epoch.tolist())):
        accuracy = test.metrics["test_accuracy"][test.epoch == epoch]
        yield ResultRow.of(
            accuracy, what="test_accuracy", method="B_T", variant="", epoch=epoch, seconds=0.0, **fields
        )


def _reference_rows(
    model: HyperRepModel,
    engine: Engine,
    network: PreTrainedConfig,
    training: ZooSplit,
    held_out: ZooSplit,
    images: ImageData,
    fields: dict,
) -> Iterator[ResultRow]:
    """Accuracy of the zoo's checkpoints and of their reconstructions, training models and held-out ones."""
    for name, rows in (("training models", training), ("held-out models", held_out)):
        start = time.perf_counter()
        reconstructed = finite(decode_rows(model, encode_rows(model, rows.weights)), f"reconstructed {name}")
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
    chosen = (scores >= torch.nanquantile(scores, 1 - settings.top)).nonzero().flatten()  # False for NaN
    chosen = torch.stack(
        [chosen[training.model_id[chosen] == model][-1] for model in training.model_id[chosen].unique()]
    )
    fields = fields | {"method": "zoo", "variant": "best training models", "epoch": 0, "seconds": 0.0}
    fields |= {"settings": fields["settings"] | {"top": settings.top}}
    similarity = nearest_similarity(predictions[chosen], None, images.test.labels)
    if len(similarity):
        yield ResultRow.of(similarity, what="nearest_sample_similarity", **fields)
    yield _vote_row(vote_accuracy(predictions[chosen], images.test.labels), len(chosen), fields)


def _vote_row(accuracy: float, voters: int, fields: dict) -> ResultRow:
    """Accuracy of one ensemble; n is the number of its networks."""
    return replace(ResultRow.of(torch.tensor([accuracy]), what="ensemble_accuracy", **fields), n=voters)


def _finetune(
    network: PreTrainedConfig,
    recipe: Recipe,
    images: ImageData,
    weights: Tensor,
    training_predictions: Tensor,
    engine: Engine,
    settings: FinetuneSettings,
    record: dict[str, Any],
    bar: tqdm,
) -> Outcome:
    """Fine-tune one population; similarities are those of the networks before."""
    start = time.perf_counter()
    accuracy = []
    seeds = settings.order_seeds
    for result in train_population(network, recipe, images, seeds, settings.epochs, engine, weights=weights):
        accuracy.append(result.test.accuracy.tolist())
        bar.update(len(weights) if result.epoch > 0 else 0)
    labels = images.test.labels
    predictions = engine.evaluate(network, weights, images.test.pixels, labels, predictions=True).predictions
    assert predictions is not None
    return Outcome(
        settings=record,
        test_accuracy=accuracy,
        nearest_training_similarity=nearest_similarity(predictions, training_predictions, labels).tolist(),
        nearest_sample_similarity=nearest_similarity(predictions, None, labels).tolist(),
        ensemble_accuracy=vote_accuracy(predictions, labels),
        seconds=time.perf_counter() - start,
    )


def _outcome_rows(outcome: Outcome, population: Population, fields: dict) -> Iterator[ResultRow]:
    fields = fields | {"method": population.method, "variant": population.variant}
    fields |= {"seconds": outcome.seconds, "settings": outcome.settings}
    for epoch, accuracy in enumerate(outcome.test_accuracy):
        yield ResultRow.of(torch.tensor(accuracy), what="test_accuracy", epoch=epoch, **fields)
    fields |= {"epoch": 0}
    training, siblings = outcome.nearest_training_similarity, outcome.nearest_sample_similarity
    yield ResultRow.of(torch.tensor(training), what="nearest_training_similarity", **fields)
    if siblings:
        yield ResultRow.of(torch.tensor(siblings), what="nearest_sample_similarity", **fields)
    yield _vote_row(outcome.ensemble_accuracy, len(training), fields)
