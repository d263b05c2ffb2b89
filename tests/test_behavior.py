"""The behavioural loss, alignment, and latents per neuron."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from hyperrep import HyperRepConfig, HyperRepModel, load_zoo
from hyperrep.population import choose_engine, population_logits
from hyperrep.representation.batched import encode_rows
from hyperrep.samplers.standard import directions, dispersion
from hyperrep.training import TrainingConfig, train
from hyperrep.training.behavior import BehavioralLoss, shuffled
from hyperrep.training.moments import Moments
from hyperrep.weights import random_permutations


SETTINGS = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "latents_per": "neuron",
    "neuron_latent_size": 2,
    "contrast_weight": 0.0,
    "align": True,
    "permute": False,
    "behavior_weight": 0.3,
    "shuffled_weight": 0.1,
    "moments_weight": 0.2,
    "behavior_images": 4,
    "batch_size": 32,
    "num_train_epochs": 4,
    "checkpoint_epochs": 1,
    "hidden_dropout_prob": 0.1,
}


@pytest.fixture
def zoo(digits_zoo):
    return load_zoo(digits_zoo)


@pytest.fixture
def behavior(zoo, digits_images) -> BehavioralLoss:
    network = zoo.config.network_config()
    config, processor = TrainingConfig.from_dict(SETTINGS), neuron_model(zoo).processor
    moments = Moments(zoo["train"].weights, processor.layer_sizes, processor.layer_std)
    return BehavioralLoss(network, digits_images.train, config, choose_engine("auto", network), moments)


def neuron_model(zoo) -> HyperRepModel:
    torch.manual_seed(0)
    config = HyperRepConfig(
        layout=zoo.config.layout,
        hidden_size=16,
        intermediate_size=16,
        latents_per="neuron",
        neuron_latent_size=2,
        contrast_weight=0.0,
        aligned=True,
    )
    return HyperRepModel(config).eval()


def test_one_latent_a_neuron(zoo):
    model = neuron_model(zoo)
    assert model.config.latent_size == 2 * 48
    latents = model.encode(zoo["test"].weights)
    assert latents.shape == (len(zoo["test"]), 96)
    assert model.decode(latents).shape == zoo["test"].weights.shape
    # a neuron's latent reaches every weight, through attention
    other = latents.clone()
    other[:, 0] += 1
    assert (model.decode(other) != model.decode(latents)).any(dim=0).float().mean() > 0.99


def test_an_aligned_model_does_not_see_the_order_of_units(zoo):
    model, weights = neuron_model(zoo), zoo["train"].weights[::7]
    model.processor.reference.copy_(weights[3])
    permuted = weights.gather(1, random_permutations(zoo.config.weight_layout(), len(weights)))
    assert not torch.equal(permuted, weights)
    assert_close(encode_rows(model, permuted), encode_rows(model, weights))


def test_alignment_is_part_of_the_checkpoint(zoo, tmp_path):
    model = neuron_model(zoo)
    model.processor.reference.copy_(torch.randn(model.config.num_params))
    model.save_pretrained(tmp_path)
    loaded = HyperRepModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert_close(loaded.processor.reference, model.processor.reference, rtol=0, atol=0)  # not rounded to bf16


def test_the_original_is_its_own_best_reconstruction(zoo, behavior):
    original = zoo["train"].weights[-4:]
    images = behavior.images[torch.arange(8)]
    same = original.clone().requires_grad_()
    loss = behavior.reconstruction(original, same, images)
    probabilities = population_logits(behavior.network, original, images.pixels, behavior.engine).softmax(-1)
    entropy = -(probabilities * probabilities.log()).sum(-1).mean()
    assert loss.item() == pytest.approx(entropy.item(), rel=1e-4)
    loss.backward()
    assert same.grad.abs().max() < 1e-6
    assert behavior.reconstruction(original, original + 0.1 * torch.randn_like(original), images) > loss


def test_shuffling_keeps_every_dimensions_values_and_mixes_networks():
    latents = torch.randn(12, 96, generator=torch.Generator().manual_seed(1))
    drawn = shuffled(latents, torch.Generator().manual_seed(0))
    assert_close(drawn.sort(dim=0).values, latents.sort(dim=0).values, rtol=0, atol=0)
    sources = (drawn[:, None, :] == latents[None]).int().argmax(dim=1)
    assert (torch.tensor([len(row.unique()) for row in sources]) > 3).all()


def test_moments_by_hand():
    weights = torch.tensor([[0.0, 0.0, 4.0], [2.0, 4.0, 4.0]])  # means 1, 2, 4; variances 2, 8, 0
    moments = Moments(torch.tensor([[0.0, 1.0, 1.0], [0.0, 3.0, 1.0]]), [2, 1], torch.tensor([2.0, 0.5]))
    shift = torch.tensor([1 - 2 / 2, 0 - 8 / 2, 9 - 0.0])  # from means 0, 2, 1, without a batch of two's own scatter
    spread = torch.tensor([2**0.5 - 0, 8**0.5 - 2**0.5, 0.0]).square()
    expected = ((shift + spread) / torch.tensor([4.0, 4.0, 0.25])).mean()
    # the zoo's networks are to be expected 2 (0 + 2) apart in the first layer, and these are 2^2 + 4^2; the second
    # layer is the same in the whole zoo
    expected = expected + 2 / 3 * (20 / 4 - 1) ** 2
    assert_close(moments(weights), expected, rtol=1e-5, atol=1e-5)


def test_a_small_batch_of_the_same_population_has_the_same_moments():
    generator = torch.Generator().manual_seed(0)
    zoo = 0.3 + 0.5 * torch.randn(4000, 50, generator=generator)
    moments = Moments(zoo, [50], torch.tensor([0.5]))
    batches = zoo[torch.randperm(4000, generator=generator)].split(16)
    mean = torch.stack([moments(batch) for batch in batches]).mean()
    # how well 16 tell the deviation, 1 / (2 (16 - 1)), and how alike distances are in 50 dimensions, 2 / 50
    assert mean == pytest.approx(1 / 30 + 2 / 50, abs=0.015)
    assert moments(zoo[:200] + 0.5) - moments(zoo[:200]) == pytest.approx(1.0, abs=0.1)
    assert moments(0.5 * zoo[:200]) > 0.3


def test_networks_on_a_line_have_not_the_moments_of_a_population():
    """Mean and variance of every weight are right, and all networks differ in one number."""
    generator = torch.Generator().manual_seed(0)
    zoo = torch.randn(1000, 50, generator=generator)
    signs = torch.randn(50, generator=generator).sign()
    line = torch.randn(1000, 1, generator=generator) * signs
    moments = Moments(zoo, [30, 20], torch.ones(2))
    assert moments(line[:200]) > moments(zoo[:200]) + 1
    assert directions(zoo[:200], zoo) == pytest.approx(1, abs=0.1)
    assert directions(line[:200], zoo) < 0.05
    assert dispersion(line, zoo) == pytest.approx(1, abs=0.1)  # which does not tell


def test_the_ensembles_share_by_hand(zoo, behavior):
    images, networks = behavior.images[torch.arange(8)], zoo["train"].weights[-4:].clone().requires_grad_()
    probabilities = population_logits(behavior.network, networks.detach(), images.pixels, behavior.engine).softmax(-1)
    correct = probabilities[:, torch.arange(8), images.labels]
    own, ensemble = -correct.log().mean(), -correct.mean(0).log().mean()
    assert own > ensemble  # networks that differ
    gradients = []
    for share in (0.0, 1e-9, 0.25, 1.0):  # the first in one pass
        behavior.config = replace(behavior.config, ensemble_share=share)
        loss = behavior.correctness(networks, images)
        assert_close(loss, (1 - share) * own + share * ensemble, rtol=1e-5, atol=1e-6)
        gradients += torch.autograd.grad(loss, networks)
    assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)
    assert_close(gradients[2], 0.75 * gradients[0] + 0.25 * gradients[3], rtol=1e-4, atol=1e-6)


def test_its_gradient_reaches_the_decoder(zoo, behavior):
    model = neuron_model(zoo).train()
    output = model(zoo["train"].weights[:8])
    losses = behavior(model, zoo["train"].weights[:8], output, 8, torch.Generator().manual_seed(0))
    terms = [losses[f"{name}_loss"] for name in ("behavior", "shuffled", "moments")]
    assert_close(losses["loss"], output.loss + 0.3 * terms[0] + 0.1 * terms[1] + 0.2 * terms[2])
    sum(terms).backward()
    assert all(parameter.grad is not None for parameter in model.decoder.parameters())


@pytest.mark.parametrize("name", ["shuffled", "behavior", "moments"])
def test_each_term_stands_alone(zoo, behavior, name):
    weights = {f"{kind}_weight": 0.0 for kind in ("behavior", "shuffled", "moments")}
    behavior.config = TrainingConfig.from_dict(SETTINGS | weights | {f"{name}_weight": 0.5})
    assert behavior.config.runs_networks
    model = neuron_model(zoo).train()
    output = model(zoo["train"].weights[:8])
    losses = behavior(model, zoo["train"].weights[:8], output, 8, torch.Generator().manual_seed(0))
    assert losses.keys() == {"loss", f"{name}_loss"}
    assert_close(losses["loss"], output.loss + 0.5 * losses[f"{name}_loss"])
    losses[f"{name}_loss"].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())  # the encoder's, too
    assert not TrainingConfig.from_dict(SETTINGS | weights).runs_networks


def test_a_run_that_died_and_was_resumed_gives_the_same_bytes(zoo, tmp_path, monkeypatch):
    config = TrainingConfig.from_dict(SETTINGS)
    train(config, zoo, tmp_path / "whole")

    steps = 0
    call = BehavioralLoss.__call__

    def dies(self, *args):
        nonlocal steps
        steps += 1
        if steps == 6:
            raise RuntimeError("the power is gone")
        return call(self, *args)

    monkeypatch.setattr(BehavioralLoss, "__call__", dies)
    with pytest.raises(RuntimeError, match="power"):
        train(config, zoo, tmp_path / "broken")
    assert not (tmp_path / "broken" / "model.safetensors").exists()
    train(config, zoo, tmp_path / "broken", resume=True)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
