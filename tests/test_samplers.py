import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import ks_2samp
from sklearn.neighbors import KernelDensity
from torch.testing import assert_close

from hyperrep.errors import UserError
from hyperrep.evaluation.populations import planned
from hyperrep.samplers import KDESampler, Sampler, UniformSampler, refit, settings_class


ROWS, WIDTH, BANDWIDTH = 40, 30, 0.01


@pytest.fixture
def latents() -> torch.Tensor:
    """Rows far apart, so that the row a sample comes from is plain to see."""
    return torch.rand(ROWS, WIDTH, generator=torch.Generator().manual_seed(1)) * 2 - 1


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def offsets(samples: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Each sample minus the training latent it lies nearest to."""
    return samples - latents[torch.cdist(samples, latents).argmin(dim=1)]


def test_as_released_is_a_training_latent_plus_one_offset_shared_by_all_dimensions(latents):
    samples = KDESampler("as_released", BANDWIDTH, top=None).fit(latents).sample(200, generator())
    difference = offsets(samples, latents)
    assert_close(difference, difference[:, :1].expand_as(difference), atol=1e-6, rtol=0)
    assert difference[:, 0].std() == pytest.approx(BANDWIDTH, rel=0.2)


def test_joint_is_a_training_latent_plus_independent_noise(latents):
    samples = KDESampler("joint", BANDWIDTH, top=None).fit(latents).sample(200, generator())
    difference = offsets(samples, latents)
    assert difference.std(dim=1).mean() == pytest.approx(BANDWIDTH, rel=0.1)
    assert difference.abs().max() < 6 * BANDWIDTH


def test_independent_keeps_marginals_and_mixes_rows(latents):
    samples = KDESampler("independent", BANDWIDTH, top=None).fit(latents).sample(4000, generator())
    distance = (samples[:, None, :] - latents[None]).abs()  # (samples, rows, width)
    assert distance.min(dim=1).values.max() < 6 * BANDWIDTH  # every entry is near some row's entry there
    sources = distance.argmin(dim=1)
    assert (torch.tensor([len(row.unique()) for row in sources[:100]]) > WIDTH / 3).all()  # of many rows at once
    assert_close(samples.mean(0), latents.mean(0), atol=0.06, rtol=0)
    assert_close(samples.std(0), latents.std(0), atol=0.06, rtol=0)


def test_only_independent_breaks_correlations():
    one = torch.rand(ROWS, 1, generator=generator(1)) * 2 - 1
    latents = torch.cat([one, -one], dim=1)
    correlation = {
        variant: torch.corrcoef(KDESampler(variant, BANDWIDTH, top=None).fit(latents).sample(2000, generator()).T)[
            0, 1
        ]
        for variant in ("independent", "joint", "as_released")
    }
    assert abs(correlation["independent"]) < 0.1
    assert correlation["joint"] < -0.99
    assert correlation["as_released"] < -0.99


@pytest.mark.parametrize("variant", ["independent", "joint", "as_released"])
def test_only_the_best_are_sampled(latents, variant):
    scores = torch.arange(ROWS).float()
    sampler = KDESampler(variant, 1e-6, top=0.25).fit(latents, scores)
    assert_close(sampler.anchors, latents[30:])
    entries = (sampler.sample(100, generator())[:, None, :] - latents[None, 30:]).abs().min(dim=1).values
    assert entries.max() < 1e-4


def test_ties_at_the_cut_stay_in(latents):
    scores = torch.tensor([1.0] * 20 + [2.0] * 20)
    assert len(KDESampler(top=0.1).fit(latents, scores).anchors) == 20


@pytest.mark.parametrize("variant", ["independent", "joint", "as_released"])
def test_the_generator_decides(latents, variant):
    sampler = KDESampler(variant).fit(latents, torch.arange(ROWS).float())
    assert_close(sampler.sample(5, generator(3)), sampler.sample(5, generator(3)), rtol=0, atol=0)
    assert not torch.equal(sampler.sample(5, generator(3)), sampler.sample(5, generator(4)))


def test_uniform_fills_the_range_of_the_bottleneck(latents):
    samples = UniformSampler().fit(latents).sample(2000, generator())
    assert samples.shape == (2000, WIDTH)
    assert samples.abs().max() < 1
    assert_close(samples.std(0), torch.full((WIDTH,), 3**-0.5), atol=0.03, rtol=0)


def test_a_saved_sampler_samples_the_same_and_holds_no_pickle(latents, tmp_path):
    sampler = KDESampler("joint", 0.05, top=0.5).fit(latents, torch.arange(ROWS).float())
    sampler.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"sampler_config.json", "sampler.safetensors"}
    assert len(load_file(tmp_path / "sampler.safetensors")["latents"]) == ROWS  # all, not the selected ones alone
    loaded = Sampler.from_pretrained(tmp_path)
    assert loaded.settings() == sampler.settings()
    assert_close(loaded.sample(7, generator()), sampler.sample(7, generator()), rtol=0, atol=0)


@pytest.mark.parametrize("rounded", [True, False])
def test_what_float16_holds_is_stored_so_and_nothing_else(latents, tmp_path, rounded):
    sampler = KDESampler().fit(latents.half().float() if rounded else latents, torch.rand(ROWS))
    sampler.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "sampler.safetensors")
    assert stored["latents"].dtype == (torch.float16 if rounded else torch.float32)
    assert stored["scores"].dtype == torch.float32
    loaded = Sampler.from_pretrained(tmp_path)
    for name, tensor in sampler.fitted().items():
        assert loaded.fitted()[name].dtype == tensor.dtype
        assert torch.equal(loaded.fitted()[name], tensor), name


@settings_class
class LineSampler(Sampler):
    """A sampler of somebody else's, in a file of its own: the mean and the first principal direction."""

    method = "line"
    state_shapes = {"mean": (None,), "direction": (None,)}

    spread: float = 1.0

    @property
    def latent_size(self) -> int:
        return len(self.fitted()["mean"])

    def _fit(self, latents, scores, places, models):
        mean = latents.mean(dim=0)
        direction = torch.linalg.svd(latents - mean, full_matrices=False).Vh[0]
        return {"mean": mean, "direction": direction}

    def _sample(self, num_samples, generator):
        along = self.spread * torch.randn(num_samples, 1, generator=generator)
        return self.fitted()["mean"] + along * self.fitted()["direction"]


def test_a_new_sampler_is_one_file_and_loading_it_fits_nothing(latents, tmp_path, monkeypatch):
    sampler = LineSampler(spread=0.5).fit(latents)
    sampler.save_pretrained(tmp_path)
    monkeypatch.setattr(LineSampler, "_fit", None)
    loaded = Sampler.from_pretrained(tmp_path)
    assert type(loaded) is LineSampler
    assert loaded.settings() == {"spread": 0.5}
    assert torch.equal(loaded.sample(7, generator()), sampler.sample(7, generator()))
    # and it stands in every table
    assert ("S_LINE", "") in [(draw.method, draw.variant) for draw in planned(spread=0.5)]
    with pytest.raises(UserError, match="it is a LineSampler, not a KDESampler"):
        KDESampler.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="keeps no latents"):
        refit(loaded, "kde")


