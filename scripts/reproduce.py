"""From images to a table: zoo, representation, sampler, experiment, and how long each of them took.

    python scripts/reproduce.py --table finetune --datasets mnist,stl10
    python scripts/reproduce.py --table novelty --datasets digits --models 96          # a trial, in minutes
    python scripts/reproduce.py --table finetune --datasets mnist --images mnist=FOLDER --set num_models=100 epochs=25

A data set is a protocol of `hyperrep zoo build`, a table an experiment of `hyperrep evaluate`, or `ablation`. Zoos are
built by the published protocol, the models of the test split trained twice as long, as rows B_T are; representations
are trained by the preset of the data set's name, or that of mnist where there is none.

Each stage has a folder whose name says by a hash what it was made of: what is complete is not made again, another
table or another number of models starts from what is there. Ctrl-C, and the same command goes on. Wall times of all
stages stand in `seconds.jsonl`, beside the seconds that processors worked on them (`processor_seconds`: over two
cores, less than twice the wall time says that something else ran, or that cores waited); those of a run that was
killed outright are not known.
"""

import argparse
import dataclasses
import hashlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hyperrep_cli  # noqa: F401  before torch: it lets waiting threads sleep
from hyperrep.errors import UserError
from hyperrep.evaluation import Experiment, experiment_class, experiment_names, run_experiment
from hyperrep.evaluation.report import run_ablation, tables_of
from hyperrep.files import OutputFolder, output_folder
from hyperrep.files.reading import parse_yaml
from hyperrep.images import load_images
from hyperrep.pipeline import fit_sampler
from hyperrep.population import choose_engine
from hyperrep.results import ResultRow, machine_name, read_results, versions, write_results
from hyperrep.samplers import SAMPLER_FOLDER
from hyperrep.tables import SHOWN_EPOCHS
from hyperrep.training import TrainingConfig, train
from hyperrep.training.config import presets
from hyperrep.training.memory import keep_freed_memory
from hyperrep.zoo import Protocol, ZooSettings, build_zoo, get_protocol
from hyperrep_cli.commands import hide_small_bars
from hyperrep_cli.errors import sentence
from hyperrep_cli.output import print_table


TIMES = "seconds.jsonl"
ABLATION = "ablation"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", required=True, help=f"one of {', '.join([*experiment_names(), ABLATION])}")
    parser.add_argument("--datasets", required=True, help="protocols, separated by commas")
    parser.add_argument("--models", type=int, default=1000, help="networks in each zoo (default: 1000)")
    parser.add_argument(
        "--images", nargs="+", default=[], metavar="DATASET=SOURCE", help="folders or Hub ids; default: the protocol's"
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", dest="settings", help="settings of the experiment"
    )
    parser.add_argument(
        "--train", nargs="+", default=[], metavar="KEY=VALUE", help="settings of the training, instead of the preset's"
    )
    parser.add_argument("--output", type=Path, default=Path("reproduction"), help="folder for everything")
    asked = parser.parse_args(arguments)
    hide_small_bars()
    keep_freed_memory()
    try:
        reproduce(asked)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    except Exception as error:
        if (line := sentence(error)) is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 2
    return 0


def reproduce(asked: argparse.Namespace) -> None:
    """Everything the user can get wrong first; then one data set after the other, and what came of it.

    Raises:
        UserError: names what does not fit.
    """
    table = table_of(asked.table, pairs(asked.settings, "--set"))
    protocols = {name: get_protocol(name) for name in dict.fromkeys(asked.datasets.split(","))}
    images = pairs(asked.images, "--images", plain=True)
    if unknown := [name for name in images if name not in protocols]:
        raise UserError(f"--images names {unknown[0]!r}; data sets are {', '.join(protocols)}.")
    configs = {
        name: TrainingConfig.from_yaml(name if name in presets() else "mnist", pairs(asked.train, "--train"))
        for name in protocols
    }
    zoos = {name: zoo_settings(protocol, asked.models, configs[name]) for name, protocol in protocols.items()}
    with output_folder(asked.output, "reproduction", "add") as folder:
        folder.check_replaceable(TIMES)
        clock = Clock(folder)
        results = [
            dataset(clock, zoos[name], configs[name], table, images.get(name, protocol.images))
            for name, protocol in protocols.items()
        ]
    for path in results:
        heading, tables = tables_of(path)
        for title, header, lines in tables:
            print_table(f"{heading}. {title}", header, lines)
    print_table("Wall time, seconds", *clock.table(list(protocols)))
    print(f"\nEverything is in {asked.output}; {', '.join(str(path) for path in results)}")


