"""Every kind of sampler: what it draws, that its state is all it needs, and what it is asked for."""

import importlib.util
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import ks_2samp, spearmanr
from torch.testing import assert_close

from hyperrep.errors import UserError
from hyperrep.evaluation.populations import planned
from hyperrep.samplers import KDESampler, Sampler, new_sampler, refit, sampler_classes
from hyperrep.samplers.bandwidth import CANDIDATES, cross_validated
from hyperrep.samplers.standard import copying, dispersion
from hyperrep.samplers.velocity import VelocityNetwork, velocity_shapes


ROWS, LAYERS, NEURONS, NUMBERS = 60, 2, 6, 4  # NEURONS in all, NUMBERS each
WIDTH = NEURONS * NUMBERS
QUICK = {"gan": {"steps": 60}, "flow": {"steps": 40, "hidden_size": 16, "num_layers": 1}, "neighbor": {"map": "pca"}}
METHODS = sorted(kind.method for kind in sampler_classes() if kind.__module__.startswith("hyperrep."))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def places() -> torch.Tensor:
    neuron = torch.arange(NEURONS).repeat_interleave(NUMBERS)
    return torch.stack([neuron // (NEURONS // LAYERS), neuron], dim=1)


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.rand(ROWS, WIDTH, generator=generator(1)) * 2 - 1


def fitted(method: str, latents: torch.Tensor, **settings) -> Sampler:
    sampler = new_sampler(method, **QUICK.get(method, {}) | settings)
    return sampler.fit(latents, torch.linspace(0, 1, len(latents)), places())


def test_samplers_draw_the_same_in_another_process_which_fits_nothing(latents, tmp_path):
    samplers = {method: fitted(method, latents) for method in METHODS}
    for method, sampler in samplers.items():
        sampler.save_pretrained(tmp_path / method)
        assert {path.name for path in (tmp_path / method).iterdir()} == {"sampler_config.json", "sampler.safetensors"}
    script = """if True:
        import sys, torch
        from pathlib import Path
        from safetensors.torch import save_file
        from hyperrep.samplers import Sampler, sampler_classes
        torch.set_num_threads(int(sys.argv[2]))
        for kind in sampler_classes():
            kind._fit = None
        samplers = {folder.name: Sampler.from_pretrained(folder) for folder in Path(sys.argv[1]).iterdir()}
        drawn = {name: sampler.sample(9, torch.Generator().manual_seed(3)) for name, sampler in samplers.items()}
        save_file(drawn, sys.argv[1] + "/drawn.safetensors")
    """
    subprocess.run([sys.executable, "-c", script, str(tmp_path), str(torch.get_num_threads())], check=True)
    drawn = load_file(tmp_path / "drawn.safetensors")
    assert sorted(drawn) == METHODS
    for method, samples in drawn.items():
        assert samples.shape == (9, WIDTH)
        # tensors of a file lie elsewhere in memory, and some processors' matrix products then round another way
        assert_close(samples, samplers[method].sample(9, generator(3)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides(method, latents):
    sampler = fitted(method, latents)
    torch.manual_seed(5)
    first = sampler.sample(7, generator(2))
    torch.manual_seed(6)
    assert torch.equal(sampler.sample(7, generator(2)), first)
    assert not torch.equal(sampler.sample(7, generator(3)), first)
    again = fitted(method, latents)
    assert torch.equal(again.sample(7, generator(2)), first)  # what fitting draws comes from a setting


@pytest.mark.parametrize("method", [method for method in METHODS if method != "uniform"])
def test_the_best_or_the_worst_alone_are_drawn_from(method, latents):
    latents[: ROWS // 2] += 5
    for worst, mean in ((False, 0), (True, 5)):
        samples = fitted(method, latents, top=0.5, worst=worst).sample(200, generator())
        assert samples.mean().item() == pytest.approx(mean, abs=1)


@pytest.mark.parametrize(("variant", "groups"), [("neuron", NEURONS), ("layer", LAYERS), ("joint", 1)])
def test_a_group_keeps_its_parent_and_groups_are_independent(latents, variant, groups):
    samples = fitted("kde", latents, variant=variant, bandwidth=1e-6, top=None).sample(500, generator())
    parts = samples.unflatten(1, (groups, -1))
    anchors = latents.unflatten(1, (groups, -1))
    parents = torch.stack([torch.cdist(parts[:, i], anchors[:, i]).argmin(dim=1) for i in range(groups)], dim=1)
    for i in range(groups):
        assert_close(parts[:, i], anchors[parents[:, i], i], atol=1e-4, rtol=0)
        assert len(parents[:, i].unique()) > 0.9 * ROWS
    agree = (parents[:, :1] == parents[:, 1:]).float()
    assert groups == 1 or agree.mean() < 0.06  # one in ROWS by chance


def test_without_places_a_latent_is_one_neuron(latents):
    drawn = [
        KDESampler(variant, top=None).fit(latents).sample(20, generator()) for variant in ("neuron", "layer", "joint")
    ]
    assert torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[1], drawn[2])


def test_cross_validation_finds_the_kernel_that_fits():
    # for a normal density of n points the kernel of least risk is (4 / 3n)^(1/5) standard deviations wide (Silverman)
    points = 0.1 * torch.randn(400, 3, generator=generator())
    rule = 0.1 * (4 / (3 * 320)) ** 0.2
    found = cross_validated(points, torch.arange(3), torch.arange(400))
    assert rule / 2 < found < rule * 2
    assert found in CANDIDATES
    sampler = KDESampler(bandwidth="cv", top=None).fit(points)
    assert sampler.state["bandwidth"].item() == pytest.approx(found)
    wider = cross_validated(points, torch.zeros(3, dtype=torch.int64), torch.arange(400))
    assert wider > found  # three dimensions at once are emptier
    assert cross_validated(points, torch.arange(3), torch.zeros(400, dtype=torch.int64)) == CANDIDATES[0]


def test_nearly_equal_checkpoints_of_one_model_do_not_narrow_the_kernel():
    models = torch.randn(40, 1, 2, generator=generator())
    points = (models + 1e-4 * torch.randn(40, 5, 2, generator=generator(1))).flatten(0, 1)
    shuffled = torch.randperm(200, generator=generator(2))
    models = torch.arange(40).repeat_interleave(5)
    assert cross_validated(points[shuffled], torch.arange(2), models[shuffled]) > 0.05
    assert cross_validated(points[shuffled], torch.arange(2), torch.arange(200)) < 0.01
    sampler = KDESampler(bandwidth="cv", top=None).fit(points[shuffled], models=models[shuffled])
    assert sampler.state["bandwidth"] > 0.05


def test_a_gaussian_has_the_latents_mean_and_covariance(latents):
    latents = torch.randn(2000, 3, generator=generator()) @ torch.randn(3, WIDTH, generator=generator(1)) + 1
    latents += 0.1 * torch.randn(latents.shape, generator=generator(2))
    for variant in ("diagonal", "low_rank"):
        samples = fitted("gaussian", latents, variant=variant, rank=3, top=None).sample(20_000, generator())
        assert_close(samples.mean(0), latents.mean(0), atol=0.05, rtol=0.1)
        assert_close(samples.std(0), latents.std(0), atol=0.02, rtol=0.05)
        correlation = torch.corrcoef(samples.T) - torch.corrcoef(latents.T)
        assert (correlation.abs().max() < 0.05) == (variant == "low_rank")


def test_noise_is_as_large_as_a_share_of_each_layers_spread(latents):
    latents[:, WIDTH // 2 :] *= 10  # the second layer
    samples = fitted("noise", latents, scale=0.01, top=None).sample(400, generator())
    offsets = samples - latents[torch.cdist(samples, latents).argmin(dim=1)]
    for part in (slice(None, WIDTH // 2), slice(WIDTH // 2, None)):
        assert offsets[:, part].std().item() == pytest.approx(0.01 * latents[:, part].std().item(), rel=0.05)


def test_averages_and_interpolations_lie_between_training_networks(latents):
    assert_close(
        fitted("average", latents, count=2000, top=None).sample(3, generator()),
        latents.mean(0).expand(3, -1),
        atol=0.06,
        rtol=0,
    )
    copies = fitted("average", latents, count=1, top=None).sample(50, generator())
    assert torch.isclose(copies[:, None], latents[None]).all(dim=-1).any(dim=1).all()
    ends = torch.stack([torch.zeros(WIDTH), torch.ones(WIDTH)])
    between = fitted("interpolation", ends, top=None).sample(2000, generator())
    shares = between[:, 0][(between[:, 0] > 0) & (between[:, 0] < 1)]
    assert torch.equal(between, between[:, :1].expand_as(between))
    assert ks_2samp(shares.numpy(), torch.rand(2000, generator=generator(9)).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("kind", ["pca", "umap"])
def test_a_map_leads_back_to_where_the_latents_lie(kind):
    if kind == "umap":
        pytest.importorskip("umap", reason="umap-learn is not installed: pip install 'hyperrep[umap]'")
    surface = torch.rand(300, 3, generator=generator()) @ torch.randn(3, WIDTH, generator=generator(1))
    sampler = fitted("neighbor", surface, map=kind, neighbors=10)
    samples = sampler.sample(200, generator())
    # averages of points of a plane lie in it
    _, _, directions = torch.linalg.svd(surface, full_matrices=False)
    inside = samples @ directions[:3].T @ directions[:3]
    assert_close(inside, samples, atol=1e-3, rtol=0)
    assert not torch.isclose(samples[:, None], surface[None]).all(dim=-1).any()  # and are none of them
    one = fitted("neighbor", surface, map=kind, neighbors=1).sample(50, generator())
    assert torch.isclose(one[:, None], surface[None], atol=1e-5).all(dim=-1).any(dim=1).all()


def test_a_map_needs_some_latents(latents):
    with pytest.raises(UserError, match="2 latents make no map of 3 dimensions; 5 are needed"):
        fitted("neighbor", latents[:2], top=None)


def test_without_umap_it_says_what_to_install(latents, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(UserError, match=r"pip install 'hyperrep\[umap\]', or set map to 'pca'"):
        fitted("neighbor", latents, map="umap")


def two_clusters(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All neurons of a network are near +1, or all near -1: independent neurons would mix them. And their scores."""
    sides = torch.randint(2, (rows, 1), generator=generator(4)) * 2.0 - 1
    return sides + 0.1 * torch.randn(rows, WIDTH, generator=generator(5)), sides[:, 0]


def test_a_flow_learns_what_neurons_have_in_common_and_draws_what_is_asked_for():
    latents, scores = two_clusters(400)
    sampler = new_sampler("flow", steps=250, hidden_size=32, num_layers=2, top=None).fit(latents, scores, places())
    samples = sampler.sample(300, generator())
    sides = samples.unflatten(1, (NEURONS, -1)).mean(dim=2).sign()
    assert (sides == sides[:, :1]).all(dim=1).float().mean() > 0.6  # 0.03 if neurons were independent
    assert 0.3 < (sides[:, 0] > 0).float().mean() < 0.7
    assert 0.7 < dispersion(samples, latents) < 1.2
    asked, got = [], []
    for quantile in (0.1, 0.25, 0.75, 0.9):
        asking = refit(sampler, quantile=quantile)
        assert asking.state is sampler.state  # nothing was fitted
        asked += [quantile] * 50
        got += asking.sample(50, generator()).mean(dim=1).tolist()
    assert spearmanr(asked, got).statistic > 0.7
    assert refit(sampler, quantile=0.9, guidance=2.0).sample(50, generator()).mean() > 0.8


def test_a_flow_starts_from_what_carries_standard_noise_to_itself():
    network = VelocityNetwork(NEURONS, NUMBERS, 16, 2)
    noise, targets = torch.randn(2, 4000, NEURONS, NUMBERS, generator=generator())
    times = torch.rand(4000, generator=generator(1))
    with torch.no_grad():
        error = network(noise.lerp(targets, times[:, None, None]), times, times) - (targets - noise)
    assert error.square().mean() == pytest.approx(math.pi / 2, rel=0.01)  # none is smaller between such Gaussians
    latents = torch.rand(ROWS, NEURONS * NUMBERS, generator=generator(2))
    flow = new_sampler("flow", **QUICK["flow"]).fit(latents, torch.rand(ROWS), places())
    state = flow.fitted()
    untrained = VelocityNetwork(NEURONS, NUMBERS, flow.hidden_size, flow.num_layers).state_dict()
    for temperature in (1.0, 0.5):
        samples = replace(flow, temperature=temperature).restored(state | untrained).sample(9, generator(3))
        expected = temperature * torch.randn(9, NEURONS * NUMBERS, generator=generator(3))
        assert_close((samples - state["mean"]) / state["deviation"], expected, atol=0.01, rtol=0)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    expected = velocity_shapes(16, 2)
    assert shapes.keys() == expected.keys()
    for name, shape in shapes.items():
        assert all(size in (None, found) for size, found in zip(expected[name], shape, strict=True))


def test_a_flow_refuses_neurons_of_different_sizes(latents):
    uneven = places()
    uneven[3:, 1] += 1
    with pytest.raises(UserError, match="neurons with as many numbers each"):
        new_sampler("flow", **QUICK["flow"]).fit(latents, torch.rand(ROWS), uneven)


def test_a_gan_spreads_as_the_latents_do():
    latents = torch.randn(300, 8, generator=generator()) * torch.linspace(0.1, 2, 8) + 3
    samples = new_sampler("gan", steps=250, learning_rate=1e-3, top=None).fit(latents).sample(500, generator())
    assert 0.5 < dispersion(samples, latents) < 1.5
    assert_close(samples.mean(0), latents.mean(0), atol=0.5, rtol=0)


def test_copies_and_collapse_are_told_from_good_samples():
    train, held_out, fresh = (torch.randn(200, 5, generator=generator(seed)) for seed in range(3))
    assert abs(copying(fresh, train, held_out)) < 3
    assert copying(train[:100] + 1e-3, train, held_out) < -10
    assert copying(fresh + 3, train, held_out) > 10
    assert dispersion(fresh, train) == pytest.approx(1, abs=0.1)
    assert dispersion(fresh * 0.1, train) == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "kde", "bandwidth": "wide"}, "'wide'; it must be a number or 'cv'"),
        ({"method": "gaussian", "variant": "joint"}, "choose from diagonal, low_rank"),
        ({"method": "gaussian", "rank": 0}, "rank is 0"),
        ({"method": "noise", "scale": -1.0}, "scale is -1.0"),
        ({"method": "average", "count": 0}, "count is 0"),
        ({"method": "neighbor", "map": "tsne"}, "choose from umap, pca"),
        ({"method": "neighbor", "neighbors": 0}, "neighbors is 0"),
        ({"method": "gan", "steps": 0}, "steps is 0"),
        ({"method": "flow", "hidden_size": 20}, "multiple of 8"),
        ({"method": "flow", "quantile": 1.5}, "quantile is 1.5"),
        ({"method": "flow", "seed": -1}, "seed is -1"),
        ({"method": "flow", "sed": 1}, "no setting sed; it has"),
        ({"method": "nosie"}, "did you mean 'noise'"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        new_sampler(**settings)


@pytest.mark.parametrize("method", ["gan", "flow"])
def test_too_few_latents_are_told(method, latents):
    with pytest.raises(UserError, match="latents of 3 networks are too few"):
        fitted(method, latents[:3], top=None)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [("mean", torch.zeros(3)), ("positions", torch.zeros(2, 16)), ("inputs.weight", torch.zeros(16, 9))],
)
def test_a_velocity_of_other_latents_is_refused(latents, tmp_path, name, tensor):
    sampler = fitted("flow", latents)
    sampler.state[name] = tensor
    sampler.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="the velocity is not one of"):
        Sampler.from_pretrained(tmp_path)


def test_another_method_starts_from_its_own_settings_and_keeps_the_choice(latents):
    sampler = fitted("kde", latents, variant="joint", top=0.5, bandwidth=0.1)
    other = refit(sampler, "gaussian")
    assert other.settings() == new_sampler("gaussian", top=0.5).settings()
    assert_close(other.places, places())


def test_experiments_say_before_they_begin_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'hyperrep\[umap\]'"):
        planned(["neighbor"])


def test_tables_show_what_fits_in_seconds_unless_asked(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "umap")
    shown = {draw.sampler.method for draw in planned()}
    assert {"kde", "uniform", "gaussian", "noise", "average", "interpolation"} <= shown
    assert not shown & {"gan", "flow", "neighbor"}
    names = [(draw.method, draw.variant) for draw in planned(["neighbor", "flow", "noise-0.3"])]
    expected = [("B_N30", "0.3"), *((f"S_{kind}{share}", "") for kind in ("Flow", "Neigh") for share in ("", "30"))]
    assert sorted(names) == sorted(expected)
