"""The losses against formulas worked by hand and against slow explicit references."""

import math

import pytest
import torch

from hyperrep.representation import HyperRepConfig, HyperRepModel
from hyperrep.representation.losses import (
    layer_squared_errors,
    nt_xent,
    positive_loss,
    positive_loss_as_released,
    r_squared,
    reconstruction_loss,
)


def test_reconstruction_loss_is_the_posters_formula():
    # M = 2 networks of N = 3 weights in L = 2 layers of 2 and 1 weights; sigma = (0.5, 2)
    target = torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 4.0]])
    reconstruction = torch.tensor([[1.5, 2.0, 1.0], [0.0, -2.0, 5.0]])
    # layer 1: (0.25 + 0) / 0.25 + (0 + 1) / 0.25 = 5;  layer 2: 4 / 4 + 1 / 4 = 1.25;  all over M N = 6
    shares = reconstruction_loss(reconstruction, target, [2, 1], torch.tensor([0.5, 2.0]))
    assert shares.tolist() == pytest.approx([5 / 6, 1.25 / 6])
    assert shares.sum().item() == pytest.approx(1.0416667)


def test_reconstruction_loss_with_unit_sigma_is_the_mean_squared_error():
    target, reconstruction = torch.randn(2, 7, 10, generator=torch.Generator().manual_seed(0))
    shares = reconstruction_loss(reconstruction, target, [4, 6], torch.ones(2))
    torch.testing.assert_close(shares.sum(), torch.nn.functional.mse_loss(reconstruction, target))


def test_layers_with_small_weights_count_as_much_as_layers_with_large_ones():
    target = torch.randn(500, 20, generator=torch.Generator().manual_seed(0))
    target[:, 10:] *= 0.01
    shares = reconstruction_loss(torch.zeros_like(target), target, [10, 10], torch.tensor([1.0, 0.01]))
    assert shares.tolist() == pytest.approx([0.5, 0.5], abs=0.02)


def test_r_squared_of_perfect_mean_and_half():
    std = torch.tensor([1.0, 0.1])
    baseline = torch.tensor([8.0, 0.04])  # 8 and 4 after division by the variance
    overall, per_layer = r_squared(torch.zeros(2), baseline, std)
    assert (overall.item(), per_layer.tolist()) == (1.0, [1.0, 1.0])
    overall, per_layer = r_squared(baseline, baseline, std)
    assert (overall.item(), per_layer.tolist()) == (0.0, [0.0, 0.0])
    overall, per_layer = r_squared(torch.tensor([2.0, 0.04]), baseline, std)
    assert overall.item() == pytest.approx(1 - 6 / 12)
    assert per_layer.tolist() == pytest.approx([0.75, 0.0])


def test_layer_squared_errors_are_float32_whatever_goes_in():
    target = torch.full((1, 2), 100.0, dtype=torch.bfloat16)
    errors = layer_squared_errors(target.float() + 0.25, target, [1, 1])
    assert errors.tolist() == [0.0625, 0.0625]


def explicit_nt_xent(first, second, temperature):
    """Straight from the definition, one row and one negative at a time."""
    rows = [row / row.norm() for row in [*first, *second]]
    batch, losses = len(first), []
    for i, row in enumerate(rows):
        positive = (i + batch) % (2 * batch)
        others = [math.exp(float(row @ rows[k]) / temperature) for k in range(2 * batch) if k != i]
        losses.append(-math.log(math.exp(float(row @ rows[positive]) / temperature) / sum(others)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("batch", "temperature"), [(1, 0.1), (5, 0.1), (4, 1.0)])
def test_nt_xent_against_the_definition(batch, temperature):
    first, second = torch.randn(2, batch, 6, generator=torch.Generator().manual_seed(batch)) * 3
    expected = explicit_nt_xent(first, second, temperature)
    assert nt_xent(first, second, temperature).item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_nt_xent_keeps_a_negative_that_equals_its_row():
    # networks 0 and 1 collapsed to one point: the positive and both negatives are equally near, one chance in three
    view = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert nt_xent(view, view, 0.1).item() == pytest.approx(math.log(3))


def test_positive_loss_is_least_for_equal_directions():
    view = torch.tensor([[1.0, 2.0], [-3.0, 1.0]])
    assert positive_loss(view, 5 * view).item() == pytest.approx(0.0, abs=1e-6)
    assert positive_loss(view, -view).item() == pytest.approx(2.0)
    orthogonal = torch.tensor([[-2.0, 1.0], [1.0, 3.0]])
    assert positive_loss(view, orthogonal).item() == pytest.approx(1.0)


def test_the_released_contrast_by_hand():
    # cosines 0.6 and 0, temperature 0.1: (6^2 + 0^2 + 6^2 + 0^2) / 4 = 18 over 2B = 4 rows, and over 4 again
    first, second = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    assert positive_loss_as_released(first, second, 0.1).item() == pytest.approx(4.5)
    assert positive_loss_as_released(first, second, 0.2).item() == pytest.approx(4.5 / 4)


def test_the_released_contrast_counts_the_rows_of_all_ranks(monkeypatch):
    views = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(0))
    whole = positive_loss_as_released(*views)
    monkeypatch.setattr("hyperrep.representation.losses.world_size", lambda: 2)
    halves = [positive_loss_as_released(*views[:, rows]) for rows in (slice(0, 4), slice(4, 8))]
    torch.testing.assert_close((halves[0] + halves[1]) / 2, whole)


def test_the_released_contrast_drives_views_apart_and_the_corrected_one_together():
    def cosine_after(loss):
        first, second = torch.tensor([[1.0, 0.2]], requires_grad=True), torch.tensor([[1.0, 0.0]])
        optimizer = torch.optim.SGD([first], lr=0.01)
        for _ in range(200):
            optimizer.zero_grad()
            loss(first, second).backward()
            optimizer.step()
        return torch.cosine_similarity(first, second).item()

    assert abs(cosine_after(positive_loss_as_released)) < 0.01
    assert cosine_after(positive_loss) > 0.99


@pytest.mark.parametrize(
    ("contrast", "loss"),
    [("nt_xent", nt_xent), ("positive", positive_loss), ("positive_as_released", positive_loss_as_released)],
)
def test_the_model_uses_the_contrast_its_configuration_names(contrast, loss):
    torch.manual_seed(0)
    config = HyperRepConfig(
        layout=[["linears.0.weight", [3, 2]]],
        hidden_size=8,
        num_attention_heads=2,
        latent_size=4,
        contrast=contrast,
        initializer_range=0.5,
    )
    output = HyperRepModel(config)(torch.randn(10, 6), num_views=2)
    arguments = () if contrast == "positive" else (config.temperature,)
    torch.testing.assert_close(output.contrastive_loss, loss(*output.projections.chunk(2), *arguments))
