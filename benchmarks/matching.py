"""How close weight matching brings trained networks, beside git re-basin's algorithm (arXiv 2209.04836).

    python benchmarks/matching.py --images uoft-cs/cifar10 --output results.jsonl

Pairs of networks that differ in their seed (initial weights, order of images) are trained on the same images; then one
of each pair is brought as close to the other as each algorithm can. Measured is the squared distance between
all parameters, as a share of that before; running statistics follow but do not count.

- re-basin: its algorithm as published, by a permutation specification written by hand: groups in random order, each
  a linear assignment given the others, from the units as they come, until nothing changes;
- ours: `hyperrep.weights.match`, with permutations alone, and with signs, where a network has such.

Every result is checked to compute what the network did before.

    python benchmarks/matching.py --zoo zoos/cnn-zoo-mnist --output results.jsonl

Networks of a zoo in the form of its best one: how far they are from their mean, squared, as a share of their squared
norm, and how long a network takes.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from hyperrep.images import load_images
from hyperrep.networks.modules import example_images, fresh_module
from hyperrep.results import machine_name
from hyperrep.weights import WeightGraph, match
from hyperrep.weights.matching import squared_distance
from hyperrep.zoo import Zoo, get_protocol, load_zoo


Spec = Mapping[str, Sequence[str | None]]  # of each parameter: by which permutation each axis is ordered


class MLP(nn.Module):
    """Three hidden layers, as in re-basin's experiments, but narrower."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU):
        super().__init__()
        widths = [3 * 28 * 28, 128, 128, 128, 10]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)

    def spec(self) -> Spec:
        found: dict[str, Sequence[str | None]] = {}
        for i in range(4):
            before, after = (f"P{i - 1}" if i else None), (f"P{i}" if i < 3 else None)
            found |= {f"layers.{i}.weight": (after, before), f"layers.{i}.bias": (after,)}
        return found


class VGG(nn.Module):
    """VGG-11's convolutions, a quarter as wide, with batch normalisation, and one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 16, 32, 64, 64, 128, 128, 128, 128]
        self.convs = nn.ModuleList(nn.Conv2d(*pair, 3, padding=1) for pair in itertools.pairwise(widths))
        self.norms = nn.ModuleList(map(nn.BatchNorm2d, widths[1:]))
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms)):
            x = norm(conv(x)).relu()
            if i in (0, 1, 3, 5):
                x = nn.functional.max_pool2d(x, 2)
        return self.head(x.mean(dim=(2, 3)))

    def spec(self) -> Spec:
        found: dict[str, Sequence[str | None]] = {"head.weight": (None, "P7"), "head.bias": (None,)}
        for i in range(8):
            found[f"convs.{i}.weight"] = (f"P{i}", f"P{i - 1}" if i else None, None, None)
            found |= dict.fromkeys((f"convs.{i}.bias", f"norms.{i}.weight", f"norms.{i}.bias"), (f"P{i}",))
        return found


class ResNet20(nn.Module):
    """With 1x1 convolutions where the width changes, as in re-basin's experiments; 16 channels at first."""

    def __init__(self) -> None:
        super().__init__()
        widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
        self.conv, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.blocks = nn.ModuleList(Block(*pair) for pair in itertools.pairwise(widths))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu()
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(dim=(2, 3)))

    def spec(self) -> Spec:
        found: dict[str, Sequence[str | None]] = {"conv.weight": ("S0", None, None, None), "head.bias": (None,)}
        found |= {"norm.weight": ("S0",), "norm.bias": ("S0",), "head.weight": (None, "S2")}
        stream = 0
        for i, block in enumerate(self.blocks):
            before, inner = f"S{stream}", f"B{i}"
            stream += block.shortcut is not None
            after = f"S{stream}"
            found[f"blocks.{i}.conv1.weight"] = (inner, before, None, None)
            found[f"blocks.{i}.conv2.weight"] = (after, inner, None, None)
            found |= {f"blocks.{i}.norm1.{kind}": (inner,) for kind in ("weight", "bias")}
            found |= {f"blocks.{i}.norm2.{kind}": (after,) for kind in ("weight", "bias")}
            if block.shortcut is not None:
                found[f"blocks.{i}.shortcut.0.weight"] = (after, before, None, None)
                found |= {f"blocks.{i}.shortcut.1.{kind}": (after,) for kind in ("weight", "bias")}
        return found


class Block(nn.Module):
    def __init__(self, before: int, after: int):
        super().__init__()
        stride = after // before
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after)
        wider = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))
        self.shortcut = wider if after > before else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return (self.norm2(self.conv2(self.norm1(self.conv1(x)).relu())) + shortcut).relu()


KINDS = {"MLP, ReLU": MLP, "MLP, tanh": lambda: MLP(nn.Tanh), "VGG-11, BN": VGG, "ResNet-20, BN": ResNet20}


