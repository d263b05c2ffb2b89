"""Generated networks: the same in any company, how near they are to training networks, the best of many."""

import json

import pytest
import torch
from torch.testing import assert_close

from hyperrep.errors import UserError
from hyperrep.images import load_images
from hyperrep.pipeline import nearest_anchors, seeded
from hyperrep.population import choose_engine
from hyperrep.representation.batched import ROWS, decode_rows, encode_rows
from hyperrep.samplers import refit
from hyperrep.zoo import get_protocol


def test_a_network_has_the_same_bytes_in_any_company(pipe):
    latents = pipe.sampler.sample(2 * ROWS["cpu"] + 5, seeded(0))
    weights = decode_rows(pipe.model, latents)
    for rows in (slice(0, 1), slice(3, 10), slice(ROWS["cpu"] + 1, None)):
        assert torch.equal(decode_rows(pipe.model, latents[rows]), weights[rows])
    assert torch.equal(encode_rows(pipe.model, weights[7:9]), encode_rows(pipe.model, weights)[7:9])
    assert decode_rows(pipe.model, latents[:0]).shape == (0, weights.shape[1])
    assert encode_rows(pipe.model, weights[:0]).shape == (0, latents.shape[1])


def test_the_nearest_training_network_is_told():
    # two checkpoints of network 7, and one each of 8 and 9; nearest to another network: 1, 0.999, 1, 2
    anchors = torch.tensor([[0.0, 0.0], [0.001, 0.0], [1.0, 0.0], [1.0, 2.0]])
    models = torch.tensor([7, 7, 8, 9])
    found = nearest_anchors(torch.tensor([[0.9, 0.0], [1.0, 1.5]]), anchors, models)
    assert [entry["model_id"] for entry in found] == [8, 9]
    assert [entry["distance"] for entry in found] == pytest.approx([0.1, 0.5])
    assert [entry["relative_distance"] for entry in found] == pytest.approx([0.1, 0.5], rel=1e-2)
    (alone,) = nearest_anchors(anchors[:1], anchors[:2], models[:2])
    assert alone == {"model_id": 7, "distance": 0.0, "relative_distance": None}


def test_copies_are_told_from_new_networks(pipe, tmp_path):
    sampler, distances = pipe.sampler, {}
    try:
        for variant in ("joint", "independent"):
            pipe.sampler = refit(sampler, variant=variant, bandwidth=1e-5)
            networks = pipe(20, generator=seeded(0))
            distances[variant] = torch.tensor([entry["relative_distance"] for entry in networks.nearest])
            expected = (networks.latents[:, None] - sampler.latents).norm(dim=2).amin(dim=1)
            assert_close(torch.tensor([entry["distance"] for entry in networks.nearest]), expected, atol=1e-5, rtol=0)
    finally:
        pipe.sampler = sampler
    assert distances["joint"].max() < 0.1
    assert distances["independent"].min() > 0.3
    networks[4:6].save_pretrained(tmp_path / "samples")
    index = json.loads((tmp_path / "samples" / "index.json").read_text())
    assert index["nearest"] == networks.nearest[4:6]
    assert (
        f"relative_distance | {networks.nearest[5]['relative_distance']}"
        in (tmp_path / "samples" / "model-00001" / "README.md").read_text()
    )


def test_the_best_of_many_and_how_many_there_were(pipe, digits_images, tmp_path):
    networks = pipe(12, generator=seeded(0))
    images = digits_images.validation
    best = networks.best(3, images, "the validation images of digits")
    config = networks.model(0).config
    accuracy = choose_engine("auto", config).evaluate(config, networks.weights, images.pixels, images.labels).accuracy
    rows = best.made_by["selected"]
    assert rows == sorted(rows)
    assert torch.equal(best.weights, networks.weights[rows])
    assert accuracy[rows].min() >= accuracy.sort(descending=True).values[2]
    told = best.made_by["best_of"]
    assert (told["drawn"], told["kept"]) == (12, 3)
    assert told["accuracy_of_all"] == pytest.approx(accuracy.mean().item(), abs=1e-5)
    assert told["accuracy_of_kept"] == pytest.approx(accuracy[rows].mean().item(), abs=1e-5)
    assert "best_of" not in networks.made_by
    best.save_pretrained(tmp_path / "samples")
    assert "'drawn': 12" in (tmp_path / "samples" / "README.md").read_text()
    for count in (0, 13):
        with pytest.raises(UserError, match=f"count is {count}; there are 12"):
            networks.best(count, images)


def test_networks_are_chosen_by_the_images_that_the_zoo_held_out(pipe):
    protocol = get_protocol("digits")
    assert pipe.model.config.zoo["validation_fraction"] == protocol.validation_fraction
    held_out = load_images("digits", protocol.processor(), protocol.validation_fraction).validation
    chosen_by = pipe.images("digits").validation
    assert torch.equal(chosen_by.pixels, held_out.pixels)
    assert torch.equal(chosen_by.labels, held_out.labels)
