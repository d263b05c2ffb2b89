"""The behavioural loss: decoded networks are run on images, because a small error in weights can be a large one in
what a network does.

Two terms. *Reconstructions* shall answer as their originals do. Networks decoded from *shuffled* latents, each
dimension taken from another network of the batch, shall answer correctly: these are the latents that a density with
independent dimensions draws, and no training network has them.
"""

import torch
from torch import Tensor, nn

from ..images import ImageSplit
from ..networks import SmallCNNConfig
from ..population import Engine, population_cross_entropy, population_logits
from ..representation import HyperRepModel


class BehavioralLoss:
    """Args:
    network ([`SmallCNNConfig`]): architecture of the zoo's networks.
    images ([`ImageSplit`]): training images of the zoo.
    num_images (`int`): images a step.
    engine ([`Engine`])
    """

    def __init__(self, network: SmallCNNConfig, images: ImageSplit, num_images: int, engine: Engine):
        self.network = network
        self.images = images
        self.num_images = min(num_images, len(images))
        self.engine = engine

    def draw(self, generator: torch.Generator) -> ImageSplit:
        """The images of one step."""
        index = torch.randint(len(self.images), (self.num_images,), generator=generator, device=generator.device)
        return self.images[index.to(self.images.labels.device)]

    def reconstruction(self, original: Tensor, reconstruction: Tensor, images: ImageSplit) -> Tensor:
        """Cross-entropy between the outputs of the original networks and of their reconstructions.

        Args:
            original, reconstruction (`Tensor`): (batch, num_params).
            images ([`ImageSplit`]): of [`draw`].

        Returns:
            `Tensor`: scalar, in nats; its floor is the originals' entropy.
        """
        targets = population_logits(self.network, original, images.pixels, self.engine).softmax(-1)
        return population_cross_entropy(self.network, reconstruction, images.pixels, targets, self.engine).mean()

    def shuffled(
        self, model: HyperRepModel, latents: Tensor, images: ImageSplit, generator: torch.Generator
    ) -> Tensor:
        """Cross-entropy with the labels of networks decoded from latents shuffled per dimension across the batch."""
        keys = torch.rand(latents.shape, generator=generator, device=latents.device)
        decoded = model.decode(latents.gather(0, keys.argsort(dim=0)))
        labels = nn.functional.one_hot(images.labels, self.network.num_labels).float()  # (images, classes)
        targets = labels.expand(len(decoded), -1, -1)
        return population_cross_entropy(self.network, decoded, images.pixels, targets, self.engine).mean()


__all__ = ["BehavioralLoss"]