def trained(kind: str, seed: int, images: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    torch.manual_seed(seed)
    module = KINDS[kind]().train()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(50):
            loss = nn.functional.cross_entropy(module(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return module.eval()


def rebasin(spec: Spec, target: Mapping[str, Tensor], network: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """The parameters of a network after weight matching, as the paper and its code describe it."""
    axes: dict[str, list[tuple[str, int]]] = {}
    for name, orders in spec.items():
        for axis, order in enumerate(orders):
            if order is not None:
                axes.setdefault(order, []).append((name, axis))
    sizes = {order: network[found[0][0]].shape[found[0][1]] for order, found in axes.items()}
    orders = {order: torch.arange(size) for order, size in sizes.items()}

    def permuted(name: str, without: int | None = None) -> Tensor:
        tensor = network[name]
        for axis, order in enumerate(spec[name]):
            if order is not None and axis != without:
                tensor = tensor.index_select(axis, orders[order])
        return tensor

    generator = torch.Generator().manual_seed(seed)
    for _ in range(100):
        progress = False
        for index in torch.randperm(len(axes), generator=generator).tolist():
            order = list(axes)[index]
            gain = torch.zeros(sizes[order], sizes[order], dtype=torch.float64)
            for name, axis in axes[order]:
                ours = target[name].movedim(axis, 0).reshape(sizes[order], -1).double()
                gain += ours @ permuted(name, axis).movedim(axis, 0).reshape(sizes[order], -1).double().T
            found = torch.from_numpy(linear_sum_assignment(gain.numpy(), maximize=True)[1])
            before = gain[torch.arange(len(found)), orders[order]].sum()
            progress |= bool(gain[torch.arange(len(found)), found].sum() > before + 1e-12)
            orders[order] = found
        if not progress:
            break
    return {name: permuted(name) for name in spec}


@torch.no_grad()
def measured(kind: str, first: nn.Module, second: nn.Module, images: Tensor, seed: int) -> dict[str, float]:
    """Squared distances as shares of that before, and seconds."""
    graph = WeightGraph.of(first, images[:2])
    plain = replace(graph, signs=torch.zeros_like(graph.signs))
    target, network = first.state_dict(), second.state_dict()
    before = squared_distance(graph, network, target)
    found = {}
    for name, run in {
        "re-basin": lambda: dict(network) | rebasin(first.spec(), target, network, seed),  # type: ignore[operator]
        "ours, permutations": lambda: match(plain, network, target),
        "ours, with signs": lambda: match(graph, network, target),
    }.items():
        started = time.perf_counter()
        result = run()
        found[f"{name}: seconds"] = time.perf_counter() - started
        found[name] = squared_distance(graph, result, target) / before
        if name.startswith("ours"):
            expected, answers = second(images[:50]), torch.func.functional_call(second, result, (images[:50],))
            assert (expected - answers).abs().max() < 1e-3 * (1 + expected.abs().max()), name
    return found


def canonical(zoo: Zoo, count: int) -> dict[str, tuple[float, float]]:
    """Distance from the mean and seconds a network, as the networks are, and by either form."""
    split = zoo["train"].select([max(zoo["train"].epoch.tolist())])
    best = split.metrics["validation_accuracy"].argmax()
    layout, network = zoo.config.weight_layout(), zoo.config.network_config()
    graph = WeightGraph.of(fresh_module(network, seed=0), example_images(network))
    target = layout.unvectorize(split.weights[best])
    found = {}
    for name, of in {
        "as they are": None,
        "ours, permutations": replace(graph, signs=torch.zeros_like(graph.signs)),
        "ours, with signs": graph,
    }.items():
        started, rows = time.perf_counter(), []
        for vector in split.weights[:count]:
            rows.append(vector if of is None else layout.vectorize(match(of, layout.unvectorize(vector), target)))
        weights = torch.stack(rows).double()
        share = (weights - weights.mean(dim=0)).square().sum() / weights.square().sum()
        found[name] = float(share), (time.perf_counter() - started) / len(weights)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default=None, help="folder or Hub id of CIFAR-10 (default: the protocol's)")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--networks", type=int, default=300, help="of the zoo")
    parser.add_argument("--max-images", type=int, default=5000)
    parser.add_argument("--zoo", default=None, help="folder or Hub id: the canonical form of a zoo's networks instead")
    parser.add_argument("--output", type=Path, default=None, help="rows are added")
    asked = parser.parse_args()
    if asked.zoo:
        rows = []
        for what, (share, seconds) in canonical(load_zoo(asked.zoo), asked.networks).items():
            row = {"network": Path(asked.zoo).name, "networks": asked.networks, "machine": machine_name()}
            rows.append(row | {"what": f"{what}: distance from the mean", "mean": share})
            rows.append(row | {"what": f"{what}: seconds a network", "mean": seconds})
            print(f"{what:20} {share:.4f}, {seconds:.4f} s")
        write(asked.output, rows)
        return
    protocol = get_protocol("cifar10")
    images = load_images(asked.images or protocol.images, protocol.processor(), 0.2, asked.max_images).train
    pixels, labels = images.pixels, images.labels.long()
    rows = []
    for kind in KINDS:
        runs = []
        for pair in range(asked.pairs):
            modules = [trained(kind, 2 * pair + i, pixels, labels, asked.epochs) for i in range(2)]
            runs.append(measured(kind, *modules, pixels, pair))
        for what in runs[0]:
            values = [run[what] for run in runs]
            row = {"network": kind, "what": what, "mean": statistics.fmean(values), "std": statistics.pstdev(values)}
            row |= {"pairs": asked.pairs, "epochs": asked.epochs, "images": len(pixels), "machine": machine_name()}
            rows.append(row)
            print(f"{kind:16} {what:30} {row['mean']:.4f} ± {row['std']:.4f}", flush=True)
    write(asked.output, rows)


def write(path: Path | None, rows: list[dict]) -> None:
    if path:
        with path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
