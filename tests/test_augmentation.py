"""Views: permutations keep the function, erasing has the published statistics."""

import pytest
import torch
from tiny_zoo import tiny_layout, tiny_network

from hyperrep.errors import UserError
from hyperrep.networks import SmallCNNConfig, SmallCNNForImageClassification, initial_weights
from hyperrep.weights import WeightLayout
from hyperrep.weights.augmentation import Augmentation, augment, corrupt, permute


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("network", [tiny_network(), SmallCNNConfig(num_channels=3)], ids=["tiny", "poster"])
def test_permutation_keeps_every_networks_function(network):
    module = SmallCNNForImageClassification(network).eval()
    layout = WeightLayout.of(module)
    weights = initial_weights(network, [1, 2, 3]) - 0.4  # U(0, 1) alone saturates every tanh
    permuted = augment(weights, layout, Augmentation(erase_prob=0.0), generator())
    assert (permuted != weights).float().mean() > 0.5
    images = torch.randn(7, network.num_channels, network.image_size, network.image_size, generator=generator(1))
    for before, after in zip(weights, permuted, strict=True):
        logits = [
            torch.func.functional_call(module, layout.unvectorize(vector), (images,)).logits
            for vector in (before, after)
        ]
        torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-5)


def test_every_network_of_a_batch_is_permuted_differently():
    layout = tiny_layout()
    permuted = permute(torch.arange(layout.num_params).repeat(8, 1).float(), layout, generator())
    assert len(permuted.unique(dim=0)) == 8
    assert (permuted.sort(dim=1).values == torch.arange(layout.num_params)).all()


def test_erasing_statistics():
    settings = Augmentation(permute=False)
    erased = corrupt(torch.ones(20_000, 500), settings, generator()) == 0
    hit = erased.any(dim=1)
    # a block fits with probability 1 - E[length] = 0.825 at each of ten attempts: nearly all of the half are erased
    assert hit.float().mean().item() == pytest.approx(0.5, abs=0.015)
    lengths = erased[hit].sum(dim=1)
    assert lengths.min() >= 0.02 * 500 - 1
    assert lengths.max() <= 0.33 * 500
    # longer blocks are drawn again more often, so the mean lies a little below that of U(0.02, 0.33):
    # E[length (1 - length)] / E[1 - length] = 0.1653
    assert lengths.float().mean().item() / 500 == pytest.approx(0.1653, abs=0.003)
    # one contiguous block: one rise and one fall
    edges = erased[hit].int().diff(dim=1).abs().sum(dim=1) + erased[hit][:, 0].int()
    assert (edges == 2).all()


def test_a_block_that_never_fits_leaves_the_vector_whole():
    settings = Augmentation(permute=False, erase_prob=1.0, erase_scale=(1.0, 1.0))
    assert (corrupt(torch.ones(50, 100), settings, generator()) == 1).all()


def test_noise_has_its_standard_deviation():
    weights = torch.full((100, 1000), 2.0)
    added = corrupt(weights, Augmentation(erase_prob=0.0, additive_noise=0.1), generator()) - weights
    multiplied = corrupt(weights, Augmentation(erase_prob=0.0, multiplicative_noise=0.1), generator()) / weights
    assert added.std().item() == pytest.approx(0.1, rel=0.02)
    assert multiplied.std().item() == pytest.approx(0.1, rel=0.02)
    assert multiplied.mean().item() == pytest.approx(1.0, abs=0.002)


def test_a_view_follows_from_its_generator_and_leaves_the_weights_alone():
    layout = tiny_layout()
    weights = torch.randn(6, layout.num_params, generator=generator())
    before = weights.clone()
    settings = Augmentation(additive_noise=0.1)
    first, again, other = (augment(weights, layout, settings, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(weights, before)


@pytest.mark.parametrize(
    "settings", [{"erase_prob": 1.5}, {"erase_scale": (0.5, 0.2)}, {"additive_noise": -1.0}], ids=str
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(UserError):
        Augmentation(**settings)
