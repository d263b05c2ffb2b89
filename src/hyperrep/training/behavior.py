"""The behavioural loss: decoded networks are run on images, because a small error in weights can be a large one in
what a network does.

*Reconstructions* shall answer as their originals do. And networks decoded from latents that no training network has
shall answer correctly; without such a term, samples of a density are at chance. These latents are *shuffled*: each
dimension is taken from another network of the batch, every value once. They shall lie where the zoo's networks lie,
too, and not in a corner of weight space that the decoder keeps for them ([`Moments`]).
"""

import math

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..images import ImageSplit
from ..networks import num_classes
from ..population import Engine, population_answers, population_cross_entropy, population_logits
from ..representation import HyperRepModel, HyperRepOutput
from .config import TrainingConfig
from .moments import Moments


class BehavioralLoss:
    """Adds the terms to a step's loss.

    Args:
        network (`PreTrainedConfig`): architecture of the zoo's networks.
        images ([`ImageSplit`]): training images of the zoo.
        config ([`TrainingConfig`]): weights of the terms, and images a step.
        engine ([`Engine`]): runs the decoded networks.
        moments ([`Moments`]): of the training networks, aligned.
    """

    def __init__(
        self,
        network: PreTrainedConfig,
        images: ImageSplit,
        config: TrainingConfig,
        engine: Engine,
        moments: Moments,
    ):
        self.network = network
        self.images = images
        self.config = config
        self.engine = engine
        self.moments = moments

    def __call__(
        self,
        model: HyperRepModel,
        originals: Tensor,
        output: HyperRepOutput,
        count: int,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """The terms, and the loss with them.

        Args:
            model ([`HyperRepModel`])
            originals (`Tensor`): (num_views * batch, num_params), what was encoded, before erasing and noise.
            output ([`HyperRepOutput`]): of the model on their views.
            count (`int`): the batch size; the first view is enough.
            generator (`torch.Generator`): decides images and latents.

        Returns:
            `dict[str, Tensor]`: scalars: `loss`, and before its weight each term that has one.
        """
        assert output.loss is not None
        assert output.reconstruction is not None
        assert output.latents is not None
        index = torch.randint(
            len(self.images), (self.config.behavior_images,), generator=generator, device=generator.device
        )
        images = self.images[index.to(self.images.labels.device)]
        config, loss, terms = self.config, output.loss, {}
        if config.behavior_weight:
            terms["behavior"] = self.reconstruction(originals[:count], output.reconstruction[:count], images)
        if config.shuffled_weight or config.moments_weight:
            decoded = model.decode(shuffled(output.latents[:count], generator))
            if config.shuffled_weight:
                terms["shuffled"] = self.correctness(decoded, images)
            if config.moments_weight:
                terms["moments"] = self.moments(decoded)
        for name, term in terms.items():
            loss = loss + getattr(config, f"{name}_weight") * term
        return {"loss": loss, **{f"{name}_loss": term for name, term in terms.items()}}

    def reconstruction(self, original: Tensor, reconstruction: Tensor, images: ImageSplit) -> Tensor:
        """Cross-entropy between the outputs of the original networks and of their reconstructions.

        Args:
            original, reconstruction (`Tensor`): (batch, num_params).
            images ([`ImageSplit`])

        Returns:
            `Tensor`: scalar, in nats; its floor is the originals' entropy.
        """
        targets = population_logits(self.network, original, images.pixels, self.engine).softmax(-1)
        return population_cross_entropy(self.network, reconstruction, images.pixels, targets, self.engine).mean()

    def correctness(self, decoded: Tensor, images: ImageSplit) -> Tensor:
        """Cross-entropy of networks (batch, num_params) with the labels, in nats: the mean of each network's own and,
        by its share, that of their mean probabilities, of the ensemble. The second is smaller, the less alike their
        errors are: negative correlation learning (Liu and Yao, 1999)."""
        share = self.config.ensemble_share
        if not share:  # loss and gradient in one pass
            labels = nn.functional.one_hot(images.labels, num_classes(self.network)).float()  # (images, classes)
            targets = labels.expand(len(decoded), -1, -1)
            return population_cross_entropy(self.network, decoded, images.pixels, targets, self.engine).mean()
        answers = population_answers(self.network, decoded, images.pixels, self.engine).log_softmax(-1)
        correct = answers[:, torch.arange(len(images.labels)), images.labels]  # (networks, images)
        ensemble = correct.logsumexp(dim=0) - math.log(len(decoded))
        return -((1 - share) * correct.mean() + share * ensemble.mean())


def shuffled(latents: Tensor, generator: torch.Generator) -> Tensor:
    """Each dimension of latents (batch, latent_size) permuted on its own across the batch."""
    keys = torch.rand(latents.shape, generator=generator, device=latents.device)
    return latents.gather(0, keys.argsort(dim=0))


__all__ = ["BehavioralLoss", "shuffled"]
