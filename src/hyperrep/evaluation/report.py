"""`hyperrep evaluate ...`: from a representation's folder to result files and a plot; and the tables to print."""

from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from ..files import output_folder
from ..population import choose_engine
from ..representation.loading import load_representation
from ..results import ResultRow, results_table, stored_sampler, write_results
from ..samplers import SAMPLER_FOLDER, Sampler
from ..training import TrainingConfig
from ..zoo import load_zoo, zoo_images
from .ablation import ablation_table, plot_ablation, run_subsets
from .finetune import check_belongs, evaluate_finetune
from .plots import plot_finetune
from .populations import FinetuneSettings
from .progress import Progress


SHOWN_EPOCHS = (0, 1, 5, 10, 25, 50)
RESULTS = "results"

Table = tuple[str, list[str], list[list[str]]]  # title, header, lines


def run_finetune(
    representation: str,
    zoo_path: str,
    images_source: str | None,
    settings: FinetuneSettings,
    engine_name: str,
    output: Path | None,
    overwrite: bool = False,
) -> list[ResultRow]:
    """Evaluate, write `finetune.jsonl` and `finetune.png`.

    Results lie in `results/` of the representation, or in `output`. An interrupted evaluation goes on where it was.

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
    table, plot = f"{prefix}finetune.jsonl", f"{prefix}finetune.png"
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
        engine = choose_engine(engine_name, zoo.config.network_config())
        images = zoo_images(zoo, images_source)
        progress = Progress(out, f"{prefix}.finetune")
        rows = evaluate_finetune(model, zoo, images, engine, settings, source, revision, progress, sampler)
        write_results(out, table, rows)
        out.write(plot, lambda path: plot_finetune(path, rows))
        progress.remove()
    return rows


def run_ablation(
    config: TrainingConfig, zoo_path: str, images_source: str | None, output: Path, only: Sequence[str] = ()
) -> list[ResultRow]:
    """Train with every subset of the configuration's ingredients, write `ablation.jsonl` and `ablation.png`. What is
    complete is not trained again.

    Raises:
        UserError: as [`~hyperrep.evaluation.ablation.run_subsets`], or if the output cannot be written.
    """
    with output_folder(output, "ablation", "add") as out:
        out.check_replaceable("ablation.jsonl", "ablation.png")
        rows = run_subsets(config, load_zoo(zoo_path), output, images_source, only)
        write_results(out, "ablation.jsonl", rows)
        out.write("ablation.png", lambda path: plot_ablation(path, rows))
    return rows


def finetune_tables(rows: Sequence[ResultRow]) -> list[Table]:
    """Accuracy over the epochs that the poster shows, and similarity, in per cent."""
    last = max(row.epoch for row in rows)
    shown = [row for row in rows if row.epoch in {*SHOWN_EPOCHS, last}]
    stored = f"; the stored sampler is {stored_sampler(rows)}" if stored_sampler(rows) else ""
    titles = {
        "test_accuracy": f"Test accuracy, % (mean ± std over n networks{stored})",
        "nearest_training_similarity": "Error-set similarity to the nearest training model, % (100 = a copy)",
        "nearest_sample_similarity": "Error-set similarity to the nearest network of the same population, %",
        "ensemble_accuracy": "Test accuracy of the majority vote of n networks, %",
    }
    return [
        (title, *results_table(shown, what))
        for what, title in titles.items()
        if any(row.what == what for row in shown)
    ]


def ablation_tables(rows: Sequence[ResultRow]) -> list[Table]:
    """Accuracy and R² of every subset."""
    return [("Accuracy of reconstructed networks, % (mean ± std)", *ablation_table(rows))]
