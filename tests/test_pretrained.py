"""The representations that come with the repository: small, safe to load, and as good as their cards say."""

import os
from pathlib import Path

import pytest
import torch

from hyperrep import HyperRepPipeline
from hyperrep.images import load_images
from hyperrep.networks import processor_from
from hyperrep.population import choose_engine
from hyperrep.results import read_results, stored_sampler
from hyperrep.zoo import get_protocol


CARDS = Path(__file__).parent.parent / "model_cards"
PRETRAINED = sorted(path.parent for path in CARDS.glob("hyperrep-*/model.safetensors"))
pytestmark = pytest.mark.skipif(not PRETRAINED, reason="no pretrained representation is in this tree")


@pytest.mark.parametrize("folder", PRETRAINED, ids=lambda folder: folder.name)
def test_all_of_it_is_below_ten_megabytes(folder):
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 10 * 10**6


@pytest.mark.parametrize("folder", PRETRAINED, ids=lambda folder: folder.name)
def test_networks_are_as_good_as_the_card_says(folder):
    """MNIST is no part of the package: HYPERREP_MNIST names its folder or Hub id."""
    pipe = HyperRepPipeline.from_pretrained(folder)
    protocol = get_protocol(str((pipe.model.config.zoo or {})["protocol"]))
    images = protocol.images if protocol.images == "digits" else os.environ.get("HYPERREP_MNIST")
    if images is None:
        pytest.skip("set HYPERREP_MNIST to a folder or Hub id of MNIST")
    test = load_images(images, processor_from(pipe.model.config.image_processor), protocol.validation_fraction).test
    rows = read_results(folder / "results" / "finetune.jsonl")
    assert stored_sampler(rows)
    said = next(
        row for row in rows if row.settings.get("stored_sampler") and (row.what, row.epoch) == ("test_accuracy", 0)
    )
    networks = pipe(50, generator=torch.Generator().manual_seed(7))
    config = networks.model(0).config
    got = choose_engine("auto", config).evaluate(config, networks.weights, test.pixels, test.labels).accuracy
    # two means of samples, each with the spread of its own
    assert abs(got.mean().item() - said.mean) < 4 * said.std * (1 / 50 + 1 / said.n) ** 0.5
