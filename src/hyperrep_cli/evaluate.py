"""`hyperrep evaluate ...`: what generated networks are worth, and what the ingredients of training are."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .commands import OVERRIDABLE, Overwrite, Representation, hide_small_bars
from .output import AsJson, print_json, print_table


app = typer.Typer(help="Measure generated networks.", no_args_is_help=True)


@app.command()
def finetune(
    representation: Representation,
    zoo: Annotated[str, typer.Option(help="Folder or Hub id of the zoo it was trained on.")],
    images: Annotated[
        str | None, typer.Option(help="Hub id or folder of the images. Default: as the zoo names them.")
    ] = None,
    num_models: Annotated[int, typer.Option(help="Networks in each generated population.")] = 50,
    epochs: Annotated[int, typer.Option(help="Fine-tuning epochs.")] = 25,
    top: Annotated[float, typer.Option(help="Share of the best training models the densities are fitted to.")] = 0.3,
    bandwidth: Annotated[float, typer.Option(help="Of the kernel densities.")] = 0.002,
    seed: Annotated[int, typer.Option(help="Of sampling and image orders.")] = 0,
    engine: Annotated[str, typer.Option(help="auto, native, vmap or loop.")] = "auto",
    output: Annotated[
        Path | None, typer.Option(help="Results folder. Default: results/ of the representation.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """The poster's first table: networks trained from scratch (B_T), drawn from a density over weights (B_KDE30) or
    latents (S_KDE30; the number is --top in per cent), and from the stored sampler, over fine-tuning epochs."""
    from hyperrep.evaluation import FinetuneSettings
    from hyperrep.evaluation.report import finetune_tables, run_finetune

    hide_small_bars()
    settings = FinetuneSettings(num_models=num_models, epochs=epochs, top=top, bandwidth=bandwidth, seed=seed)
    rows = run_finetune(representation, zoo, images, settings, engine, output, overwrite)
    _print_results(rows, finetune_tables(rows), as_json)


@app.command(context_settings=OVERRIDABLE)
def ablation(
    context: typer.Context,
    config: Annotated[str, typer.Argument(help="YAML file of settings, or a preset: digits, mnist, mnist-paper.")],
    zoo: Annotated[str, typer.Option(help="Folder or Hub id of the zoo to learn from.")],
    output: Annotated[Path, typer.Option(help="Folder for the runs and the results.")],
    images: Annotated[
        str | None, typer.Option(help="Hub id or folder of the images. Default: as the zoo names them.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Subsets to run, such as normalization+behavior.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train with every subset of loss normalisation, alignment and behavioural loss; run the reconstructed networks.

    A run that was interrupted goes on where it was; those that are complete are not trained again. Any key of CONFIG
    can be given as --key value.
    """
    from hyperrep.evaluation.report import ablation_tables, run_ablation
    from hyperrep.training import TrainingConfig, parse_overrides
    from hyperrep.training.memory import keep_freed_memory

    hide_small_bars()
    keep_freed_memory()
    settings = TrainingConfig.from_yaml(config, parse_overrides(context.args))
    rows = run_ablation(settings, zoo, images, output, only or ())
    _print_results(rows, ablation_tables(rows), as_json)


def _print_results(rows, tables, as_json: bool) -> None:
    """After everything is written."""
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    for title, header, lines in tables:
        print_table(title, header, lines)
