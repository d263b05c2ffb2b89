"""Whether generated networks lie where a zoo's networks lie.

A decoder that is only asked for networks that answer correctly finds these anywhere: on MNIST, networks decoded from
recombined latents lay in a corner of weight space of their own, several deviations away from every network of the zoo,
while reconstructions stayed where they belong. Their mean and spread, weight by weight, tell. And a decoder that is
asked for mean and spread alone has all networks on one line through the zoo, on which every weight has its variance:
on digits, more than half of it was along one direction. The distances of pairs tell: on a line they are all different,
in a zoo almost the same.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class Moments:
    """Mean and standard deviation of each weight over a population, the distances of its networks from one another,
    and how far another population's are from them.

    Args:
        weights (`Tensor`): (networks, num_params), in the order of units in which others come; on any device.
        layer_sizes (`Sequence[int]`): lengths of the layers' slices, which fill the vector in order.
        layer_std (`Tensor`): (num_layers,), sigma_l of the poster's loss, on the device of the others.
    """

    def __init__(self, weights: Tensor, layer_sizes: Sequence[int], layer_std: Tensor):
        device = layer_std.device
        self.mean, self.std = weights.mean(dim=0).to(device), weights.std(dim=0).to(device)
        self.layer_sizes = list(layer_sizes)
        self.scale = layer_std.repeat_interleave(torch.tensor(self.layer_sizes, device=device))  # (num_params,)
        # of two networks in each layer, the squared distance that is to be expected
        self.apart = [2 * std.square().sum() for std in self.std.split(self.layer_sizes)]

    def __call__(self, weights: Tensor) -> Tensor:
        """Two things, 0 each for networks of the same population, up to what a small batch tells.

        Mean over all weights of squared differences of means and of standard deviations, each divided by sigma_l^2, as
        the poster's loss is: 1 for networks that all lie one layer's deviation beside it. And the mean over all pairs
        of networks of (d^2 / e^2 - 1)^2, d^2 their squared distance in a layer and e^2 the one to be expected; layers
        by their share of the weights.

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
        return ((shift + spread) / self.scale.square()).mean() + self._pairs(weights)

    def _pairs(self, weights: Tensor) -> Tensor:
        first, second = torch.triu_indices(len(weights), len(weights), offset=1, device=weights.device)
        total = weights.new_zeros(())
        for layer, apart in zip((weights - self.mean).split(self.layer_sizes, dim=1), self.apart):
            if apart > 0:  # else it is the same in all networks
                products = layer @ layer.T
                squares = products.diagonal()
                distances = squares[first] + squares[second] - 2 * products[first, second]
                total = total + layer.shape[1] * (distances / apart - 1).square().mean()
        return total / weights.shape[1]


__all__ = ["Moments"]
