"""Whether generated networks lie where a zoo's networks lie.

A decoder that is only asked for networks that answer correctly finds these anywhere: on MNIST, networks decoded from
recombined latents lay in a corner of weight space of their own, several deviations away from every network of the zoo,
while reconstructions stayed where they belong. Their mean and spread, weight by weight, tell.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class Moments:
    """Mean and standard deviation of each weight over a population, and how far another's are from them.

    Args:
        weights (`Tensor`): (networks, num_params), in the order of units in which others come; on any device.
        layer_sizes (`list[int]`): lengths of the layers' slices, which fill the vector in order.
        layer_std (`Tensor`): (num_layers,), sigma_l of the poster's loss, on the device of the others.
    """

    def __init__(self, weights: Tensor, layer_sizes: Sequence[int], layer_std: Tensor):
        device = layer_std.device
        self.mean, self.std = weights.mean(dim=0).to(device), weights.std(dim=0).to(device)
        self.scale = layer_std.repeat_interleave(torch.tensor(layer_sizes, device=device))  # (num_params,)

    def __call__(self, weights: Tensor) -> Tensor:
        """Mean over all weights of squared differences of means and of standard deviations, each divided by
        sigma_l^2, as the poster's loss is: 0 for networks of the same population, 1 for those that all lie one layer's
        deviation beside it.

        Args:
            weights (`Tensor`): (networks, num_params), two networks or more.

        Returns:
            `Tensor`: scalar. The squared difference of means is estimated without bias, so that a small batch is not
            rewarded for networks that are alike; it can be below 0.
        """
        weights = weights.float()
        variance = weights.var(dim=0)
        shift = (weights.mean(dim=0) - self.mean).square() - variance / len(weights)
        spread = (variance.clamp_min(1e-12).sqrt() - self.std).square()
        return ((shift + spread) / self.scale.square()).mean()


__all__ = ["Moments"]
