"""Whether a command handled hostile input: what it may answer, and what it must leave alone."""

import json
from pathlib import Path
from typing import NamedTuple


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def is_handled(outcome: Outcome) -> None:
    """Done, or one line that says why not; never a traceback."""
    assert outcome.code in (0, 2), outcome
    assert "Traceback" not in outcome.err, outcome.err
    if outcome.code == 2:
        # typer's own refusals (an option that is no number) come with a line of usage and say "Error:"
        lines = [line for line in outcome.err.splitlines() if line.lower().startswith("error:")]
        assert len(lines) == 1, outcome.err
        assert len(lines[0]) > len("error: ") + 10, outcome.err


def is_refused(outcome: Outcome, *words: str) -> None:
    """One line that holds all of `words`, and exit code 2."""
    is_handled(outcome)
    assert outcome.code == 2, outcome
    for word in words:
        assert word in outcome.err, outcome.err


def tree(folder: Path) -> dict[str, bytes | str]:
    """Every file's content, every link's target."""
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def change_json(path: Path, *keys: str, to: object) -> None:
    """Set one value, nested under `keys`."""
    values = json.loads(path.read_text())
    inner = values
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    path.write_text(json.dumps(values))
