"""`hyperrep evaluate ...`: from a representation's folder to result files, a printed table and a plot."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from ..population import choose_engine
from ..representation.loading import load_representation
from ..training import TrainingConfig
from ..zoo import load_zoo, zoo_images
from .ablation import ablation_table, plot_ablation, run_subsets
from .finetune import FinetuneSettings, evaluate_finetune
from .plots import plot_finetune
from .results import ResultRow, results_table, write_results


SHOWN_EPOCHS = (0, 1, 5, 10, 25, 50)


def run_finetune(
    representation: str,
    zoo_path: str,
    images_source: str | None,
    settings: FinetuneSettings,
    engine_name: str,
    output: Path | None,
    overwrite: bool = False,
) -> list[ResultRow]:
    """Evaluate, write `finetune.jsonl` and `finetune.png`, print the table.

    Raises:
        UserError: if results exist and `overwrite` is not set, or no output folder is given for a Hub id.
    """
    model, folder, revision = load_representation(representation)
    if output is None:
        if not Path(representation).is_dir():
            raise UserError(f"{representation} is on the Hub: say where the results go with --output.")
        output = folder / "results"
    if output.exists() and not output.is_dir():
        raise UserError(f"output {output} is a file; name a folder.")
    results_path = output / "finetune.jsonl"
    if results_path.exists() and not overwrite:
        raise UserError(f"{results_path} exists; replace it with --overwrite or choose another --output.")
    zoo = load_zoo(zoo_path)
    images = zoo_images(zoo, images_source)
    engine = choose_engine(engine_name, zoo.config.network_config())
    source = folder.resolve().name if Path(representation).is_dir() else representation
    progress_folder = output / ".finetune"
    rows = evaluate_finetune(model, zoo, images, engine, settings, source, revision, progress_folder)
    write_results(results_path, rows)
    plot_finetune(output / "finetune.png", rows)
    shutil.rmtree(progress_folder, ignore_errors=True)
    print_table(rows)
    return rows


def run_ablation(
    config: TrainingConfig, zoo_path: str, images_source: str | None, output: Path, only: Sequence[str] = ()
) -> list[ResultRow]:
    """Train with every subset of the configuration's ingredients, write `ablation.jsonl` and `ablation.png`, print the
    table. What is complete is not trained again.

    Raises:
        UserError: as [`~hyperrep.evaluation.ablation.run_subsets`].
    """
    rows = run_subsets(config, load_zoo(zoo_path), output, images_source, only)
    write_results(output / "ablation.jsonl", rows)
    plot_ablation(output / "ablation.png", rows)
    _print("Test accuracy of reconstructed networks, % (mean ± std)", *ablation_table(rows))
    return rows


def print_table(rows: Sequence[ResultRow]) -> None:
    """Print accuracy over the epochs that the poster shows, and similarity, in per cent."""
    last = max(row.epoch for row in rows)
    shown = [row for row in rows if row.epoch in {*SHOWN_EPOCHS, last}]
    for what, title in (
        ("test_accuracy", "Test accuracy, % (mean ± std over n networks)"),
        ("nearest_training_similarity", "Error-set similarity to the nearest training model, % (100 = a copy)"),
        ("nearest_sample_similarity", "Error-set similarity to the nearest network of the same population, %"),
        ("ensemble_accuracy", "Test accuracy of the majority vote of n networks, %"),
    ):
        _print(title, *results_table(shown, what))


def _print(title: str, header: list[str], lines: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:  # a log or a pipe has no width of its own
        console = Console(width=140)
    table = Table(title=title)
    for name in header:
        table.add_column(
            name, justify="left" if name in ("method", "variant", "ingredients") else "right", no_wrap=True
        )
    for line in lines:
        table.add_row(*line)
    console.print(table)
