"""Tables as text: what cards, the README and papers show of numbers."""

import re
from collections.abc import Iterable, Sequence


Table = tuple[str, list[str], list[list[str]]]  # title, header, lines

SHOWN_EPOCHS = (0, 1, 5, 10, 25, 50)  # those of the poster; the last one is always shown

_NUMBER = re.compile(r"[-–+−]?\d")
_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "²": "$^2$",
}


def shown_epochs(epochs: Iterable[int]) -> set[int]:
    """Those of which tables have a column or a line."""
    known = set(epochs)
    return {epoch for epoch in known if epoch in SHOWN_EPOCHS or epoch == max(known)}


def per_cent(mean: float, std: float) -> str:
    """`mean ± std` of shares, 0 to 1."""
    return f"{100 * mean:.1f} ± {100 * std:.1f}"


def holds_numbers(lines: Sequence[Sequence[str]]) -> list[bool]:
    """Whether a column's cells are numbers, or empty: such a column is set to the right."""
    return [all(not cell or _NUMBER.match(cell) for cell in cells) for cells in zip(*lines)]


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """The table in Markdown; a bar or a line break in a cell does not end it."""
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in [header, *lines]]
    cells.insert(1, ["---"] * len(header))
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def latex_table(title: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """The table as a LaTeX float with the title as its caption; needs `\\usepackage{booktabs}`."""
    columns = "".join("r" if numbers else "l" for numbers in holds_numbers(lines) or [False] * len(header))
    head, *body = [" & ".join(map(_latex, line)) + r" \\" for line in [header, *lines]]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(title)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            *(r"\toprule", head, r"\midrule", *body, r"\bottomrule"),
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


__all__ = ["SHOWN_EPOCHS", "Table", "holds_numbers", "latex_table", "markdown_table", "per_cent", "shown_epochs"]
