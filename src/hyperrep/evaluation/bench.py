"""What experiments are made on: a representation, the zoo it learned from, images, and an engine."""

import logging
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedConfig

from ..errors import UserError
from ..files import construct
from ..images import ImageData
from ..pipeline import HyperRepPipeline, check_width
from ..population import REFRESH_IMAGES, Engine, Evaluation, Recipe, refresh_statistics
from ..representation import HyperRepModel
from ..representation.batched import decode_rows, encode_anchors, encode_rows
from ..representation.filter import Filter
from ..results import fingerprint, machine_name, versions
from ..samplers import Sampler
from ..training.data import TrainingData
from ..zoo import Zoo, ZooSplit


TESTED_AT_ONCE = 256  # networks; a multiple of those that vmap stacks

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bench:
    """A representation with all that its networks are held against.

    Args:
        model ([`HyperRepModel`])
        zoo ([`Zoo`]): the one it was trained on.
        images ([`ImageData`]): that networks are trained and tested on.
        engine ([`Engine`])
        source (`str`), revision (`str`, *optional*): what the rows call the representation.
        sampler ([`Sampler`], *optional*): the one that ships with it.
    """

    model: HyperRepModel
    zoo: Zoo
    images: ImageData
    engine: Engine
    source: str
    revision: str | None = None
    sampler: Sampler | None = None

    def check(self) -> None:
        """Whether representation, zoo and sampler belong together; a zoo of other weights is worth a warning.

        Raises:
            UserError: if the zoo's tensors have other names or shapes than the representation's, the sampler's latents
                another width, or no network has an accuracy.
        """
        check_belongs(self.model, self.zoo, self.sampler, self.source)
        if not torch.isfinite(self.training.metrics["validation_accuracy"]).any():
            raise UserError(f"zoo {self.zoo.name} has no validation accuracies, by which the best are chosen.")
        recorded = (self.model.config.zoo or {}).get("sha256")
        if recorded not in (None, self.digest):
            logger.warning(
                "the checkpoints of zoo %s are not those that %s was trained on: their SHA-256 is %s, the "
                "representation records %s.",
                *(self.zoo.name, self.source, self.digest, recorded),
            )

    @cached_property
    def network(self) -> PreTrainedConfig:
        """The architecture of the zoo's networks."""
        return self.zoo.config.network_config()

    @cached_property
    def recipe(self) -> Recipe:
        """How the zoo's networks were trained."""
        return construct(Recipe, self.zoo.config.protocol["recipe"], f"zoo {self.zoo.name}")

    @cached_property
    def seen(self) -> Filter:
        """Which checkpoints the representation was trained on."""
        return Filter.of(self.model, self.zoo)

    @cached_property
    def training(self) -> ZooSplit:
        """The checkpoints that it was trained on."""
        return self.seen.rows(self.zoo, "train")

    @cached_property
    def held_out(self) -> ZooSplit:
        """Checkpoints of the same epochs that it has not seen."""
        return self.seen.rows(self.zoo, "test")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the zoo's checkpoints, as training records it."""
        return TrainingData.from_zoo(self.zoo, self.seen.epochs, self.seen.weight_threshold).digest

    @cached_property
    def latents(self) -> Tensor:
        """Of the training checkpoints, (checkpoints, latent_size).

        Raises:
            UserError: if some are not finite.
        """
        latents = encode_anchors(self.model, self.training.weights)
        if not torch.isfinite(latents).all():
            raise UserError("the representation encodes checkpoints to NaN or infinite latents; train it again.")
        return latents

    @cached_property
    def training_answers(self) -> Tensor:
        """Classes that the training checkpoints give the test images, (checkpoints, images)."""
        return self.answers(self.training.weights)

    def answers(self, weights: Tensor) -> Tensor:
        """Classes that networks (networks, num_params) give the test images, (networks, images)."""
        predictions = self.tested(weights, predictions=True).predictions
        assert predictions is not None
        return predictions

    def tested(self, weights: Tensor, predictions: bool = False) -> Evaluation:
        """Networks (networks, num_params) on the test images."""
        test, parts = self.images.test, []
        pieces = weights.split(TESTED_AT_ONCE)
        for piece in tqdm(pieces, "testing networks", leave=False, disable=len(pieces) < 3):
            parts.append(self.engine.evaluate(self.network, piece, test.pixels, test.labels, predictions))
        return Evaluation.joined(parts)

    def refreshed(self, weights: Tensor) -> Tensor:
        """Networks that were drawn or decoded, with the running statistics of training images where they have any:
        see [`~hyperrep.population.refresh_statistics`]."""
        return refresh_statistics(self.network, weights, self.images.train.pixels[:REFRESH_IMAGES])

    def reconstructed(self, weights: Tensor) -> Tensor:
        """Networks (networks, num_params), encoded and decoded."""
        return self.refreshed(decode_rows(self.model, encode_rows(self.model, weights)))

    def pipeline(self, sampler: Sampler) -> HyperRepPipeline:
        """What generates networks by a sampler that is fitted to the representation's latents."""
        return HyperRepPipeline(self.model, sampler, self.source, self.revision)

    def fields(self, experiment: str, seed: int) -> dict[str, Any]:
        """What all rows of an experiment have in common."""
        circumstances = {
            **versions(),
            "engine": self.engine.name,
            "representation_sha256": fingerprint(self.model.state_dict()),
            "zoo_revision": self.zoo.revision,
            "zoo_sha256": self.digest,
            "images_fingerprint": self.images.fingerprint,
            "epochs_seen": self.seen.epochs,
            "weight_threshold": self.seen.weight_threshold if math.isfinite(self.seen.weight_threshold) else None,
        }
        return {
            "experiment": experiment,
            "source": self.source,
            "target": self.images.name,
            "seed": seed,
            "zoo": self.zoo.name,
            "revision": self.revision,
            "machine": machine_name(),
            "settings": circumstances,
        }


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
