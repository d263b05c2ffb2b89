"""What every experiment is: settings, and populations that are measured one after the other, kept, and shown."""

import dataclasses
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, ClassVar

from torch import Tensor
from tqdm.auto import tqdm

from ..errors import UserError
from ..results import QUANTITIES, Quantity, ResultRow, Table, result_tables
from . import experiments
from .bench import Bench
from .plots import plot_curves
from .populations import Population
from .progress import Outcome, Progress


FIRST_ORDER_SEED = 1_000_000  # image orders of networks that an experiment trains: none that a zoo's seeds would give
LARGEST_SEED = 2**32 - 1

# of a quantity, by epoch: one number a network (networks,), or one of all together, (1,)
Measured = dict[str, dict[int, Tensor]]


class Experiment(ABC):
    r"""
    A question that is asked of generated networks.

    A new one is a subclass in a file of the folder `experiments`, called as its file is, and nothing else: a dataclass
    whose fields are its settings (what each is, in `metadata["help"]`), and `rows`, which makes the numbers. The
    command line, result files, resuming, tables, plots and cards follow.

    Attributes:
        name (`str`): of the command, of the result files, and `experiment` in rows.
        title (`str`): heading on a card; the documentation's first paragraph stands below it.
        quantities (`Mapping[str, Quantity]`): how tables show those that [`~hyperrep.results.QUANTITIES`] lacks.
        runs_networks (`bool`): whether the zoo's networks must be of one architecture, activation included.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    quantities: ClassVar[Mapping[str, Quantity]] = {}
    runs_networks: ClassVar[bool] = True

    @abstractmethod
    def rows(self, bench: Bench, progress: Progress | None = None) -> Iterator[ResultRow]:
        """Make the numbers.

        Args:
            bench ([`Bench`])
            progress ([`Progress`], *optional*): keeps what is finished.

        Raises:
            UserError: if they cannot be made.
        """

    @classmethod
    def tables(cls, rows: Sequence[ResultRow]) -> list[Table]:
        """Title, header and lines of the tables that are printed, and stand on the card."""
        return result_tables(rows, cls.quantities)

    @classmethod
    def plot(cls, path: Path, rows: Sequence[ResultRow]) -> None:
        """Draw a PNG of the numbers: the first quantity of the tables, over epochs of training."""
        known = {**QUANTITIES, **cls.quantities}
        what = next((what for what in known if any(row.what == what for row in rows)), rows[0].what)
        plot_curves(path, rows, what, known.get(what) or Quantity(what, in_per_cent=False))


def experiment_names() -> list[str]:
    """Of every experiment, without importing any."""
    return [module.name for module in iter_modules(experiments.__path__)]


def experiment_class(name: str) -> type[Experiment]:
    """The experiment of this name, one of [`experiment_names`]."""
    import_module(f"{experiments.__name__}.{name}")
    return next(kind for kind in Experiment.__subclasses__() if kind.name == name)


def measured(
    populations: Sequence[Population],
    settings: dict[str, Any],
    measure: Callable[[Tensor, Callable[[int], object]], Measured],
    work: int,
    progress: Progress | None = None,
    desc: str = "fine-tuning",
    numbers: int | None = None,
) -> Iterator[tuple[Population, Outcome]]:
    """Measure one population after the other, with a bar; what an interrupted run has kept is read.

    Args:
        populations (`list[Population]`)
        settings (`dict`): what decides the numbers beside the populations' own.
        measure (`Callable`): of weights (networks, num_params); reports its work, in model-epochs, to its second
            argument.
        work (`int`): model-epochs of one population.
        progress ([`Progress`], *optional*)
        numbers (`int`, *optional*): how many `measure` gives of each quantity; by default one a network.

    Raises:
        UserError: if files of [`Progress`] cannot be written, or as `measure` does.
    """
    if progress is not None:
        progress.check([population.name for population in populations])
    with tqdm(total=work * len(populations), unit="model-epoch", desc=desc) as bar:
        for population in populations:
            made = json.loads(json.dumps(settings | population.settings))
            outcome = progress.read(population.name, made) if progress else None
            if outcome is None:
                started = time.perf_counter()
                values = {
                    what: {str(epoch): numbers.tolist() for epoch, numbers in epochs.items()}
                    for what, epochs in measure(population.weights, bar.update).items()
                }
                count = len(population.weights) if numbers is None else numbers
                outcome = Outcome(made, count, values, time.perf_counter() - started)
                if progress is not None:
                    progress.write(population.name, outcome)
            else:
                bar.n += work
                bar.initial = bar.n  # an honest rate counts only what this run trains
            yield population, outcome


def check_least(experiment: Experiment, **least: int) -> None:
    """Whether settings are as large as they must be: `check_least(self, num_models=1)`.

    Raises:
        UserError: names the first that is not.
    """
    for name, bound in least.items():
        if getattr(experiment, name) < bound:
            raise UserError(f"{name} is {getattr(experiment, name)}; it must be {bound} or more.")


def order_seeds(seed: int, num_models: int) -> range:
    """Seeds of the image orders by which an experiment trains networks, one a network.

    Raises:
        UserError: if the experiment's seed is out of range.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"seed is {seed}; it must be from 0 to {LARGEST_SEED:,}.")
    first = FIRST_ORDER_SEED * (seed + 1)
    return range(first, first + num_models)


def setting(default: Any, text: str) -> Any:
    """A field of an experiment: its default, and what it is; both literal, as the command line reads the text."""
    return dataclasses.field(default=default, metadata={"help": text})


__all__ = [
    "Experiment",
    "Measured",
    "check_least",
    "experiment_class",
    "experiment_names",
    "measured",
    "order_seeds",
    "setting",
]