def test_kde_draws_what_scikit_learn_draws(latents):
    """The same distribution, dimension by dimension: two-sample Kolmogorov-Smirnov."""
    ours = KDESampler("independent", 0.1, top=None).fit(latents).sample(4000, generator())
    for i in range(5):
        density = KernelDensity(kernel="gaussian", bandwidth=0.1).fit(latents[:, [i]].double().numpy())
        theirs = density.sample(4000, random_state=i)[:, 0]
        assert ks_2samp(ours[:, i].numpy(), theirs).pvalue > 1e-3
        scores = density.score_samples(ours[:, [i]].double().numpy())
        assert scores.mean() == pytest.approx(density.score_samples(theirs[:, None]).mean(), abs=0.05)


def test_refit_changes_what_is_asked_and_keeps_the_rest(latents):
    sampler = KDESampler("joint", 0.05, top=0.5).fit(latents, torch.arange(ROWS).float())
    other = refit(sampler, variant="independent", top=None)
    assert other.settings() == {**sampler.settings(), "variant": "independent"}
    assert isinstance(refit(sampler, "uniform"), UniformSampler)
    assert len(refit(sampler, top=1.0).anchors) == ROWS


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_and_scores_that_are_not_finite_are_refused(latents, value):
    scores = torch.arange(ROWS).float()
    for broken in (latents, scores):
        broken[3] = value
        with pytest.raises(UserError, match="1 of the 40"):
            KDESampler(top=None).fit(latents, scores)
        broken[3] = 0


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda z: KDESampler(top=0), "top is 0"),
        (lambda z: KDESampler(top=1.5), "top is 1.5"),
        (lambda z: KDESampler(bandwidth=0.0), "bandwidth is 0.0"),
        (lambda z: KDESampler("independant"), "'independant' is unknown; choose from independent"),
        (lambda z: KDESampler(top=0.3).fit(z), "no scores"),
        (lambda z: KDESampler(top=None).fit(z * float("nan")), "40 of the 40"),
        (lambda z: KDESampler(top=None).fit(z[:0]), "shape"),
        (lambda z: KDESampler(top=None).fit(z[0]), "shape"),
        (lambda z: KDESampler(top=None).fit(z, torch.zeros(ROWS - 1)), "shape"),
        (lambda z: KDESampler(top=float("nan")), "top is nan"),
        (lambda z: KDESampler(bandwidth=float("nan")), "bandwidth is nan"),
        (lambda z: KDESampler(bandwidth=float("inf")), "bandwidth is inf"),
        (lambda z: KDESampler(bandwidth=1e300), r"bandwidth is 1e\+300"),
        (lambda z: KDESampler(top=None).fit(z).sample(-1), "num_models is -1"),
        (lambda z: KDESampler(top=None).fit(z).sample(10**12), "num_models is 1000000000000"),
        (lambda z: KDESampler(top=None).fit(z).sample(True), "num_models is True"),
        (lambda z: KDESampler(top=None).fit(z).sample(2.5), "num_models is 2.5"),
        (lambda z: KDESampler(top=None).fit(z).sample(0), "num_models is 0"),
        (lambda z: KDESampler().sample(3), "not fitted"),
        (lambda z: KDESampler().save_pretrained("nowhere"), "not fitted"),
        (lambda z: refit(KDESampler()), "not fitted"),
        (lambda z: refit(KDESampler(top=None).fit(z), "kd"), "did you mean 'kde'"),
        (lambda z: refit(KDESampler(top=None).fit(z), "uniform", variant="joint"), "no setting variant"),
    ],
)
def test_mistakes_are_named(latents, action, message):
    with pytest.raises(UserError, match=message):
        action(latents)


