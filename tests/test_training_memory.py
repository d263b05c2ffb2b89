"""What a model needs is known before it is made."""

import pytest
from tiny_zoo import tiny_layout
from training_runs import tiny_config

from hyperrep.representation import HyperRepModel
from hyperrep.training.memory import num_parameters


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"latents_per": "neuron", "neuron_latent_size": 3, "contrast_weight": 0.0},
        {"num_hidden_layers": 3, "projection_num_layers": 0},
        {"projection_num_layers": 3, "latents_per": "neuron"},
    ],
)
def test_parameters_are_counted_without_making_the_model(settings):
    config = tiny_config(**settings).model_config(layout=tiny_layout().to_list())
    assert num_parameters(config) == HyperRepModel(config).num_parameters()
