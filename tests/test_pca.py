import pytest
import torch
from sklearn.decomposition import PCA
from tiny_zoo import tiny_layout, write_tiny_zoo
from torch.testing import assert_close
from training_runs import one_thread, tiny_config  # noqa: F401

from hyperrep import HyperRepConfig, HyperRepModel
from hyperrep.errors import UserError
from hyperrep.representation.pca import initialize_by_pca, principal_components
from hyperrep.training import train


def population(rows: int = 200) -> torch.Tensor:
    """Weights with correlations inside a neuron, and layers of different scales."""
    generator = torch.Generator().manual_seed(0)
    layout = tiny_layout()
    mixed = torch.randn(rows, layout.num_params, generator=generator)
    mixed[:, 1:] += 0.8 * mixed[:, :-1]
    return mixed * torch.linspace(0.1, 3, layout.num_params) + 0.2


def model_of(weights: torch.Tensor, **settings) -> HyperRepModel:
    torch.manual_seed(0)
    settings = {"hidden_size": 48, "standardize_weights": True, "latents_per": "neuron"} | settings
    model = HyperRepModel(HyperRepConfig(layout=tiny_layout().to_list(), contrast_weight=0.0, **settings)).eval()
    model.processor.fit(weights)
    return model


@pytest.mark.parametrize("standardize", [True, False])
def test_a_model_starts_as_the_principal_component_analysis_of_each_layers_neurons(standardize):
    weights, count = population(), 3
    model = model_of(weights, neuron_latent_size=count, standardize_weights=standardize)
    initialize_by_pca(model, weights)
    with torch.no_grad():
        latents = model.encode(weights)
        linear = model.decode(latents.atanh())  # what tanh did, undone

    layers = zip(
        model.processor(weights),
        model.processor(linear),
    )
    for neurons, reconstruction in layers:
        rows = neurons.flatten(0, 1)
        pca = PCA(count).fit(rows)
        expected = torch.from_numpy(pca.inverse_transform(pca.transform(rows.numpy())))
        assert_close(reconstruction.flatten(0, 1), expected.float(), atol=1e-3, rtol=1e-3)


def test_latents_start_where_tanh_is_nearly_linear():
    weights = population()
    model = model_of(weights, neuron_latent_size=4)
    initialize_by_pca(model, weights)
    with torch.no_grad():
        latents = model.encode(weights)
        error = (model.decode(latents) - model.decode(latents.atanh())).square().mean()
    assert latents.unflatten(1, (-1, 4)).flatten(0, 1).std(0).max() < 0.3
    assert error < 0.03 * weights.square().mean()


def test_neurons_with_fewer_weights_than_latent_dimensions_come_back_whole():
    weights = population()
    model = model_of(weights, neuron_latent_size=40)  # the largest neuron has 13 weights
    initialize_by_pca(model, weights)
    with torch.no_grad():
        assert_close(model.decode(model.encode(weights).atanh()), weights, atol=2e-3, rtol=2e-3)


def test_directions_without_variance_are_left_out():
    rows = torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 3.0], [3.0, 6.0, 3.0]])
    mean, components, deviations = principal_components(rows, 3)
    assert_close(mean, torch.tensor([2.0, 4.0, 3.0]))
    assert_close(components.abs(), torch.tensor([[1.0, 2.0, 0.0]]) / 5**0.5)
    assert_close(deviations, torch.tensor([(10 / 3) ** 0.5]))


def test_training_starts_from_it(tmp_path):
    tiny_zoo = write_tiny_zoo(tmp_path / "zoo")
    settings = {"latents_per": "neuron", "neuron_latent_size": 8, "num_train_epochs": 1, "learning_rate": 1e-6}
    settings |= {"permute": False, "erase_prob": 0.0, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    r2 = {}
    for pca_init in (False, True):
        config = tiny_config(**settings, pca_init=pca_init)
        r2[pca_init] = train(config, tiny_zoo, tmp_path / str(pca_init))["test"]["r2"]
    assert r2[False] < 0.1
    assert r2[True] > 0.8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latents_per": "network"}, "set latents_per neuron"),
        ({"hidden_size": 8, "neuron_latent_size": 16}, "hidden_size 8 is below neuron_latent_size 16"),
    ],
)
def test_settings_that_leave_no_room_for_components(settings, message):
    weights = population(20)
    with pytest.raises(UserError, match=message):
        initialize_by_pca(model_of(weights, **settings), weights)
