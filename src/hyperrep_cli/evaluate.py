"""`hyperrep evaluate ...`: what generated networks are worth, and what the ingredients of training are.

Each experiment is a command whose options are the experiment's settings. None is named here: they are read from the
files of `hyperrep.evaluation.experiments` as text, since to import one costs what torch costs, and help should not.
"""

import ast
import dataclasses
import inspect
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from .commands import OVERRIDABLE, Overwrite, Representation, TrainedOn, hide_small_bars
from .output import AsJson, print_json, print_table


# types of settings, as they are written, and what the command line makes of them
TYPES: dict[str, Any] = {
    "int": int,
    "float | int": float,
    "bool": bool,
    "str": str,
    "str | None": str | None,
    "tuple[str, ...]": list[str],
}


class Experiments(TyperGroup):
    """The commands written here, and one for each experiment."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*experiment_files(), *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        files = experiment_files()
        return experiment_command(files[cmd_name]) if cmd_name in files else super().get_command(ctx, cmd_name)


app = typer.Typer(cls=Experiments, help="Measure generated networks.", no_args_is_help=True)


def experiment_files() -> dict[str, Path]:
    """The file of each experiment, by name; nothing is imported."""
    package = find_spec("hyperrep")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "evaluation" / "experiments"
    return {path.stem: path for path in sorted(folder.glob("[!_]*.py"))}


def experiment_command(file: Path) -> Any:
    """The command of an experiment: what all have, and an option for each of its settings."""
    name = file.stem

    def run(
        representation: Representation,
        zoo: TrainedOn,
        images: Annotated[
            str | None, typer.Option(help="Hub id or folder of the images. Default: as the zoo names them.")
        ] = None,
        engine: Annotated[str, typer.Option(help="auto, cuda, native, vmap or loop.")] = "auto",
        output: Annotated[
            Path | None, typer.Option(help="Results folder. Default: results/ of the representation.")
        ] = None,
        overwrite: Overwrite = False,
        as_json: AsJson = False,
        **settings: Any,
    ) -> None:
        from hyperrep.evaluation import experiment_class, run_experiment

        hide_small_bars()
        kind = experiment_class(name)
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
        rows = run_experiment(kind(**given), representation, zoo, images, engine, output, overwrite)
        _print_results(rows, kind.tables(rows), as_json)

    text, options = _settings(file)
    *fixed, _ = inspect.signature(run).parameters.values()
    parameters = [*fixed[:3], *options, *fixed[3:]]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(name, help=text)(run)
    return get_command(single)


def _settings(file: Path) -> tuple[str, list[inspect.Parameter]]:
    """What an experiment's file says of it, and its settings as options: `name: type = setting(default, help)`."""
    kinds = [node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]
    kind = next(node for node in kinds if any(ast.unparse(base) == "Experiment" for base in node.bases))
    options = []
    for node in kind.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(node.value, ast.Call):
            default, text = map(ast.literal_eval, node.value.args)
            kind_of_option: Any = Annotated.__class_getitem__(  # type: ignore[attr-defined]
                (TYPES[ast.unparse(node.annotation)], typer.Option(help=text))
            )
            default = list(default) if isinstance(default, tuple) else default
            place = inspect.Parameter.POSITIONAL_OR_KEYWORD
            options.append(inspect.Parameter(node.target.id, place, default=default, annotation=kind_of_option))
    return ast.get_docstring(kind) or "", options


@app.command(context_settings=OVERRIDABLE)
def ablation(
    context: typer.Context,
    config: Annotated[str, typer.Argument(help="YAML file of settings, or a preset: digits, mnist, mnist-paper.")],
    zoo: Annotated[str, typer.Option(help="Folder or Hub id of the zoo to learn from.")],
    output: Annotated[Path, typer.Option(help="Folder for the runs and the results.")],
    images: Annotated[
        str | None, typer.Option(help="Hub id or folder of the images. Default: as the zoo names them.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Runs to make, such as normalization+behavior. Default: all of a study.")
    ] = None,
    study: Annotated[
        list[str], typer.Option(help="ingredients, contrast, permutation, width or size; may come several times.")
    ] = ["ingredients"],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Train with every subset of loss normalisation, alignment and behavioural loss; run the reconstructed networks.

    Other studies change one thing: contrast, permuted views, width of the latent, size of the zoo (50 to 700 training
    networks).

    A run that was interrupted goes on where it was; those that are complete are not trained again. Any key of CONFIG
    can be given as --key value.
    """
    from hyperrep.evaluation.report import ablation_tables, run_ablation
    from hyperrep.training import TrainingConfig, parse_overrides
    from hyperrep.training.memory import keep_freed_memory

    hide_small_bars()
    keep_freed_memory()
    settings = TrainingConfig.from_yaml(config, parse_overrides(context.args))
    rows = run_ablation(settings, zoo, images, output, only or (), study)
    _print_results(rows, ablation_tables(rows), as_json)


def _print_results(rows, tables, as_json: bool) -> None:
    """After everything is written."""
    if as_json:
        print_json([dataclasses.asdict(row) for row in rows])
        return
    for title, header, lines in tables:
        print_table(title, header, lines)
