"""The `hyperrep` command.

It lives beside the package, not in it: `import hyperrep` registers the Auto classes and so costs what transformers
costs, but `hyperrep --help` should answer at once. Every command imports what it needs in its own body.
"""

import io
import logging
import os
import signal
import sys
import traceback
import warnings
from typing import Annotated

import typer

from . import evaluate, zoo
from .commands import OVERRIDABLE, card, fit, push, results, sample, tell_once, train_representation
from .environment import environment
from .errors import sentence
from .output import Unfailing


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
app.command()(fit)
app.command()(sample)
app.add_typer(evaluate.app, name="evaluate")
app.command()(card)
app.command()(results)
app.command()(push)
app.command("env")(environment)


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(version("hyperrep"))
        raise typer.Exit


# what turns off the bars and the chatter of the libraries; they read it when they are imported, in a command's body
QUIET = {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
}

_debugging = False


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No bars and no warnings, only results.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="HYPERREP_DEBUG", help="Show where in the code an error came from.")
    ] = False,
) -> None:
    level = logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
    logging.basicConfig(format="%(levelname)s: %(message)s", level=level)
    if quiet:
        os.environ.update(QUIET)
    if not verbose and not sys.warnoptions:
        warnings.simplefilter("ignore")  # of libraries, for programmers
    global _debugging
    _debugging = debug
    try:
        os.getcwd()
    except FileNotFoundError as error:  # torch's libraries would end the process
        raise FileNotFoundError(
            error.errno, "the folder the command was started in is gone; go to another", "."
        ) from error


def main() -> None:
    """Run the command. A mistake of the user's, and what a library or the system refuses, is one line on standard
    error and exit code 2; a mistake of ours shows where it happened. Ctrl-C gives 130 and SIGTERM 143, after what was
    half-written has been removed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ± must not lose the work of hours
    before, stderr = signal.signal(signal.SIGTERM, _terminate), sys.stderr
    sys.stderr = Unfailing(stderr)  # type: ignore[assignment]
    try:
        app()
    except SystemExit as stop:
        said = {130: "interrupted", 143: "terminated"}.get(stop.code)  # type: ignore[arg-type]
        if said and os.environ.get("RANK", "0") == "0":
            typer.echo(stop.__cause__ or said, err=True)
        raise
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)
    except Exception as error:
        line = sentence(error)
        if line is None or _debugging:
            traceback.print_exc()
        if line is None:
            typer.echo("This is a mistake in hyperrep: please report the lines above, and `hyperrep env`.", err=True)
            sys.exit(1)
        tell_once(f"error: {line}")
        sys.exit(2)
    finally:
        sys.stderr = stderr
        signal.signal(signal.SIGTERM, before)


def _terminate(*_: object) -> None:
    """End as Ctrl-C does, so that what is half-written is removed; once, and not again while that is done."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)
