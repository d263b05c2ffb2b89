"""Weights of one architecture in another, and `hyperrep evaluate architectures`."""

import pytest
import torch
from torch.testing import assert_close

from hyperrep.errors import UserError
from hyperrep.evaluation import read_results
from hyperrep.evaluation.experiments.architectures import PUBLISHED, Architectures
from hyperrep.networks import SmallCNNConfig, initial_weights, layout_of, new_module
from hyperrep.weights import transplant


IMAGES = torch.randn(6, 1, 28, 28, generator=torch.Generator().manual_seed(0))
SOURCE = SmallCNNConfig(initializer="kaiming_uniform")


def in_new(network: SmallCNNConfig, **options) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two networks' weights, initial weights of others, and the ones in the others."""
    weights, initial = initial_weights(SOURCE, [1, 2]), initial_weights(network, [3, 4])
    return weights, initial, transplant(weights, layout_of(SOURCE), layout_of(network), initial, **options)


def tensors(network: SmallCNNConfig, weights: torch.Tensor) -> dict[str, torch.Tensor]:
    return layout_of(network).unvectorize(weights[0])


def answers(network: SmallCNNConfig, weights: torch.Tensor) -> torch.Tensor:
    module = new_module(network)
    module.load_state_dict(layout_of(network).unvectorize(weights[0]))
    return module(IMAGES).logits.detach()


def test_into_its_own_architecture_nothing_changes():
    weights, _, result = in_new(SOURCE)
    assert torch.equal(result, weights)
    assert torch.equal(in_new(SOURCE, in_order=True)[-1], weights)


def test_a_skip_that_is_zero_leaves_the_function_as_it_was():
    network = SmallCNNConfig(**SOURCE.to_dict() | PUBLISHED["3-conv + res-skip"].changes)
    weights, initial, result = in_new(network)
    num_params = layout_of(SOURCE).num_params
    assert layout_of(network).num_params == 2562
    assert torch.equal(result[:, num_params:], initial[:, num_params:])
    result[:, num_params:] = 0
    assert_close(answers(network, result), answers(SOURCE, weights), rtol=1e-5, atol=1e-5)


def test_a_wider_network_computes_the_same_where_its_new_units_are_cut_off():
    network = SmallCNNConfig(**SOURCE.to_dict() | {"conv_channels": [11, 8, 4], "hidden_sizes": [33]})
    weights, initial, result = in_new(network)
    ours, theirs, first = tensors(SOURCE, weights), tensors(network, result), tensors(network, initial)
    assert torch.equal(theirs["convs.1.weight"][:6, :8], ours["convs.1.weight"])
    assert torch.equal(theirs["convs.1.weight"][6:], first["convs.1.weight"][6:])
    assert torch.equal(theirs["convs.1.weight"][:, 8:], first["convs.1.weight"][:, 8:])
    module = new_module(network)
    module.load_state_dict(theirs)
    with torch.no_grad():  # what reads the new units reads nothing
        module.convs[1].weight[:, 8:] = 0
        module.convs[2].weight[:, 6:] = 0
        module.linears[1].weight[:, 20:] = 0
    assert_close(module(IMAGES).logits.detach(), answers(SOURCE, weights), rtol=1e-5, atol=1e-5)


def test_a_narrower_and_a_deeper_network_take_what_fits():
    network = SmallCNNConfig(**SOURCE.to_dict() | {"conv_channels": [5, 6, 4], "hidden_sizes": [20, 15]})
    weights, initial, result = in_new(network)
    ours, theirs, first = tensors(SOURCE, weights), tensors(network, result), tensors(network, initial)
    assert torch.equal(theirs["convs.0.weight"], ours["convs.0.weight"][:5])
    assert torch.equal(theirs["linears.0.weight"], ours["linears.0.weight"])
    assert torch.equal(theirs["linears.1.weight"][:10], ours["linears.1.weight"])  # by name: it was the last
    assert torch.equal(theirs["linears.2.weight"], first["linears.2.weight"])


def test_four_convolutions_take_the_whole_vector_in_order():
    how = PUBLISHED["4-conv"]
    network = SmallCNNConfig(**SOURCE.to_dict() | how.changes)
    weights, initial, result = in_new(network, in_order=how.in_order, keep=how.keep)
    theirs, first = tensors(network, result), tensors(network, initial)
    assert torch.equal(torch.cat([v.flatten() for name, v in theirs.items() if name not in how.keep]), weights[0])
    assert all(torch.equal(theirs[name], first[name]) for name in how.keep)


def test_what_does_not_fit_is_said():
    layout = layout_of(SOURCE)
    with pytest.raises(UserError, match=r"weights are \(2, 5\); \(2, 2464\) is needed"):
        transplant(torch.zeros(2, 5), layout, layout, torch.zeros(2, 2464))
    with pytest.raises(UserError, match=r"initial weights are \(1, 2464\); \(2, 2464\) is needed"):
        transplant(torch.zeros(2, 2464), layout, layout, torch.zeros(1, 2464))
    with pytest.raises(UserError, match=r"keep names 'convs\.9\.bias'"):
        in_new(SOURCE, keep=["convs.9.bias"])


def test_generated_weights_start_other_architectures(hyperrep, representation, digits_zoo, tmp_path):
    out = tmp_path / "results"
    settings = "--num-models 2 --epochs 1 --methods kde-joint"
    command = f"evaluate architectures {representation} --zoo {digits_zoo} {settings}"
    code, printed, err = hyperrep(f"{command} --output {out}")
    assert code == 0, err
    rows = read_results(out / "architectures.jsonl")
    assert {row.method for row in rows} == set(PUBLISHED)
    assert {row.variant for row in rows} >= {"random", "S_KDE30 joint", "B_KDE30 joint"}
    assert {row.epoch for row in rows} == {0, 1}
    (row,) = (row for row in rows if (row.population, row.epoch) == ("4-conv B_KDE30 joint", 1))
    assert row.settings["in_order"]
    assert row.settings["architecture"]["conv_channels"] == [8, 4, 6, 4]
    assert "4-conv + identity skip" in printed

    code, _, err = hyperrep(f'{command} --output {out}-mine --network {{"hidden_sizes":[30]}}')
    assert code == 0, err
    found = {row.population: row.mean for row in read_results(tmp_path / "results-mine" / "architectures.jsonl")}
    assert found.keys() >= {"custom random", "custom S_KDE30 joint"}


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("hidden_sizes=[3]", "is no JSON"),
        ("[3]", "is no JSON object"),
        ("{}", "is no JSON object"),
    ],
)
def test_a_network_that_is_no_json_is_refused(network, message):
    with pytest.raises(UserError, match=message):
        Architectures(network=network)


@pytest.mark.parametrize(
    ("network", "message"), [('{"width":3}', "have no 'width'"), ('{"image_size":-1}', "too small for kernels")]
)
def test_a_network_that_cannot_be_is_one_sentence(hyperrep, representation, digits_zoo, tmp_path, network, message):
    command = f"evaluate architectures {representation} --zoo {digits_zoo} --num-models 1 --output {tmp_path / 'out'}"
    code, _, err = hyperrep(f"{command} --network {network}")
    assert code == 2, err
    assert message in err
    assert "Traceback" not in err
