"""How long it takes to generate networks and to write each as a checkpoint, and where the time goes.

    python benchmarks/sampling.py                                 # the MNIST preset's size, random weights
    python benchmarks/sampling.py --model model_cards/hyperrep-mnist --output benchmarks/sampling.jsonl

By independent KDE, in rounds; the median of each stage is printed, in seconds, for several numbers of networks: time
should be a straight line in them. The work does not depend on what the weights are.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from hyperrep import HyperRepPipeline, KDESampler
from hyperrep.networks import SmallCNNConfig, layout_of
from hyperrep.representation import HyperRepModel
from hyperrep.representation.batched import decode_rows
from hyperrep.results import machine_name
from hyperrep.training import TrainingConfig


NUMBERS = (100, 300, 1000)
TRAINING_NETWORKS = 700


def untrained() -> HyperRepPipeline:
    """A pipeline of the MNIST preset's size."""
    network = SmallCNNConfig()
    config = TrainingConfig.from_yaml("mnist").model_config(
        layout=layout_of(network).to_list(), network=network.to_dict(), image_processor=None, zoo={}, aligned=True
    )
    torch.manual_seed(0)
    latents = torch.rand(TRAINING_NETWORKS, config.latent_size) * 2 - 1
    return HyperRepPipeline(HyperRepModel(config), KDESampler().fit(latents, torch.rand(TRAINING_NETWORKS)))


def stages(pipe: HyperRepPipeline, number: int) -> dict[str, float]:
    """Seconds of each stage, and of the whole as a user calls it."""
    seconds, start = {}, time.perf_counter()
    latents = pipe.sampler.sample(number, torch.Generator().manual_seed(0))
    seconds["draw"] = time.perf_counter() - start
    start = time.perf_counter()
    decode_rows(pipe.model, latents)
    seconds["decode"] = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        networks = pipe(number, generator=torch.Generator().manual_seed(0))
        made = time.perf_counter()
        networks.save_pretrained(Path(folder) / "samples")
        seconds["write"] = time.perf_counter() - made
        seconds["all"] = time.perf_counter() - start
    seconds["nearest and the rest"] = max(
        0.0, seconds["all"] - sum(seconds[name] for name in ("draw", "decode", "write"))
    )
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or Hub id of a representation; by default an untrained one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="file to append JSON lines to")
    arguments = parser.parse_args()
    pipe = HyperRepPipeline.from_pretrained(arguments.model) if arguments.model else untrained()
    stages(pipe, 10)  # warm
    measured: dict[int, list[dict[str, float]]] = {number: [] for number in NUMBERS}
    for _ in range(arguments.rounds):
        for number in NUMBERS:
            measured[number].append(stages(pipe, number))
    lines = []
    for number, rounds in measured.items():
        seconds = {name: round(statistics.median(one[name] for one in rounds), 3) for name in rounds[0]}
        print(f"{number:5d} networks: " + ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()))
        lines.append({"what": "sampling", "networks": number, "seconds": seconds, "rounds": arguments.rounds})
    small, large = NUMBERS[0], NUMBERS[-1]
    slope = (lines[-1]["seconds"]["all"] - lines[0]["seconds"]["all"]) / (large - small)
    middle = lines[0]["seconds"]["all"] + slope * (NUMBERS[1] - small)
    print(f"{1000 * slope:.2f} ms a network; {NUMBERS[1]} take {lines[1]['seconds']['all'] / middle:.2f} of the line")
    if arguments.output:
        about = {"model": arguments.model or "untrained, preset mnist", "machine": machine_name()}
        with arguments.output.open("a") as file:
            file.writelines(json.dumps(line | about | {"torch": torch.__version__}) + "\n" for line in lines)


if __name__ == "__main__":
    main()
