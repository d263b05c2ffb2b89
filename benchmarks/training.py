"""How fast a hyper-representation trains: a step of the paper's model beside plain float32 code, and the small one's.

    make benchmark                                   # or: python benchmarks/training.py --output results.jsonl
    python benchmarks/training.py --rounds 1 --batch 32

About four minutes on two cores. A step is views, forward, backward and update; the sides are measured in turn, round
after round, so that a drifting machine hurts both alike; medians are printed. First both are shown to compute the
same: with the same weights, in float32, their reconstructions and losses agree to rounding.

- ours: what `hyperrep train` runs with the preset: bf16 autocast, float32 weights, fused Adam;
- plain: benchmarks/plain_hyperrep.py, the same model as one writes it first, float32, `optim.Adam`;
- share: of the machine's own bf16 matrix product (4096^3 on a CPU, 8192^3 on a GPU), measured in the same round.

The arithmetic is counted in multiply-adds of the matrix products, per view, with d hidden_size, f intermediate_size:

    block(q, t)  = 2 t d^2 + 2 q d^2 + 2 q d f + 2 q t d      q tokens ask, t are asked
    forward      = embeddings + blocks + bottleneck + decompression + outputs + projection head
    FLOP         = 2 views (3 forward - embeddings)           backward twice forward; the data need no gradient

What our model leaves out is not counted: of the encoder's last block only the compression token is used, so q = 1.
Elementwise work and the update count nothing. The batch is 128 networks, since the preset's 500 do not fit 24 GB in
float32; the update weighs more than in the preset. Weights and images are random: the work does not depend on them.
"""

import argparse
import json
import statistics
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from plain_hyperrep import PlainHyperRep, plain_views
from torch import optim

from hyperrep.images import ImageSplit
from hyperrep.networks import SmallCNNConfig, initial_weights
from hyperrep.population import choose_engine
from hyperrep.representation import HyperRepConfig, HyperRepModel
from hyperrep.results import machine_name
from hyperrep.training.behavior import BehavioralLoss
from hyperrep.training.config import TrainingConfig
from hyperrep.training.memory import keep_freed_memory
from hyperrep.training.moments import Moments
from hyperrep.training.step import make_views
from hyperrep.weights import WeightLayout


NETWORK = SmallCNNConfig()
ROUNDS = 3
BATCH = 128  # networks
PARTS = ("views and augmentation", "forward", "behavioural loss", "backward", "update")


def step_flop(config: HyperRepConfig, views: int) -> int:
    """Floating-point operations of one step, as the head of this file counts them."""
    d, f, tokens = config.hidden_size, config.intermediate_size, config.num_tokens

    def block(asking: int, asked: int) -> int:
        return 2 * asked * d**2 + 2 * asking * d**2 + 2 * asking * d * f + 2 * asking * asked * d

    embeddings = sum(layer.num_units * layer.token_size * d for layer in config.layers)
    compress = config.latents_per == "network"
    asked, latents = (tokens + 1, config.latent_size) if compress else (tokens, config.neuron_latent_size)
    forward = 2 * embeddings  # and the outputs
    forward += (config.num_hidden_layers - 1) * block(asked, asked) + block(1 if compress else asked, asked)
    forward += config.num_hidden_layers * block(tokens, tokens)
    forward += d * latents * (1 + tokens if compress else 2 * tokens)  # bottleneck, decompression
    if config.contrast_weight:
        widths = [config.latent_size] + [config.projection_hidden_size] * config.projection_num_layers
        forward += sum(a * b for a, b in zip(widths, [*widths[1:], config.projection_size]))
    return 2 * views * (3 * forward - embeddings)


class Ours:
    """Training as the loop does it, one step at a time."""

    def __init__(self, preset: str, batch: int | None = None, device: str = "cpu"):
        self.settings = TrainingConfig.from_yaml(preset)
        self.batch, self.device = batch or self.settings.batch_size, device
        torch.manual_seed(0)
        networks = initial_weights(NETWORK, list(range(self.batch)))
        self.model = HyperRepModel(self.settings.model_config()).train()  # of the poster's networks
        self.layout = WeightLayout.from_list(self.model.config.layout)
        self.model.processor.fit(networks)
        self.networks, self.model = networks.to(device), self.model.to(device)
        optimizer = optim.AdamW if self.settings.optimizer == "adamw" else optim.Adam
        self.optimizer = optimizer(
            self.model.parameters(), lr=1e-4, weight_decay=self.settings.weight_decay, fused=True
        )
        self.num_views = 2 if self.model.config.contrast_weight else 1
        self.flop = step_flop(self.model.config, self.num_views * self.batch)
        self.generator = torch.Generator(device).manual_seed(0)
        self.behavior = None
        if self.settings.runs_networks:
            images = ImageSplit(torch.randn(1_000, 1, 28, 28).to(device), torch.randint(10, (1_000,)).to(device))
            moments = Moments(self.networks, self.model.processor.layer_sizes, self.model.processor.layer_std)
            self.behavior = BehavioralLoss(NETWORK, images, self.settings, choose_engine("auto", NETWORK), moments)

    def step(self) -> dict[str, float]:
        """One step; seconds of each of its parts."""
        marks = [self._now()]
        views, targets, clean = make_views(self.networks, self.layout, self.settings, self.num_views, self.generator)
        marks.append(self._now())
        half = self.settings.mixed_precision == "bf16"
        with torch.autocast(self.device, torch.bfloat16) if half else nullcontext():
            output = self.model(views, target=targets, num_views=self.num_views)
        marks.append(self._now())
        loss = output.loss
        if self.behavior is not None:
            loss = self.behavior(self.model, clean, output, self.batch, self.generator)["loss"]
        marks.append(self._now())
        loss.backward()
        marks.append(self._now())
        if self.settings.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        marks.append(self._now())
        return {part: end - start for part, start, end in zip(PARTS, marks, marks[1:])}

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


