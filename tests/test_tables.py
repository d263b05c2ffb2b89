"""Tables say the same in every form, and `hyperrep results` prints those of any result file."""

import re
from pathlib import Path

import pytest

from hyperrep.evaluation.report import tables_of
from hyperrep.tables import holds_numbers, latex_table, markdown_table


CARDS = Path(__file__).parent.parent / "model_cards"
FILES = sorted(CARDS.glob("*/results/*.jsonl"))
ODD = ["50 % & more", "as_released", "$x^2$ {~} #1", "a\\b|c", "<1 ± 2>", "two\nlines", ""]
COMMANDS = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"$\pm$": "±",
    "$^2$": "²",
    **{f"\\{character}": character for character in "&%$#_{}"},
}


def unescaped(text: str) -> str:
    """What LaTeX shows for it."""
    return re.sub("|".join(map(re.escape, COMMANDS)), lambda found: COMMANDS[found[0]], text)


def cells_of_latex(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    return [[unescaped(cell) for cell in re.split(r" (?<!\\)& ", line.removesuffix(r" \\"))] for line in lines]


def cells_of_markdown(text: str) -> list[list[str]]:
    lines = [re.split(r" (?<!\\)\| ", f" {line} ")[1:-1] for line in text.splitlines()]
    del lines[1]
    return [[cell.strip().replace("\\|", "|") for cell in line] for line in lines]


def test_odd_cells_come_through():
    header, lines = ["method", "n %", *"abcde"], [ODD, ODD[::-1]]
    shown = [[" ".join(cell.split()) for cell in line] for line in [header, *lines]]
    text = latex_table("50 % of_all", header, lines)
    assert cells_of_latex(text) == shown
    assert r"\caption{50 \% of\_all}" in text
    assert cells_of_markdown(markdown_table(header, lines)) == shown


def test_numbers_are_set_to_the_right():
    lines = [["S_KDE30", "12.3 ± 0.4", "-0.1", ""], ["B_T", "9.0 ± 0.4", "1,000", "–3"]]
    assert holds_numbers(lines) == [False, True, True, True]
    assert r"\begin{tabular}{lrrr}" in latex_table("t", list("abcd"), lines)
    assert r"\begin{tabular}{ll}" in latex_table("nothing yet", ["a", "b"], [])


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parts[-3]}/{file.name}")
def test_every_result_file_has_tables_and_the_command_prints_their_cells(hyperrep, file):
    heading, tables = tables_of(file)
    code, latex, err = hyperrep(f"results {file} --format latex")
    assert code == 0, err
    _, markdown, _ = hyperrep(f"results {file} --format markdown")
    _, terminal, _ = hyperrep(f"results {file}")
    expected = [line for _, header, lines in tables for line in (header, *lines)]
    assert len(expected) > 2
    assert cells_of_latex(latex) == expected
    for title, header, lines in tables:
        assert f"**{heading}.** {title}" in markdown
        assert cells_of_markdown(markdown_table(header, lines)) == [header, *lines]
        assert markdown_table(header, lines) in markdown
        assert f"{heading}. {title}" in " ".join(terminal.split())
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == len(tables)


def test_several_files_are_printed_in_their_order_or_none(hyperrep, tmp_path):
    files = [
        str(CARDS / name) for name in ("cnn-zoo-mnist/results/accuracy.jsonl", "hyperrep-mnist/results/width.jsonl")
    ]
    _, text, _ = hyperrep(f"results {' '.join(files)} --format markdown")
    assert 0 <= text.index("**Zoo.**") < text.index("**Ablation: mnist.**")
    (tmp_path / "damaged.jsonl").write_text('{"what": "test_accuracy", "split": "all"}\n')
    (tmp_path / "empty.jsonl").write_text("\n")
    for name, said in {"damaged": "line 1, lacks epoch", "empty": "holds no numbers", "none": "No such file"}.items():
        code, text, err = hyperrep(f"results {files[0]} {name}.jsonl")
        assert (code, text) == (2, "")
        assert said in err
        assert len(err.strip().splitlines()) == 1


def test_an_unknown_form_is_refused(hyperrep):
    code, _, err = hyperrep(f"results {FILES[0]} --format html")
    assert code == 2
    assert "html" in err
