"""`hyperrep evaluate ...`: from a representation's folder to result files and a plot, and from these to tables."""

import inspect
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from ..files import output_folder, read_json_lines
from ..population import choose_engine
from ..representation.loading import load_representation
from ..results import ResultRow, read_results, result_tables, write_results
from ..samplers import SAMPLER_FOLDER, Sampler
from ..tables import Table
from ..training import TrainingConfig
from ..zoo import load_zoo, zoo_images
from ..zoo.accuracy import accuracy_table, read_accuracy
from .ablation import EXPERIMENT as ABLATION
from .ablation import ablation_table, plot_ablation, run_studies
from .bench import Bench, check_belongs
from .experiment import Experiment, experiment_class, experiment_names
from .progress import Progress


RESULTS = "results"


def run_experiment(
    experiment: Experiment,
    representation: str,
    zoo_path: str,
    images_source: str | None = None,
    engine_name: str = "auto",
    output: Path | None = None,
    overwrite: bool = False,
) -> list[ResultRow]:
    """Run an experiment, and write NAME.jsonl and NAME.png.

    Results lie in `results/` of the representation, or in `output`. An interrupted experiment goes on where it was.

    Args:
        experiment ([`Experiment`]): with its settings.
        representation (`str`): folder or Hub id.
        zoo_path (`str`): folder or Hub id of the zoo that it was trained on.
        images_source (`str`, *optional*): where the images are; as the zoo names them by default.
        engine_name (`str`): see [`~hyperrep.population.choose_engine`].
        output (`Path`, *optional*), overwrite (`bool`): where results go, and whether they replace earlier ones.

    Raises:
        UserError: before any work, if results exist and `overwrite` is not set, no output folder is given for a Hub
            id, the output cannot be written or holds files of those names that are not ours, or representation, zoo
            and engine do not fit together.
    """
    model, folder, revision = load_representation(representation)
    is_local = Path(representation).is_dir()
    if output is None and not is_local:
        raise UserError(f"{representation} is on the Hub: say where the results go with --output.")
    inside = is_local and (output is None or output.resolve() == (folder / RESULTS).resolve())
    prefix = f"{RESULTS}/" if inside else ""
    table, plot = (f"{prefix}{experiment.name}.{kind}" for kind in ("jsonl", "png"))
    target = folder if output is None or inside else output
    kind = "representation" if inside else "results"
    with output_folder(target, kind, "add") as out:
        if (out.path / table).exists() and not overwrite:
            raise UserError(f"{target / table} exists; replace it with --overwrite or choose another --output.")
        out.check_replaceable(table, plot)
        sampler = Sampler.from_pretrained(folder / SAMPLER_FOLDER) if (folder / SAMPLER_FOLDER).exists() else None
        zoo = load_zoo(zoo_path)
        source = folder.resolve().name if is_local else representation
        check_belongs(model, zoo, sampler, source)
        network = zoo.config.network_config() if experiment.runs_networks else zoo.config.architecture()
        engine = choose_engine(engine_name, network)
        bench = Bench(model, zoo, zoo_images(zoo, images_source), engine, source, revision, sampler)
        bench.check()
        progress = Progress(out, f"{prefix}.{experiment.name}")
        rows = list(experiment.rows(bench, progress))
        write_results(out, table, rows)
        out.write(plot, lambda path: experiment.plot(path, rows))
        progress.remove()
    return rows


def run_ablation(
    config: TrainingConfig,
    zoo_path: str,
    images_source: str | None,
    output: Path,
    only: Sequence[str] = (),
    studies: Sequence[str] = ("ingredients",),
) -> list[ResultRow]:
    """Train with every subset of the configuration's ingredients, or with one thing changed, and write
    `ablation.jsonl` and `ablation.png`. What is complete is not trained again.

    Raises:
        UserError: as [`~hyperrep.evaluation.ablation.run_studies`], or if the output cannot be written.
    """
    with output_folder(output, "ablation", "add") as out:
        out.check_replaceable("ablation.jsonl", "ablation.png")
        rows = run_studies(config, load_zoo(zoo_path), output, images_source, only, studies)
        write_results(out, "ablation.jsonl", rows)
        out.write("ablation.png", lambda path: plot_ablation(path, rows))
    return rows


def ablation_tables(rows: Sequence[ResultRow]) -> list[Table]:
    """Accuracy and R² of every run."""
    return [("Accuracy of reconstructed networks, % (mean ± std)", *ablation_table(rows))]


def described(rows: Sequence[ResultRow]) -> tuple[str, str, list[Table]]:
    """What the rows of a file are about, in a few words and in more, and their tables.

    Args:
        rows (`list[ResultRow]`): of one experiment, at least one; it need not be known here.
    """
    name = rows[0].experiment
    if name == ABLATION:
        return "Ablation", "", ablation_tables(rows)
    if name in experiment_names():
        kind = experiment_class(name)
        return kind.title, inspect.getdoc(kind) or "", kind.tables(rows)
    return name, "", result_tables(rows)


def tables_of(path: str | Path) -> tuple[str, list[Table]]:
    """The tables of a result file, and their heading: of an experiment, of an ablation, or of a zoo.

    Raises:
        UserError: names the file and the line that is damaged, or says that there is no number.
    """
    lines = read_json_lines(path)
    if not lines:
        raise UserError(f"{path} holds no numbers.")
    if "experiment" not in lines[0][1] and "split" in lines[0][1]:
        title = "Test accuracy of a zoo, % (mean ± std over n networks)"
        return "Zoo", [(title, *accuracy_table(read_accuracy(path)))]
    rows = read_results(path)
    heading, _, tables = described(rows)
    return f"{heading}: {rows[0].target}", tables
