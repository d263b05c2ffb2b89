"""Symmetries of any architecture: they keep the function, none is missed, and what is not understood is named."""

import copy

import pytest
import torch
from torch import nn
from traced_modules import MODULES, Tied

from hyperrep.errors import UserError
from hyperrep.weights import WeightGraph, match
from hyperrep.weights.matching import squared_distance


@pytest.fixture(scope="module")
def traced():
    """By name: the module in float64 with weights of which none is 0 or 1, inputs, and its graph; each made once."""
    known = {}

    def make(name):
        if name not in known:
            torch.manual_seed(0)
            module, shape = MODULES[name]()
            inputs = torch.randn(2, *shape, dtype=torch.float64)
            module = module.double().eval()
            with torch.no_grad():
                for tensor in (*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())):
                    tensor.add_(0.1 * torch.rand_like(tensor))
            known[name] = module, inputs, WeightGraph.of(module, inputs)
        return known[name]

    return make


def answers(module, state, inputs):
    output = torch.func.functional_call(module, state, (inputs,), tie_weights=False)
    return (output if isinstance(output, torch.Tensor) else output.logits).detach()


def far(first, second):
    return float((first - second).abs().max() / second.abs().max())


every_module = pytest.mark.parametrize("name", MODULES)


@every_module
def test_every_group_of_units_may_come_in_any_order(name, traced):
    module, inputs, graph = traced(name)
    state, generator = module.state_dict(), torch.Generator().manual_seed(1)
    expected = answers(module, state, inputs)
    assert graph.groups
    for group in graph.groups:
        order = graph.identity.order.clone()
        order[group] = order[group[torch.randperm(len(group), generator=generator)].roll(1, 0)]
        changed = graph.apply(state, type(graph.identity)(order, graph.identity.factors))
        if not torch.equal(order, graph.identity.order):
            assert any(not torch.equal(changed[key], state[key]) for key in state)
        assert far(answers(module, changed, inputs), expected) < 1e-9


@every_module
def test_all_symmetries_at_once_keep_the_function(name, traced):
    module, inputs, graph = traced(name)
    state = module.state_dict()
    changed = graph.apply(state, graph.random(torch.Generator().manual_seed(2), scale=0.5))
    assert far(answers(module, changed, inputs), answers(module, state, inputs)) < 1e-9
    assert not graph.notes


@every_module
def test_matching_brings_a_scrambled_copy_back(name, traced):
    module, _, graph = traced(name)
    state = module.state_dict()
    scrambled = graph.apply(state, graph.random(torch.Generator().manual_seed(3)))
    assert squared_distance(graph, scrambled, state) > 0
    found = match(graph, scrambled, state)
    assert squared_distance(graph, found, state) < 1e-20


# hidden units of each group, and members of more than one unit, counted by hand
@pytest.mark.parametrize(
    ("name", "single", "larger"),
    [
        ("MLP", [9, 6], []),
        ("poster's CNN", [8, 6, 4, 20], []),
        ("CNN with skips", [4, 4, 20], []),  # the skip ties the second map to the first
        ("ResNet-18", 3 * [64] + 3 * [128] + 3 * [256] + 3 * [512], []),
        ("ResNet-20", 5 * [4] + 4 * [8] + 3 * [16], []),  # what is padded with zeros ties the middle of the next
        ("VGG-11-BN", [4, 6, 8, 8, 10, 10, 10, 10, 12], []),
        ("ViT of transformers", [24, 20, 20] + 12 * [8], 2 * [(3, 16)]),
        ("ViT of torchvision", [16, 20, 20] + 8 * [8], 2 * [(2, 16)]),
        ("tied weights", [7], []),
        ("ResNeXt", [8, *6 * [4], *6 * [4]], 2 * [(3, 8)]),  # within each of 3 groups, and whole groups
        ("GroupNorm", 4 * [2] + 16 * [3], [(4, 2), *4 * [(4, 3)]]),
        ("ConvNeXt", [8, 12, 32, 48], []),
        ("parallel branches", [4, 5, 6, 7, 8], []),
        ("Mixer", [10, 10], []),  # and not those over places, of which each is in every channel
        ("DenseNet", [8, 8, 4, 8, 4, 8, 8, 4, 8, 4], []),
    ],
)
def test_no_symmetry_is_missed(name, single, larger, traced):
    *_, graph = traced(name)
    assert sorted(len(group) for group in graph.groups if group.shape[1] == 1) == sorted(single)
    assert sorted(tuple(group.shape) for group in graph.groups if group.shape[1] > 1) == larger


def test_signs_are_free_where_activations_are_odd_and_nothing_even_stands_behind(traced):
    """tanh after the third convolution, without a pool, and after the first linear layer: 4 + 20 units."""
    *_, graph = traced("poster's CNN")
    assert int(graph.signs.sum()) == 24
    assert not graph.scales.any()


