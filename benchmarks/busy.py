"""How much a busy machine slows training: threads that wait by spinning, and threads that wait asleep.

    make benchmark                          # or: python benchmarks/busy.py --output benchmarks/busy.jsonl
    python benchmarks/busy.py --rounds 1 --epochs 1 --busy 0 --zoo demo/zoo    # a short look

A digits zoo is built once; then `hyperrep train digits` runs its first eight epochs in processes of their own,
with `OMP_WAIT_POLICY` active (spinning, what OpenMP does unless it is told) and passive (what the command line sets),
beside 0, 1 and 6 processes that do nothing but count. Ways are measured in turn, round after round, so that a
drifting machine hurts all alike; printed are the least and the median of the wall seconds of the epochs, without the
start of the process and the final evaluation. About fifteen minutes on two idle cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hyperrep.results import machine_name


BUSY = (0, 1, 6)
POLICIES = ("active", "passive")
ROUNDS = 3


def hyperrep(policy: str, *arguments: str | Path) -> None:
    command = [sys.executable, "-m", "hyperrep_cli", *map(str, arguments)]
    outcome = subprocess.run(command, env=os.environ | {"OMP_WAIT_POLICY": policy}, capture_output=True, text=True)
    if outcome.returncode:
        sys.exit(outcome.stderr)


def train_seconds(policy: str, zoo: Path, epochs: int) -> float:
    """Wall time of the epochs, as the training log has it."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "representation"
        settings = ["--num_train_epochs", epochs, "--eval_epochs", epochs, "--checkpoint_epochs", epochs]
        hyperrep(policy, "train", "digits", "--zoo", zoo, "--output", output, *map(str, settings))
        last = (output / "training_log.jsonl").read_text().splitlines()[-1]
    return json.loads(last)["seconds"]  # since the first step


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON lines to append to")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--zoo", type=Path, help="a digits zoo; by default one like the demo's is built, in a minute")
    parser.add_argument("--busy", type=int, nargs="+", default=BUSY, help="numbers of busy loops")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        zoo = arguments.zoo or Path(folder) / "zoo"
        if not arguments.zoo:
            hyperrep("passive", "zoo", "build", "--protocol", "digits", "--models", "96", "--output", zoo)
        seconds: dict[tuple[int, str], list[float]] = {}
        for _ in range(arguments.rounds):
            for busy in arguments.busy:
                for policy in POLICIES:
                    with busy_loops(busy):
                        taken = train_seconds(policy, zoo, arguments.epochs)
                    seconds.setdefault((busy, policy), []).append(taken)
    for (busy, policy), taken in seconds.items():
        row = {
            "benchmark": "busy",
            "busy_loops": busy,
            "wait_policy": policy,
            "epochs": arguments.epochs,
            "rounds": arguments.rounds,
            "seconds_min": round(min(taken), 2),
            "seconds_median": round(statistics.median(taken), 2),
            "machine": machine_name(),
        }
        print(f"{busy} busy loops, {policy:7}: {min(taken):7.1f} s at least, {statistics.median(taken):7.1f} s median")
        if arguments.output:
            with arguments.output.open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