def test_a_folder_that_is_no_sampler_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no sampler_config\.json"):
        Sampler.from_pretrained(tmp_path)
    (tmp_path / "sampler_config.json").write_text(json.dumps({"class_name": "KDESampler"}))
    (tmp_path / "latents.pkl").write_bytes(b"")
    with pytest.raises(UserError, match=r"no sampler.safetensors"):
        Sampler.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("sampler.safetensors", b"\x80\x04cut off", "is damaged"),
        ("sampler.safetensors", b"", "is damaged"),
        ("sampler_config.json", b'{"class_name": "k', "is damaged"),
        ("sampler_config.json", b"[1]", "holds a list"),
        ("sampler_config.json", b"{}", "names no class_name"),
        ("sampler_config.json", b'{"class_name": 3}', "names no class_name"),
        ("sampler_config.json", b'{"class_name": "KDSampler"}', "did you mean 'KDESampler'"),
        ("sampler_config.json", b'{"class_name": "KDESampler", "bandwith": 1}', "did you mean 'bandwidth'"),
        ("sampler_config.json", b'{"class_name": "KDESampler", "bandwidth": NaN}', "NaN is not a number"),
        ("sampler_config.json", b'{"class_name": "KDESampler", "bandwidth": 1e300}', "bandwidth is 1e"),
        ("sampler_config.json", b'{"class_name": "KDESampler", "bandwidth": "0.1"}', "must be a number or 'cv'"),
        ("sampler_config.json", b'{"class_name": "KDESampler", "top": true}', "'top' with value True"),
        ("sampler_config.json", b'{"class_name": "KDESampler", "top": 0}', "top is 0"),
        ("sampler_config.json", b'{"class_name": "KDESampler", "top": [0.3]}', "'top' with value"),
        ("sampler_config.json", b'{"class_name": "KDESampler", "variant": "sane"}', "choose from independent"),
        ("sampler_config.json", b'{"class_name": "UniformSampler", "variant": "joint"}', "'variant' is unknown"),
    ],
)
def test_a_damaged_sampler_is_refused(latents, tmp_path, name, content, message):
    KDESampler(top=None).fit(latents).save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        Sampler.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"scores": None}, "bandwidth, latents, models, places, scores are needed"),
        ({"scores": torch.zeros(2)}, "shape"),
        ({"scores": torch.full((3,), torch.nan)}, "NaN or infinite"),
        ({"latents": torch.full((3, 2), torch.inf)}, "NaN or infinite"),
        ({"latents": torch.zeros(0, 2), "scores": torch.zeros(0)}, "one row or more"),
        ({"latents": torch.zeros(3, 2, 1)}, "shape"),
        ({"places": torch.zeros(3, 2, dtype=torch.int64)}, "places are those of 3 numbers, latents have 2"),
        ({"places": torch.full((2, 2), -1)}, "places are those of"),
        ({"models": torch.arange(2)}, "models are those of 2 latents; there are 3"),
        ({"bandwidth": torch.zeros(1)}, "stored bandwidth is 0"),
    ],
)
def test_latents_that_cannot_be_are_refused_with_their_file(latents, tmp_path, tensors, message):
    KDESampler(top=None).fit(latents).save_pretrained(tmp_path)
    whole = {
        "latents": torch.zeros(3, 2),
        "scores": torch.zeros(3),
        "places": torch.zeros(2, 2, dtype=torch.int64),
        "models": torch.arange(3),
        "bandwidth": torch.ones(1),
    }
    changed = {name: tensor for name, tensor in (whole | tensors).items() if tensor is not None}
    save_file(changed, tmp_path / "sampler.safetensors")
    with pytest.raises(UserError, match=message) as caught:
        Sampler.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)