def test_scales_are_free_before_relu(traced):
    *_, graph = traced("MLP")
    assert int(graph.signs.sum()) == 9
    assert int(graph.scales.sum()) == 6


def test_running_statistics_follow_their_units(traced):
    module, _, graph = traced("ResNet-20")
    state = module.state_dict()
    changed = graph.apply(state, graph.random(torch.Generator().manual_seed(4), signs=False))
    for norm in ("norm", "blocks.0.norm1"):
        before, after = (
            torch.stack([tensors[f"{norm}.{kind}"] for kind in ("weight", "bias", "running_mean", "running_var")])
            for tensors in (state, changed)
        )
        assert not torch.equal(before, after)
        assert sorted(map(tuple, before.T.tolist())) == sorted(map(tuple, after.T.tolist()))


def test_the_module_stays_as_it_was():
    module = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)).train()
    before = copy.deepcopy(module.state_dict())
    WeightGraph.of(module, torch.randn(3, 4))
    assert module.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in module.state_dict().items())


def test_what_is_not_understood_is_named_and_stays():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.memory, self.last = nn.Linear(6, 8), nn.LSTM(8, 5, batch_first=True), nn.Linear(5, 3)
            self.other = nn.Linear(3, 3)

        def forward(self, x):
            return self.other(self.last(self.memory(self.first(x))[0][:, -1]).relu())

    module = Recurrent()
    graph = WeightGraph.of(module, torch.randn(2, 4, 6))
    assert graph.notes == ("lstm of module 'memory' (LSTM) is not known here: what it reads stays.",)
    state = module.state_dict()
    changed = graph.apply(state, graph.random(torch.Generator().manual_seed(0)))
    moved = {key for key in state if not torch.equal(state[key], changed[key])}
    assert moved == {"last.weight", "last.bias", "other.weight"}


def test_what_looks_like_a_symmetry_and_is_none_is_dropped_and_named():
    class Twice(nn.Module):  # each unit is read twice, but not in the same order
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(8, 2)

        def forward(self, x):
            x = self.first(x).tanh()
            return self.last(torch.cat([x[:, :2], 2 * x, x[:, 2:]], dim=1))

    graph = WeightGraph.of(Twice(), torch.randn(5, 3))
    assert not graph.groups
    assert graph.notes == ("4 units of first.weight change the function when they change places.",)


def test_units_that_meet_a_constant_each_stay():
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
            self.register_buffer("importance", torch.arange(4.0))

        def forward(self, x):
            return self.last(self.first(x).relu() * self.importance)

    assert not WeightGraph.of(Weighted(), torch.randn(5, 3)).groups


def test_tied_weights_stay_tied():
    module = Tied()
    graph = WeightGraph.of(module, torch.randn(2, 12))
    state = module.state_dict()
    changed = graph.apply(state, graph.random(torch.Generator().manual_seed(0)))
    assert not torch.equal(changed["encoder.weight"], state["encoder.weight"])
    assert torch.equal(changed["encoder.weight"], changed["second.weight"])


def test_a_module_that_cannot_be_traced_is_refused_in_a_sentence():
    class Undecided(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match=r"Undecided cannot be traced by torch\.export"):
        WeightGraph.of(Undecided(), torch.randn(2, 3))
    with pytest.raises(UserError, match="cannot be traced"):
        WeightGraph.of(nn.Linear(3, 2), torch.randn(2, 7))


def test_another_network_is_not_permuted():
    graph = WeightGraph.of(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(2, 3))
    state = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).state_dict()
    with pytest.raises(UserError, match=r"0\.weight has shape \[5, 3\], the module's had \[4, 3\]"):
        graph.apply(state, graph.identity)


def test_a_state_dict_of_other_names_is_not_taken_for_one_that_needs_no_change():
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    graph = WeightGraph.of(module, torch.randn(2, 3))
    state = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    for given in (state, {name: tensor for name, tensor in module.state_dict().items() if name != "2.weight"}):
        with pytest.raises(UserError, match=r"weight is missing \(. of 4 tensors are\); there are "):
            graph.apply(given, graph.identity)
    with pytest.raises(UserError, match="missing"):
        match(graph, module.state_dict(), state)


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel], ids=["compiled", "data parallel"])
def test_it_is_the_module_inside_that_counts(wrap):
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    graph = WeightGraph.of(wrap(module), torch.randn(2, 3))
    assert [len(group) for group in graph.groups] == [4]
    graph.apply(module.state_dict(), graph.identity)


def test_inputs_may_be_whole_numbers_and_modules_of_half_precision():
    module = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).bfloat16()
    graph = WeightGraph.of(module, torch.randint(9, (2, 5)))
    assert [len(group) for group in graph.groups] == [6]
    assert module[1].weight.dtype == torch.bfloat16
