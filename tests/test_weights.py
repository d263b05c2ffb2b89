"""Weight vectors and the symmetries of networks: nothing here may change a function, except where it says so."""

import pytest
import torch
from chains import NETWORKS, every_network, layout_of, outputs, random_weights
from torch import nn

from hyperrep.errors import UserError
from hyperrep.networks import SmallCNNConfig, SmallCNNForImageClassification
from hyperrep.weights import WeightLayout, permutation_indices, random_permutations, verify_symmetry


@every_network
def test_unvectorize_undoes_vectorize(network):
    model = SmallCNNForImageClassification(network)
    layout = WeightLayout.of(model)
    state = {name: torch.randn_like(tensor) for name, tensor in model.state_dict().items()}
    vector = layout.vectorize(state)
    assert vector.shape == (layout.num_params,) == (model.num_parameters(),)
    back = layout.unvectorize(vector)
    assert list(back) == [name for name, _ in layout.tensors]
    assert all(torch.equal(back[name], state[name]) for name in state)


@every_network
def test_vectorize_undoes_unvectorize_whatever_the_batch_dimensions(network):
    layout = layout_of(network)
    vectors = torch.randn(2, 3, layout.num_params)
    tensors = layout.unvectorize(vectors)
    for name, shape in layout.tensors:
        assert tensors[name].shape == (2, 3, *shape)
        assert torch.equal(tensors[name][1, 2], layout.unvectorize(vectors[1, 2])[name])
    assert torch.equal(layout.vectorize(tensors), vectors)


def test_the_vector_goes_layer_by_layer_weight_then_bias_row_major():
    layout = layout_of(NETWORKS["grey"])
    tensors = layout.unvectorize(torch.arange(2464))
    assert tensors["convs.0.weight"].flatten().tolist() == list(range(200))  # 8 x 1 x 5 x 5
    assert tensors["convs.0.weight"][2, 0, 1, 3].item() == 2 * 25 + 1 * 5 + 3
    assert tensors["convs.0.bias"].tolist() == list(range(200, 208))
    assert tensors["convs.1.weight"][0, 0, 0, 0].item() == 208
    assert tensors["linears.1.bias"].tolist() == list(range(2454, 2464))
    names = ["convs.0", "convs.1", "convs.2", "linears.0", "linears.1"]
    assert [layer.name for layer in layout.layers] == names
    assert [(layer.start, layer.stop) for layer in layout.layers] == [
        (0, 208), (208, 1414), (1414, 1514), (1514, 2254), (2254, 2464)
    ]  # fmt: skip
    assert [layer.num_units for layer in layout.layers] == [8, 6, 4, 20, 10]
    assert [layer.token_size for layer in layout.layers] == [26, 201, 25, 37, 21]


def test_a_layout_survives_json():
    layout = layout_of(NETWORKS["colour"])
    assert layout.to_list()[0] == ["convs.0.weight", [8, 3, 5, 5]]
    assert WeightLayout.from_list(layout.to_list()) == layout


def test_tensors_that_do_not_fit_are_refused():
    layout = layout_of(NETWORKS["grey"])
    state = layout.unvectorize(torch.zeros(2464))
    with pytest.raises(UserError, match=r"convs\.1\.bias has shape \[5\], the layout says \[6\]"):
        layout.vectorize(state | {"convs.1.bias": torch.zeros(5)})
    with pytest.raises(UserError, match=r"linears\.0\.weight has shape \[36, 20\], the layout says \[20, 36\]"):
        layout.vectorize(state | {"linears.0.weight": torch.zeros(36, 20)})
    del state["linears.1.bias"], state["convs.0.weight"]
    with pytest.raises(UserError, match=r"lacks convs\.0\.weight, linears\.1\.bias"):
        layout.vectorize(state)
    with pytest.raises(UserError, match="have 2463 entries, the layout has 2464"):
        layout.unvectorize(torch.zeros(2463))


def test_a_tensor_of_lower_rank_than_the_layout_is_refused():
    layout = layout_of(NETWORKS["grey"])
    state = layout.unvectorize(torch.zeros(2464))
    with pytest.raises(UserError, match=r"linears\.0\.weight has shape \[36\]"):
        layout.vectorize(state | {"linears.0.weight": torch.zeros(36)})


def test_layers_need_a_weight_before_each_bias():
    with pytest.raises(UserError, match=r"'a\.bias' of shape \[3\]"):
        _ = WeightLayout((("a.bias", (3,)), ("a.weight", (3, 2)))).layers
    with pytest.raises(UserError, match=r"'norm\.weight' of shape \[3\]"):
        _ = WeightLayout((("norm.weight", (3,)),)).layers


# ------------------------------------------------------------------------------------------------- permutations


