"""How fast each engine trains the poster's network by the published MNIST protocol (batch 10, Adam), side by side.

    make benchmark                                   # or: python benchmarks/population.py --output results.jsonl
    HYPERREP_CXXFLAGS=-march=haswell python benchmarks/population.py        # the kernels as AVX2 alone would run them

About five minutes on two cores. Every way is measured in turn, round after round, so that a drifting machine hurts all
alike; medians are printed, in microseconds per image and model, forward + backward + update:

- processes: one single-threaded PyTorch process a core, one model each, as research code and every peer does;
- vmap, native: our engines, on all cores;
- evaluation: the native engine's forward pass alone;
- arithmetic: 0.93 MFLOP (two a multiply-add; dense through pooling; no gradient for the image) at the rate of the
  machine's own float32 matrix product.

Then time against the number of models, one group of lanes (one busy core) being the unit. Images are random: the work
does not depend on them.
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import time
from pathlib import Path

import torch

from hyperrep.networks import SmallCNNConfig, initial_weights
from hyperrep.population import Population, Recipe, choose_engine, image_order
from hyperrep.population.loop import LoopEngine
from hyperrep.results import machine_name


NETWORK = SmallCNNConfig()
RECIPE = Recipe("adam", learning_rate=3e-4, batch_size=10)
ROUNDS = 5
# multiply-adds of one image, forward: conv 1, conv 2, conv 3, two linear layers; backward twice that, but for the
# first layer, whose input needs no gradient
FORWARD = [8 * 576 * 25, 6 * 64 * 200, 4 * 9 * 24, 720, 200]
FLOP = 2 * (3 * sum(FORWARD) - FORWARD[0])


def data(num_images: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(num_images, 1, 28, 28, generator=generator)
    return pixels, torch.randint(0, 10, (num_images,), generator=generator)


def train_seconds(engine, models: int, num_images: int) -> float:
    """Wall time of one epoch."""
    pixels, labels = data(num_images)
    seeds = range(models)
    population = Population.start(NETWORK, RECIPE, initial_weights(NETWORK, list(seeds)))
    order = image_order(seeds, 1, num_images)
    start = time.perf_counter()
    engine.train_epoch(population, pixels, labels, order)
    return time.perf_counter() - start


def evaluate_seconds(engine, models: int, num_images: int) -> float:
    pixels, labels = data(num_images)
    weights = initial_weights(NETWORK, list(range(models)))
    start = time.perf_counter()
    engine.evaluate(NETWORK, weights, pixels, labels)
    return time.perf_counter() - start


def _one_process(num_images: int, barrier, seconds) -> None:
    torch.set_num_threads(1)
    train_seconds(LoopEngine(), 1, 200)  # warm up
    barrier.wait()
    seconds.put(train_seconds(LoopEngine(), 1, num_images))


def processes_seconds(cores: int, num_images: int) -> float:
    """Slowest of one single-threaded PyTorch process a core, one model each."""
    context = multiprocessing.get_context("spawn")
    barrier, seconds = context.Barrier(cores), context.SimpleQueue()
    workers = [context.Process(target=_one_process, args=(num_images, barrier, seconds)) for _ in range(cores)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return max(seconds.get() for _ in workers)


def matmul_rate(size: int = 2048) -> float:
    """Float32 FLOP a second of a large matrix product on all cores."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    start, repeats = time.perf_counter(), 8
    for _ in range(repeats):
        a @ b
    return repeats * 2 * size**3 / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON lines file for the numbers")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()

    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)  # whatever OMP_NUM_THREADS says: all ways and the matrix product get the same machine
    native, vmap = choose_engine("native", NETWORK), choose_engine("vmap", NETWORK)
    models = native.lanes * cores
    train_seconds(native, models, 500)  # compiles on first use
    ways = ("processes", "vmap", "native", "evaluation")
    measured: dict[str, list[float]] = {name: [] for name in (*ways, "matmul")}
    for _ in range(arguments.rounds):
        measured["processes"].append(processes_seconds(cores, 2_000) / (cores * 2_000))
        measured["vmap"].append(train_seconds(vmap, 64, 200) / (64 * 200))
        measured["native"].append(train_seconds(native, models, 5_000) / (models * 5_000))
        measured["evaluation"].append(evaluate_seconds(native, models, 5_000) / (models * 5_000))
        matmul_rate()
        measured["matmul"].append(matmul_rate())
    median = {name: statistics.median(values) for name, values in measured.items()}
    arithmetic = FLOP / median["matmul"]

    rows: list[dict] = []

    def report(what: str, value: float, unit: str, spread: list[float] | None = None) -> None:
        rows.append(
            {"what": what, "value": value, "unit": unit, "rounds": arguments.rounds, "machine": machine_name()}
        )
        extent = f"   ({min(spread):.2f} to {max(spread):.2f})" if spread else ""
        print(f"{what:52}{value:10.2f} {unit}{extent}")

    print(f"{machine_name()}; native lanes {native.lanes}\n")
    for name in ways:
        report(name, 1e6 * median[name], "us per image and model", [1e6 * value for value in measured[name]])
    report("arithmetic at the matrix product's rate", 1e6 * arithmetic, "us per image and model")
    report("matrix product, float32", median["matmul"] / 1e9, "GFLOP/s")
    report("native is faster than processes", median["processes"] / median["native"], "times")
    report("native is faster than vmap", median["vmap"] / median["native"], "times")
    report("native reaches of the matrix product's rate", 100 * arithmetic / median["native"], "%")

    print("\ntime against number of models, native, 1,000 images")
    base = None
    for count in (16, 32, 64, 128, 256, 512, 1024):
        seconds = statistics.median(train_seconds(native, count, 1_000) for _ in range(3))
        base = base or seconds / count
        report(f"{count} models", seconds, "s")
        report(f"{count} models, against the linear cost of 16", seconds / count / base, "times")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    report("peak memory of all this", peak, "MiB")
    if arguments.output:
        arguments.output.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