class Clock:
    """Seconds of each stage, over all runs that worked on it, in a result file.

    Args:
        folder ([`OutputFolder`]): of everything.
    """

    def __init__(self, folder: OutputFolder):
        self.folder = folder
        self.now: dict[tuple[str, str], str] = {}  # the key of each stage and data set
        self.rows: list[ResultRow] = read_results(folder.path / TIMES) if (folder.path / TIMES).exists() else []

    @contextmanager
    def stage(self, name: str, dataset: str, key: str, is_done: bool, **made: Any) -> Iterator[None]:
        """Time what is done inside, also if it is interrupted; a stage that was done before keeps its time.

        Args:
            name, dataset (`str`)
            key (`str`): of what the stage is made.
            is_done (`bool`): before.
            made: for the row's settings.
        """
        before = next((row for row in self.rows if row.settings["key"] == key and row.method == name), None)
        self.now[name, dataset] = key
        if is_done:
            print(f"{dataset}: {name} is there", file=sys.stderr)
            yield
            return
        started, busy = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started + (before.mean if before else 0.0)
            busy = time.process_time() - busy + (before.settings.get("processor_seconds", 0.0) if before else 0.0)
            self.rows = [row for row in self.rows if row is not before]
            self.rows.append(
                ResultRow(
                    *("wall_time", "reproduction", name, dataset, dataset, dataset),
                    epoch=0,
                    n=1,
                    mean=seconds,
                    std=0.0,
                    seed=0,
                    zoo=dataset,
                    revision=None,
                    machine=machine_name(),
                    seconds=seconds,
                    settings={**versions(), "key": key, "processor_seconds": busy, **made},
                )
            )
            write_results(self.folder, TIMES, self.rows)

    def table(self, datasets: list[str]) -> tuple[list[str], list[list[str]]]:
        """Header and lines: a stage a line, a data set a column; what was not timed here is empty."""
        seconds = {(row.method, row.variant, row.settings["key"]): row.mean for row in self.rows}
        times = {place: seconds.get((*place, key)) for place, key in self.now.items()}
        lines = [
            [stage, *(_shown(times.get((stage, name))) for name in datasets)]
            for stage in dict.fromkeys(stage for stage, _ in self.now)
        ]
        totals = [sum(value or 0.0 for (_, of), value in times.items() if of == name) for name in datasets]
        return ["stage", *datasets], [*lines, ["altogether", *map(_shown, totals)]]


def _shown(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:,.1f}"


def dataset(
    clock: Clock, settings: ZooSettings, config: TrainingConfig, table: "Experiment | Studies", source: str
) -> Path:
    """All stages of a data set; returns the result file."""
    protocol, place = settings.protocol, clock.folder.path
    name = protocol.name
    started = time.perf_counter()
    images = load_images(source, protocol.processor(), protocol.validation_fraction)
    read = time.perf_counter() - started

    key = key_of(dataclasses.asdict(settings), images.fingerprint, images.classes)
    zoo = place / f"cnn-zoo-{name}-{settings.models}-{key}"
    engine = choose_engine("auto", protocol.network_config(images.classes))
    done = (zoo / "zoo_config.json").exists()
    with clock.stage("zoo", name, key, done, models=settings.models, images_read=read):
        build_zoo(settings, images, engine, zoo, resume=True)

    key = key_of(key, dataclasses.asdict(config))
    if isinstance(table, Studies):
        results = place / f"{ABLATION}-{name}-{key_of(key, table.studies)}"
        path = results / f"{ABLATION}.jsonl"
        with clock.stage(ABLATION, name, key_of(key, table.studies), path.exists(), studies=table.studies):
            if not path.exists():
                run_ablation(config, str(zoo), source, results, studies=table.studies)
        return path
    representation = place / f"hyperrep-{name}-{key}"
    done = all((representation / file).exists() for file in ("results/training.json", "model.safetensors"))
    with clock.stage("representation", name, key, done):
        train(config, zoo, representation, resume=True, images=source)
    with clock.stage("sampler", name, key, (representation / SAMPLER_FOLDER).exists()):
        if not (representation / SAMPLER_FOLDER).exists():
            fit_sampler(representation, zoo)

    values: dict[str, Any] = dataclasses.asdict(table)  # type: ignore[call-overload]
    key = key_of(key, table.name, values)
    results = place / f"{table.name}-{name}-{key}"
    path = results / f"{table.name}.jsonl"
    with clock.stage(table.name, name, key, path.exists(), experiment=values):
        if not path.exists():
            run_experiment(table, str(representation), str(zoo), source, output=results)
    return path


def zoo_settings(protocol: Protocol, models: int, config: TrainingConfig) -> ZooSettings:
    """The published protocol; kept are the epochs that tables show and those that the representation learns from.

    Raises:
        UserError: if the representation wants epochs that the protocol does not have.
    """
    last = protocol.epochs
    if beyond := [epoch for epoch in config.epochs if epoch > last]:
        raise UserError(f"epochs names {beyond[0]}, but protocol {protocol.name} trains for {last}.")
    kept = sorted({*(epoch for epoch in SHOWN_EPOCHS if epoch < last), *config.epochs, last, 2 * last})
    return ZooSettings(protocol, models, last, tuple(kept), test_epochs=2 * last)


@dataclasses.dataclass(frozen=True)
class Studies:
    """What an ablation changes: see `hyperrep evaluate ablation`."""

    studies: tuple[str, ...] = ("ingredients",)


def table_of(name: str, settings: dict[str, Any]) -> Experiment | Studies:
    """The experiment, or the ablation, with its settings.

    Raises:
        UserError: if there is none of that name, or it has no such setting, or not such a value.
    """
    names = [*experiment_names(), ABLATION]
    if name not in names:
        raise UserError(f"table {name!r} is unknown; choose from {', '.join(names)}.")
    kind: Any = Studies if name == ABLATION else experiment_class(name)
    known = [field.name for field in dataclasses.fields(kind)]
    if unknown := [key for key in settings if key not in known]:
        raise UserError(f"{name} has no setting {unknown[0]!r}; it has {', '.join(known)}.")
    tuples = {field.name for field in dataclasses.fields(kind) if "tuple" in str(field.type)}
    return kind(**{key: tuple(str(value).split(",")) if key in tuples else value for key, value in settings.items()})


def pairs(entries: list[str], option: str, plain: bool = False) -> dict[str, Any]:
    """`KEY=VALUE` of an option; a value as YAML has it, or text where it is `plain`.

    Raises:
        UserError: if there is no `=`.
    """
    found = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not equals:
            raise UserError(f"{option} {entry}: write it as KEY=VALUE.")
        found[key if plain else key.replace("-", "_")] = value if plain else parse_yaml(value, f"{option} {entry}")
    return found


def key_of(*parts: Any) -> str:
    """Eight hexadecimal digits that say what something is made of."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is half-written goes, and the time is kept
    sys.exit(main())