@every_network
def test_permuting_hidden_units_keeps_every_function_and_changes_every_vector(network):
    layout = layout_of(network)
    weights = random_weights(network, 12)
    indices = random_permutations(layout, 12, torch.Generator().manual_seed(3))
    permuted = weights.gather(1, indices)
    # a permutation: every entry once
    assert torch.equal(indices.sort(dim=1).values, torch.arange(layout.num_params).expand(12, -1))
    assert ((permuted != weights).float().mean(1) > 0.3).all()
    # float64 outputs; only the order of the sums differs
    torch.testing.assert_close(outputs(network, permuted), outputs(network, weights), rtol=0, atol=1e-11)


def test_a_wrong_permutation_would_be_noticed():
    """The test above has teeth: moving the rows of a layer without the next layer's columns changes the function."""
    network = NETWORKS["grey"]
    layout = layout_of(network)
    weights = random_weights(network, 4)
    indices = random_permutations(layout, 4, torch.Generator().manual_seed(3))
    second = layout.layers[1]
    indices[:, second.start :] = torch.arange(second.start, layout.num_params)
    assert (outputs(network, weights.gather(1, indices)) - outputs(network, weights)).abs().amax((1, 2)).min() > 1e-3


def test_permutations_differ_between_networks_and_follow_the_generator():
    layout = layout_of(NETWORKS["grey"])
    first = random_permutations(layout, 5, torch.Generator().manual_seed(0))
    again = random_permutations(layout, 5, torch.Generator().manual_seed(0))
    other = random_permutations(layout, 5, torch.Generator().manual_seed(1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first.unique(dim=0)) == 5


def test_permutation_indices_put_the_named_units_in_their_places():
    network = SmallCNNConfig(
        image_size=2, conv_channels=[], conv_kernel_sizes=[], pool_sizes=[], hidden_sizes=[3], num_labels=2
    )
    layout = layout_of(network)
    tensors = layout.unvectorize(torch.arange(layout.num_params))
    order = torch.tensor([[2, 0, 1]])
    permuted = layout.unvectorize(permutation_indices(layout, [order])[0])
    assert torch.equal(permuted["linears.0.weight"], tensors["linears.0.weight"][[2, 0, 1]])
    assert torch.equal(permuted["linears.0.bias"], tensors["linears.0.bias"][[2, 0, 1]])
    assert torch.equal(permuted["linears.1.weight"], tensors["linears.1.weight"][:, [2, 0, 1]])
    assert torch.equal(permuted["linears.1.bias"], tensors["linears.1.bias"])


def test_layers_that_form_no_chain_are_refused():
    layout = WeightLayout((("a.weight", (3, 2)), ("b.weight", (2, 4))))
    with pytest.raises(UserError, match="layer b has 4 inputs, no multiple of the 3 units before it"):
        random_permutations(layout, 1)


def test_a_network_without_hidden_units_has_one_order():
    layout = WeightLayout((("linears.0.weight", (3, 4)), ("linears.0.bias", (3,))))
    weights = torch.randn(5, layout.num_params)
    assert torch.equal(weights.gather(1, random_permutations(layout, 5)), weights)


# ------------------------------------------------------------------------------------------ is there a symmetry at all

IMAGES = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))


class Parallel(nn.Module):
    """Two branches that read the same: their parameters, one after the other, have the shapes of a chain."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.last((self.first(x) + self.second(x)).relu())


class OtherOrder(Parallel):
    def forward(self, x):
        return self.last(self.first(self.second(x).relu()).relu())


@every_network
def test_chains_are_symmetric(network):
    model = SmallCNNForImageClassification(network).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    verify_symmetry(layout_of(network), model, torch.rand(2, network.num_channels, *2 * [network.image_size]))
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("module", [Parallel(), OtherOrder()], ids=["parallel", "other order"])
def test_modules_that_only_look_like_a_chain_are_refused(module):
    with pytest.raises(UserError, match="changes its outputs"):
        verify_symmetry(WeightLayout.of(module), module, torch.randn(4, 6))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"skips": [[0, 1, "conv"]]}, "skips.0.weight belongs to a skip"),
        ({"skips": [[1, 2, "identity"]], "conv_channels": [4, 4, 4]}, "changes its outputs"),  # has no tensors
    ],
    ids=["conv", "identity"],
)
def test_networks_with_skips_are_refused(settings, said):
    model = SmallCNNForImageClassification(SmallCNNConfig(**settings))
    with pytest.raises(UserError, match=said):
        verify_symmetry(WeightLayout.of(model), model, IMAGES)


def test_a_layout_with_skips_is_never_permuted():
    layout = layout_of(SmallCNNConfig(skips=[[0, 1, "conv"]]))
    with pytest.raises(UserError, match=r"skips\.0\.weight belongs to a skip"):
        random_permutations(layout, 2)