class Plain:
    """The same training, plainly written, with the weights of ours."""

    def __init__(self, ours: Ours):
        self.settings, self.networks, self.layout = ours.settings, ours.networks, ours.layout.to_list()
        self.model = PlainHyperRep(ours.model.config)
        self.model.load_state_dict(ours.model.state_dict())
        self.optimizer = optim.Adam(self.model.parameters(), lr=1e-4, weight_decay=self.settings.weight_decay)

    def step(self, batch: int | None = None) -> float:
        """One step, of fewer networks if asked; its seconds."""
        start = time.perf_counter()
        erasing = self.settings.erase_prob, tuple(self.settings.erase_scale)
        _, loss = self.model(plain_views(self.networks[:batch], self.layout, *erasing))
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - start


@torch.no_grad()
def largest_difference(ours: Ours, plain: Plain, batch: int = 4) -> float:
    """Largest difference of float32 reconstructions, in units of their standard deviation.

    Raises:
        AssertionError: if it, or that of the losses, is more than rounding.
    """
    weights = plain_views(ours.networks[:batch], plain.layout, 0.5, (0.02, 0.33))
    expected, expected_loss = plain.model.eval()(weights)
    output = ours.model.eval()(weights, num_views=2)
    ours.model.train()
    plain.model.train()
    difference = (output.reconstruction - expected).abs().max().item() / expected.std().item()
    assert difference < 1e-4, f"reconstructions differ by {difference} standard deviations"
    torch.testing.assert_close(output.loss, expected_loss, rtol=1e-4, atol=0)
    return difference


def matmul_rate(size: int, device: str = "cpu") -> float:
    """bf16 FLOP a second of a large matrix product."""
    a = torch.randn(size, size, dtype=torch.bfloat16, device=device)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        product = a @ a
        product[0, 0].item()  # waits for a GPU
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds[1:])


def medians(steps: list[dict[str, float]]) -> dict[str, float]:
    return {part: statistics.median(step[part] for step in steps) for part in PARTS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON lines file for the numbers")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--batch", type=int, default=BATCH, help="networks a step of the paper's model on the CPU")
    arguments = parser.parse_args()
    keep_freed_memory()  # as `hyperrep train` does; the plain code profits from it, too
    rows: list[dict] = []
    circumstances = {"rounds": arguments.rounds, "machine": machine_name(), "torch": torch.__version__}

    def report(what: str, value: float, unit: str, spread: list[float] | None = None) -> None:
        rows.append({"what": what, "value": value, "unit": unit} | circumstances)
        extent = f"   ({min(spread):.3g} to {max(spread):.3g})" if spread else ""
        print(f"{what:60}{value:10.4g} {unit}{extent}", flush=True)

    def table(title: str, steps: list[dict[str, float]]) -> None:
        print(f"\n{title}")
        whole = statistics.median(sum(step.values()) for step in steps)
        for part, seconds in medians(steps).items():
            if seconds > 1e-3 * whole:
                report(f"{title}: {part}", 1e3 * seconds, "ms")
        report(f"{title}: step", 1e3 * whole, "ms", [1e3 * sum(step.values()) for step in steps])

    print(f"{machine_name()}; torch {torch.__version__}\n")
    ours = Ours("mnist-paper", arguments.batch)
    plain = Plain(ours)
    report("largest difference of reconstructions in float32", largest_difference(ours, plain), "std")
    ours.step()
    plain.step(4)  # warm up
    steps: list[dict[str, float]] = []
    seconds, rates = [], []
    for _ in range(arguments.rounds):
        steps += [ours.step(), ours.step()]
        rates.append(matmul_rate(4096))
        seconds.append(plain.step())
    table(f"paper's model, {arguments.batch} networks", steps)
    step, rate = statistics.median(sum(step.values()) for step in steps), statistics.median(rates)
    report("the same step, plain float32", 1e3 * statistics.median(seconds), "ms", [1e3 * value for value in seconds])
    report("ours is faster than plain", statistics.median(seconds) / step, "times")
    report("arithmetic of a step", ours.flop / 1e9, "GFLOP")
    report("matrix product, bf16", rate / 1e9, "GFLOP/s", [value / 1e9 for value in rates])
    report("ours reaches of the matrix product's rate", 100 * ours.flop / step / rate, "%")
    del ours, plain

    small = Ours("mnist")
    small.step()
    table(f"small preset, {small.batch} networks", [small.step() for _ in range(10 * arguments.rounds)])

    if torch.cuda.is_available():
        large = Ours("mnist-paper", device="cuda")
        for _ in range(3):
            large.step()
        steps = [large.step() for _ in range(10 * arguments.rounds)]
        table(f"paper's model on the GPU, {large.batch} networks", steps)
        step, rate = statistics.median(sum(step.values()) for step in steps), matmul_rate(8192, "cuda")
        report("matrix product on the GPU, bf16", rate / 1e9, "GFLOP/s")
        report("ours reaches of the GPU's matrix product's rate", 100 * large.flop / step / rate, "%")
    if arguments.output:
        arguments.output.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
