"""The `hyperrep` command.

It lives beside the package, not in it: `import hyperrep` registers the Auto classes and so costs what transformers
costs, but `hyperrep --help` should answer at once. Every command imports what it needs in its own body.
"""

import logging
import os
import sys
from typing import Annotated

import typer

from . import evaluate, zoo
from .commands import OVERRIDABLE, card, push, sample, tell_once, train_representation


# Threads that wait for one another sleep, where OpenMP lets them spin: on a busy machine they spin in the place of the
# one awaited. OpenMP reads this when torch is loaded, which nothing here does before a command runs.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

app = typer.Typer(
    help="Hyper-representations: learn from a population of neural networks, and sample new ones.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(zoo.app, name="zoo")
app.command("train", context_settings=OVERRIDABLE)(train_representation)
app.command()(sample)
app.add_typer(evaluate.app, name="evaluate")
app.command()(card)
app.command()(push)


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(version("hyperrep"))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)


def main() -> None:
    """Run the command; a user's mistake is one line on standard error and exit code 2."""
    try:
        app()
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)
    except Exception as error:
        # imported late, and only when something went wrong: it pulls in nothing but the exception
        if "hyperrep.errors" in sys.modules and isinstance(error, sys.modules["hyperrep.errors"].UserError):
            tell_once(f"error: {error}")
            sys.exit(2)
        raise
