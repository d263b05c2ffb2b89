"""The processor between weight vectors and neuron tokens: what goes in comes out, and what a token is."""

import pytest
import torch
from test_representation import some_weights, tiny_config, tiny_model
from tiny_zoo import tiny_layout, tiny_network
from torch import nn

from hyperrep.networks import SmallCNNForImageClassification
from hyperrep.representation import HyperRepProcessor
from hyperrep.weights.symmetry import random_permutations


def processor_of(weights: torch.Tensor, **settings) -> HyperRepProcessor:
    reference = weights[2] if settings.get("aligned") else None
    return HyperRepProcessor(tiny_config(**settings)).fit(weights, reference)


@pytest.mark.parametrize("standardize", [False, True])
def test_tokens_lead_back_to_the_weights(standardize):
    weights = 3 * some_weights(20) + 0.5
    processor = processor_of(weights, standardize_weights=standardize)
    returned = processor.decode(processor(weights))
    assert returned.dtype == torch.float32
    # subtracting a mean and adding it again rounds
    torch.testing.assert_close(returned, weights, **({} if standardize else {"rtol": 0, "atol": 0}))
    assert torch.equal(processor.decode(processor(weights[:0])), weights[:0])


def test_a_token_is_a_units_incoming_weights_and_its_bias():
    module = SmallCNNForImageClassification(tiny_network())
    weights = tiny_layout().vectorize(module.state_dict())[None]
    layers = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    tokens = processor_of(some_weights(3))(weights)
    assert len(tokens) == len(layers)
    for units, layer in zip(tokens, layers):
        for unit, weight, bias in zip(units[0], layer.weight, layer.bias, strict=True):
            assert torch.equal(unit, torch.cat([weight.flatten(), bias[None]]))


def test_standardised_tokens_have_mean_0_and_std_1_in_each_layer():
    weights = some_weights(200) * torch.linspace(0.1, 5, tiny_layout().num_params) + 2
    for units in processor_of(weights, standardize_weights=True)(weights):
        assert units.mean().item() == pytest.approx(0, abs=1e-5)
        assert units.std().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("aligned", [False, True])
def test_what_it_learns_does_not_depend_on_the_order_of_units(aligned):
    weights = some_weights(30)
    permuted = weights.gather(1, random_permutations(tiny_layout(), 30, torch.Generator().manual_seed(0)))
    one, other = processor_of(weights, aligned=aligned), processor_of(permuted, aligned=aligned)
    torch.testing.assert_close(one.layer_mean, other.layer_mean)
    torch.testing.assert_close(one.layer_std, other.layer_std)
    if aligned:
        for processor in (one, other):  # each in the order of its own reference
            torch.testing.assert_close(processor.align(weights), processor.align(permuted))


def test_a_token_list_of_another_length_is_refused():
    processor = processor_of(some_weights(3))
    with pytest.raises(ValueError, match=r"zip\(\) argument"):
        processor.decode(processor(some_weights(3))[:-1])


def test_wrong_weights_and_a_reference_that_nobody_uses_are_refused():
    processor = processor_of(some_weights(3))
    for call in (processor, processor.align, processor.fit):
        with pytest.raises(ValueError, match=r"have shape \[3, 5\]; this model reads \(batch, 119\)"):
            call(torch.zeros(3, 5))
        with pytest.raises(TypeError, match="weights are a list"):
            call([[1.0]])
    with pytest.raises(ValueError, match="set aligned in its configuration"):
        processor.fit(some_weights(3), some_weights(1)[0])


def test_it_is_the_models_own_and_part_of_its_checkpoint(tmp_path):
    weights = some_weights(20)
    model = tiny_model(aligned=True, standardize_weights=True)
    model.processor.fit(weights, weights[4])
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16).processor
    for name, tensor in model.processor.state_dict().items():
        assert loaded.state_dict()[name].dtype == torch.float32
        assert torch.equal(loaded.state_dict()[name], tensor)
    with torch.no_grad():
        by_hand = model.encoder(model.processor(model.processor.align(weights))).latents
        torch.testing.assert_close(model.encode(weights), by_hand)
        torch.testing.assert_close(model.decode(by_hand), model.processor.decode(model.decoder(by_hand).tokens))
