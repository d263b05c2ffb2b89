"""What a network of any size costs: encoded, decoded, and how much memory that takes.

    hyperrep zoo import FOLDER_OF_RESNET18S --epoch 1 --output zoos/resnet18
    hyperrep train windows --zoo zoos/resnet18 --output models/resnet18 --epochs "[1]"
    python benchmarks/windows.py models/resnet18 zoos/resnet18 --output results.jsonl

Memory is the largest resident set of the process, Python and torch included.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hyperrep.representation import HyperRepModel
from hyperrep.results import machine_name
from hyperrep.zoo import load_zoo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("representation")
    parser.add_argument("zoo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("windows.jsonl"))
    asked = parser.parse_args()
    model = HyperRepModel.from_pretrained(asked.representation).eval()
    network = load_zoo(asked.zoo)["test"][:1].weights
    about = {"parameters": network.shape[1], "tokens": model.config.num_tokens, "machine": machine_name()}

    _, seconds = timed(asked.rounds, lambda: model.processor(network))
    rows = [{"what": "tokens", "seconds": seconds}]
    back = model.processor.decode(model.processor(network.double()))
    rows.append(
        {"what": "weights that float64 tokens do not bring back to the bit", "value": int((back != network).sum())}
    )
    if model.config.aligned:
        _, seconds = timed(1, lambda: model.processor.align(network))
        rows.append({"what": "align, the network traced first", "seconds": seconds})
        network, seconds = timed(1, lambda: model.processor.align(network))
        rows.append({"what": "align", "seconds": seconds})
    latents, seconds = timed(asked.rounds, lambda: model.encode(network, aligned=True))
    rows.append({"what": "encode", "seconds": seconds})
    _, seconds = timed(asked.rounds, lambda: model.decode(latents))
    rows.append({"what": "decode", "seconds": seconds})
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rows.append({"what": "largest resident set, GiB", "value": memory})
    with asked.output.open("a") as file:
        for row in rows:
            print(row)
            file.write(json.dumps({"benchmark": "windows", **row, **about}) + "\n")


@torch.no_grad()
def timed(rounds: int, work: Callable[[], Any]) -> tuple[Any, float]:
    """What it made, and the median of its seconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return result, statistics.median(times)


if __name__ == "__main__":
    main()
