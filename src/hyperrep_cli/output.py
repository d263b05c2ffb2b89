"""What commands print. It comes last, when results are written, and nothing about standard output undoes them."""

import io
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs, not a table.")]

PLAIN = {"±": "+/-", "²": "2"}  # where standard output has ASCII alone
WIDTH = 140  # of a log or a pipe, which have none of their own


class Unfailing:
    """Standard error, to which progress bars write: a full disk behind it must not end the work of hours."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def print_json(value: Any) -> None:
    """Anything made of objects, lists, text and finite numbers."""
    print_text(json.dumps(value, indent=2, allow_nan=False))


def print_table(title: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """A table; columns of numbers to the right."""
    from rich.markup import escape
    from rich.table import Table

    from hyperrep.tables import holds_numbers

    plain = not _encoding().lower().startswith("utf")

    def text(cell: str) -> str:
        for character, replacement in PLAIN.items() if plain else ():
            cell = cell.replace(character, replacement)
        return cell

    table = Table()
    for name, numbers in zip(header, holds_numbers(lines) or [False] * len(header)):
        table.add_column(escape(text(name)), justify="right" if numbers else "left", no_wrap=True)
    for line in lines:
        table.add_row(*(escape(text(cell)) for cell in line))
    show(f"\n{escape(text(title))}", table)


def show(*parts: Any) -> None:
    """Whatever rich can print."""
    from rich.console import Console

    terminal = not getattr(sys.stdout, "closed", True) and sys.stdout.isatty()
    memory = io.TextIOWrapper(io.BytesIO(), encoding=_encoding(), errors="replace")  # tells rich which lines it has
    console = Console(file=memory, force_terminal=terminal, width=None if terminal else WIDTH)
    console.print(*parts)
    memory.seek(0)
    print_text(memory.read().rstrip("\n"))


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "utf-8"


def print_text(text: str) -> None:
    """A line or more on standard output. What its encoding lacks becomes `?`; if nobody reads it, it is dropped."""
    if sys.stdout is None:  # the shell closed it (`>&-`)
        return
    encoding = _encoding()
    try:
        sys.stdout.write(text.encode(encoding, errors="replace").decode(encoding) + "\n")
        sys.stdout.flush()
    except (OSError, ValueError):  # a closed pipe, a full disk, a closed stream
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  or Python complains of the pipe again when it ends
