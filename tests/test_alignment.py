"""Alignment: the order of a network's units does not matter, and its function stays as it is."""

import numpy as np
import pytest
import torch
from chains import NETWORKS, every_network, layout_of, outputs, random_weights
from transformers import AutoModel

from hyperrep.networks import SmallCNNConfig
from hyperrep.representation import HyperRepConfig, HyperRepModel
from hyperrep.representation.alignment import align, descend, layer_arrays, reordered
from hyperrep.weights import WeightLayout, random_permutations


@every_network
def test_align_undoes_a_random_permutation(network):
    layout = layout_of(network)
    reference = random_weights(network, 1)[0]
    indices = random_permutations(layout, 8, torch.Generator().manual_seed(5))
    permuted = reference.expand(8, -1).gather(1, indices)
    assert not torch.equal(permuted, reference.expand(8, -1))
    assert torch.equal(align(permuted, reference, layout.to_list()), reference.expand(8, -1))


@every_network
def test_align_brings_other_networks_closer_and_keeps_their_functions(network):
    layout = layout_of(network)
    weights = random_weights(network, 6)
    reference = random_weights(network, 9)[8]
    aligned = align(weights, reference, layout.to_list())
    assert ((aligned - reference).norm(dim=1) < (weights - reference).norm(dim=1)).all()
    assert torch.equal(aligned.sort(dim=1).values, weights.sort(dim=1).values)
    torch.testing.assert_close(outputs(network, aligned), outputs(network, weights), rtol=0, atol=1e-11)


@every_network
def test_the_order_that_units_came_in_does_not_matter(network):
    layout = layout_of(network)
    weights, reference = random_weights(network, 10), random_weights(network, 3)[2]
    permuted = weights.gather(1, random_permutations(layout, 10, torch.Generator().manual_seed(1)))
    aligned = align(weights, reference, layout.to_list())
    assert not torch.equal(permuted, weights)
    assert torch.equal(align(permuted, reference, layout.to_list()), aligned)
    assert torch.equal(align(aligned, reference, layout.to_list()), aligned)


def test_the_closer_of_two_ends_is_kept():
    network = NETWORKS["grey"]
    layout = layout_of(network).to_list()
    weights, reference = random_weights(network, 30), random_weights(network, 31)[30]
    goal = layer_arrays(reference.double().numpy(), layout)
    distances = {True: [], False: []}
    for vector in weights.double().numpy():
        arrays = layer_arrays(vector, layout)
        for upwards, found in distances.items():
            found.append(np.linalg.norm(reordered(arrays, descend(arrays, goal, upwards)) - reference.numpy()))
    closest = np.minimum(distances[True], distances[False])
    aligned = (align(weights, reference, layout) - reference).norm(dim=1)
    np.testing.assert_allclose(aligned, closest, rtol=1e-5)
    assert 3 < (closest < distances[True]).sum() < 27  # now the one, now the other


def test_layers_without_bias_and_networks_without_hidden_units():
    chain = WeightLayout((("a.weight", (4, 3)), ("b.weight", (5, 4)), ("b.bias", (5,)), ("c.weight", (2, 5))))
    single = WeightLayout((("a.weight", (3, 4)), ("a.bias", (3,))))
    for layout in (chain, single):
        reference = torch.randn(layout.num_params)
        permuted = reference.expand(6, -1).gather(1, random_permutations(layout, 6))
        assert torch.equal(align(permuted, reference, layout.to_list()), reference.expand(6, -1))
    assert align(torch.empty(0, chain.num_params), torch.zeros(chain.num_params), chain.to_list()).shape == (0, 47)


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ([["a.weight", [3, 2]], ["b.weight", [2, 4]]], "b.weight has 4 inputs, no multiple of the 3 units before it"),
        (layout_of(SmallCNNConfig(skips=[[0, 1, "conv"]])).to_list(), "skips.0.weight belongs to a skip"),
    ],
)
def test_layers_that_form_no_chain_are_not_aligned(layout, said):
    num_params = WeightLayout.from_list(layout).num_params
    with pytest.raises(ValueError, match=said):
        align(torch.zeros(1, num_params), torch.zeros(num_params), layout)


def test_networks_that_are_not_finite_are_not_aligned():
    layout = layout_of(NETWORKS["mlp"])
    weights = random_weights(NETWORKS["mlp"], 3)
    weights[1, 5], weights[2, 0] = torch.nan, torch.inf
    with pytest.raises(ValueError, match="2 of 3 networks hold NaN or infinite weights"):
        align(weights, weights[0], layout.to_list())


# ------------------------------------------------------------------------------------------------------- in the model


@pytest.fixture
def model() -> HyperRepModel:
    """Of aligned networks, its reference random."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "latent_size": 8}
    config = HyperRepConfig(aligned=True, initializer_range=0.3, **sizes)
    torch.manual_seed(0)
    model = HyperRepModel(config).eval()
    model.processor.reference.copy_(random_weights(NETWORKS["grey"], 3)[2])
    return model


@pytest.fixture
def twins() -> tuple[torch.Tensor, torch.Tensor]:
    """Networks, and the same with their hidden units in another order."""
    weights = random_weights(NETWORKS["grey"], 7)
    return weights, weights.gather(1, random_permutations(layout_of(NETWORKS["grey"]), 7))


def test_a_reordered_network_has_the_same_latent(model, twins, tmp_path):
    weights, permuted = twins
    latents = model.encode(weights)
    assert (model.encode(permuted, aligned=True) - model.encode(weights, aligned=True)).abs().max() > 0.01
    torch.testing.assert_close(model.encode(permuted), latents)
    torch.testing.assert_close(model.encode(model.processor.align(permuted), aligned=True), latents)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.encode(permuted), latents)
    half = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    torch.testing.assert_close(half.encode(permuted), latents, atol=0.05, rtol=0)


def test_training_takes_networks_as_they_are(model, twins):
    _, permuted = twins
    output = model(permuted)
    assert torch.equal(output.latents, model.encode(permuted, aligned=True))


def test_a_model_of_networks_as_they_came_does_not_align():
    model = HyperRepModel(HyperRepConfig(hidden_size=16, intermediate_size=16, latent_size=8)).eval()
    weights = random_weights(NETWORKS["grey"], 2)
    assert model.processor.align(weights) is weights


def test_gradients_flow_through_alignment(model, twins):
    weights, permuted = twins
    gradients = []
    for networks in (model.processor.align(weights).requires_grad_(), permuted.requires_grad_()):
        model.encode(networks).square().sum().backward()
        gradients.append(networks.grad)
    assert (gradients[1] != 0).any(dim=1).all()
    torch.testing.assert_close(gradients[0].sort(dim=1).values, gradients[1].sort(dim=1).values)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_networks_on_a_gpu_are_aligned_there(model, twins):
    weights, permuted = twins
    latents = model.encode(weights)
    on_gpu = model.to("cuda").encode(permuted.cuda())
    assert on_gpu.device.type == "cuda"
    torch.testing.assert_close(on_gpu.cpu(), latents, atol=1e-3, rtol=0)
