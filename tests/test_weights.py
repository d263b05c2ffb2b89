"""Weight vectors and the symmetries of networks: nothing here may change a function, except where it says so."""

import pytest
import torch

from hyperrep.errors import UserError
from hyperrep.networks import SmallCNNConfig, SmallCNNForImageClassification, initial_weights
from hyperrep.weights import WeightLayout, align, permutation_indices, random_permutations


NETWORKS = {
    "grey": SmallCNNConfig(initializer="kaiming_uniform"),
    "colour": SmallCNNConfig(num_channels=3, hidden_act="gelu", initializer="kaiming_uniform"),
    "mlp": SmallCNNConfig(
        image_size=6,
        conv_channels=[],
        conv_kernel_sizes=[],
        pool_sizes=[],
        hidden_sizes=[9, 7],
        initializer="kaiming_uniform",
    ),
    # no fully connected hidden layer, and maps that are flattened into blocks of 3 x 3
    "one linear": SmallCNNConfig(
        image_size=8,
        conv_channels=[5],
        conv_kernel_sizes=[3],
        pool_sizes=[2],
        hidden_sizes=[],
        initializer="kaiming_uniform",
    ),
}
every_network = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)


def layout_of(network: SmallCNNConfig) -> WeightLayout:
    return WeightLayout.of(SmallCNNForImageClassification(network))


def random_weights(network: SmallCNNConfig, models: int) -> torch.Tensor:
    """Trained-looking weights: biases differ too, so that a misplaced one shows."""
    generator = torch.Generator().manual_seed(models)
    weights = initial_weights(network, list(range(models)))
    return weights + 0.1 * torch.randn(weights.shape, generator=generator)


def outputs(network: SmallCNNConfig, weights: torch.Tensor) -> torch.Tensor:
    """Logits (models, images, classes) of weight vectors, by plain PyTorch, in float64."""
    images = torch.randn(
        6,
        network.num_channels,
        network.image_size,
        network.image_size,
        generator=torch.Generator().manual_seed(1),
        dtype=torch.float64,
    )
    model = SmallCNNForImageClassification(network).double().eval()
    layout = WeightLayout.of(model)
    rows = []
    for vector in weights.double():
        model.load_state_dict(layout.unvectorize(vector))
        rows.append(model(images).logits.detach())
    return torch.stack(rows)


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


# ----------------------------------------------------------------------------------------------------- alignment


@every_network
def test_align_undoes_a_random_permutation(network):
    layout = layout_of(network)
    reference = random_weights(network, 1)[0]
    indices = random_permutations(layout, 8, torch.Generator().manual_seed(5))
    permuted = reference.expand(8, -1).gather(1, indices)
    assert not torch.equal(permuted, reference.expand(8, -1))
    assert torch.equal(align(permuted, reference, layout), reference.expand(8, -1))


@every_network
def test_align_brings_other_networks_closer_and_keeps_their_functions(network):
    layout = layout_of(network)
    weights = random_weights(network, 6)
    reference = random_weights(network, 9)[8]
    aligned = align(weights, reference, layout)
    assert ((aligned - reference).norm(dim=1) < (weights - reference).norm(dim=1)).all()
    assert torch.equal(aligned.sort(dim=1).values, weights.sort(dim=1).values)
    torch.testing.assert_close(outputs(network, aligned), outputs(network, weights), rtol=0, atol=1e-11)


def test_a_network_without_hidden_units_has_one_order():
    layout = WeightLayout((("linears.0.weight", (3, 4)), ("linears.0.bias", (3,))))
    weights = torch.randn(5, layout.num_params)
    assert torch.equal(weights.gather(1, random_permutations(layout, 5)), weights)
    assert torch.equal(align(weights, weights[0], layout), weights)
