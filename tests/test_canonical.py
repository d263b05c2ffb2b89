"""The form of a reference, by symmetries that a trace of the network finds: signs, and networks that are no chain."""

from dataclasses import replace

import pytest
import torch
from chains import NETWORKS, layout_of
from huggingface_hub.errors import StrictDataclassClassValidationError
from tiny_zoo import tiny_network, write_tiny_zoo
from training_runs import tiny_config
from transformers import AutoModel

from hyperrep import HyperRepModel, load_zoo
from hyperrep.errors import UserError
from hyperrep.networks import SmallCNNConfig, SmallCNNForImageClassification
from hyperrep.representation import HyperRepConfig
from hyperrep.representation.canonical import canonical, graph_of
from hyperrep.training import train
from hyperrep.weights import WeightLayout


SKIPPED = {"conv_channels": [3, 3], "conv_kernel_sizes": [3, 1], "pool_sizes": [2, 1], "skips": [[1, 2, "identity"]]}


def scrambled(graph, layout, weights, seed=0):
    """Each network with its units in another order, and with other signs where these may change."""
    generator = torch.Generator().manual_seed(seed)
    rows = [layout.vectorize(graph.apply(layout.unvectorize(row), graph.random(generator))) for row in weights]
    return torch.stack(rows)


@pytest.fixture(scope="module", params=["grey", "skips"])
def case(request):
    """Configuration, layout, graph with signs, and weights of six networks."""
    network = NETWORKS["grey"] if request.param == "grey" else SmallCNNConfig(**tiny_network().to_dict() | SKIPPED)
    layout = layout_of(network)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(6, layout.num_params, generator=generator) / 3
    return network, layout, graph_of(network.to_dict(), signs=True), weights


def test_order_and_signs_that_units_came_in_do_not_matter(case):
    _, layout, graph, weights = case
    others = scrambled(graph, layout, weights)
    assert (others.sign() * weights.sign() < 0).any()
    first, second = (canonical(of, weights[5], layout.to_list(), graph) for of in (weights, others))
    assert torch.equal(first[5], weights[5])
    assert torch.equal(first, second)
    assert torch.equal(canonical(first, weights[5], layout.to_list(), graph), first)


def test_functions_stay_and_networks_come_closer_with_signs(case):
    network, layout, graph, weights = case
    without = replace(graph, signs=torch.zeros_like(graph.signs))
    plain, signed = (canonical(weights, weights[5], layout.to_list(), of) for of in (without, graph))
    distances = [(of - weights[5]).norm(dim=1) for of in (weights, plain, signed)]
    assert (distances[1] <= distances[0]).all()
    assert distances[1].sum() < distances[0].sum()
    assert distances[2].sum() < distances[1].sum()
    images = torch.rand(4, network.num_channels, network.image_size, network.image_size)
    for before, after in zip(weights, signed):
        answers = []
        for vector in (before, after):
            model = SmallCNNForImageClassification(network).eval()
            model.load_state_dict(layout.unvectorize(vector))
            answers.append(model(images).logits.detach())
        torch.testing.assert_close(*answers, atol=1e-5, rtol=1e-5)


def test_chains_come_out_as_they_do_by_alignment(digits_zoo):
    """Alignment of chains is the same descent without a graph, and much faster; trained networks come out equal."""
    from hyperrep.representation.alignment import align

    zoo = load_zoo(digits_zoo)
    weights, layout = zoo["train"].weights, zoo.config.layout
    graph = graph_of(zoo.config.network, signs=False)
    by_graph = canonical(weights, weights[-1], layout, graph)
    assert not torch.equal(by_graph, weights)
    assert torch.equal(by_graph, align(weights, weights[-1], layout))


def test_gradients_flow_through(case):
    _, layout, graph, weights = case
    weights = weights.clone().requires_grad_()
    factors = torch.arange(1.0, layout.num_params + 1)
    (canonical(weights, weights[5].detach(), layout.to_list(), graph) * factors).sum().backward()
    assert torch.equal(weights.grad.abs().sort(dim=1).values, factors.expand(6, -1))


def test_networks_that_are_not_finite_are_refused(case):
    _, layout, graph, weights = case
    broken = weights.clone()
    broken[2, 0] = torch.nan
    with pytest.raises(ValueError, match="1 of 6 networks hold NaN or infinite weights"):
        canonical(broken, weights[0], layout.to_list(), graph)


@pytest.mark.parametrize("symmetries", ["permutations", "signs"])
def test_networks_with_skips_are_aligned_learned_and_loaded(tmp_path, symmetries):
    tiny = load_zoo(write_tiny_zoo(tmp_path / "tiny"))
    network = tiny_network().to_dict() | SKIPPED
    layout = WeightLayout.of(SmallCNNForImageClassification(SmallCNNConfig.from_dict(network)))
    config = replace(tiny.config, network=network, layout=layout.to_list())
    generator = torch.Generator().manual_seed(0)
    for split in tiny.splits.values():
        split._weights = torch.randn(len(split), layout.num_params, generator=generator) / 3
    zoo = replace(tiny, config=config)
    train(tiny_config(align=True, permute=False, symmetries=symmetries), zoo, tmp_path / "model")
    model = AutoModel.from_pretrained(tmp_path / "model").eval()
    assert model.config.symmetries == symmetries
    graph = graph_of(network, signs=symmetries == "signs")
    weights = zoo["test"].weights
    others = scrambled(graph, layout, weights)
    assert not torch.equal(others, weights)
    torch.testing.assert_close(model.encode(others), model.encode(weights), atol=1e-5, rtol=0)


def test_a_model_says_which_symmetries_there_are():
    with pytest.raises(
        StrictDataclassClassValidationError,
        match="'mirror' is unknown; choose from chain, perm",
    ):
        HyperRepConfig(symmetries="mirror")


def test_a_network_that_nobody_described_is_not_aligned():
    model = HyperRepModel(HyperRepConfig(aligned=True, symmetries="signs", hidden_size=16, latent_size=8)).eval()
    with pytest.raises(UserError, match="network has model_type None"):
        model.encode(torch.zeros(1, model.config.num_params))
