"""Networks whose layers follow one another, their weights and outputs: for permutations and alignment."""

import pytest
import torch

from hyperrep.networks import SmallCNNConfig, SmallCNNForImageClassification, initial_weights
from hyperrep.weights import WeightLayout


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
