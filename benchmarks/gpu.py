"""How fast the CUDA engine trains and evaluates the poster's networks on the GPU at hand, and the vmap engine on it.

    python benchmarks/gpu.py --output results.jsonl        # half a minute

Batches of 10, Adam, random images; microseconds per image and model, forward + backward + update, the copies to and
from the GPU included. Eight networks a multiprocessor, so that none idles.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from hyperrep.networks import SmallCNNConfig, initial_weights
from hyperrep.population import Population, Recipe, choose_engine, image_order
from hyperrep.population.vmap import VmapEngine
from hyperrep.zoo.protocol import get_protocol


IMAGES, VMAP_IMAGES, TEST_IMAGES = 3_000, 200, 5_000
CLASSES = [str(label) for label in range(10)]


def train_seconds(engine, network: SmallCNNConfig, recipe: Recipe, models: int, images: int) -> float:
    seeds = list(range(models))
    pixels, labels = data(network, images)
    population = Population.start(network, recipe, initial_weights(network, seeds))
    order = image_order(seeds, 1, images)
    return seconds(lambda: engine.train_epoch(population, pixels, labels, order))


def data(network: SmallCNNConfig, images: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(images, network.num_channels, 28, 28, generator=generator)
    return pixels, torch.randint(0, 10, (images,), generator=generator)


def seconds(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON lines file for the numbers")
    arguments = parser.parse_args()
    rows = []
    for name in ("mnist", "cifar10"):
        protocol = get_protocol(name)
        network = protocol.network_config(CLASSES)
        assert isinstance(network, SmallCNNConfig)
        engine = choose_engine("cuda", network)
        models = engine.models_at_once
        train_seconds(engine, network, protocol.recipe, 8, 20)  # compiles
        weights, (pixels, labels) = initial_weights(network, list(range(models))), data(network, TEST_IMAGES)
        engine.evaluate(network, weights, pixels[:16], labels[:16])
        vmap = VmapEngine(device="cuda", models_per_chunk=models)
        train_seconds(vmap, network, protocol.recipe, models, 20)
        measured = {
            "cuda, training": min(train_seconds(engine, network, protocol.recipe, models, IMAGES) for _ in range(2))
            / (models * IMAGES),
            "cuda, evaluation": seconds(lambda: engine.evaluate(network, weights, pixels, labels))  # noqa: B023
            / (models * TEST_IMAGES),
            "vmap, training": train_seconds(vmap, network, protocol.recipe, models, VMAP_IMAGES)
            / (models * VMAP_IMAGES),
        }
        for what, value in measured.items():
            row = {"what": f"{name}: {what}", "value": 1e6 * value, "unit": "us per image and model"}
            rows.append(row | {"models": models, "machine": torch.cuda.get_device_name()})
            print(f"{row['what']:30}{row['value']:10.3f} {row['unit']}")
    if arguments.output:
        arguments.output.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
