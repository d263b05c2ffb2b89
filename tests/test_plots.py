"""Boxes and curves show what the rows say."""

from dataclasses import replace

import pytest
import result_rows
import torch
from matplotlib.figure import Figure
from PIL import Image

from hyperrep.errors import UserError
from hyperrep.evaluation.plots import draw_boxes, plot_against, plot_asked, plot_curves
from hyperrep.files import output_folder
from hyperrep.results import QUANTITIES, ResultRow, read_results, write_results


FIELDS = result_rows.FIELDS | {"what": "test_accuracy", "settings": {"sampling": {}}}


def rows() -> list[ResultRow]:
    values = {"S_KDE30": [0.9, 0.5, 0.7, 0.6, 0.8], "S_U": [0.1, 0.2, 0.4, 0.1, 0.3]}
    return [
        ResultRow.of(torch.tensor(accuracy) + epoch / 20, method=method, variant="", epoch=epoch, **FIELDS)
        for method, accuracy in values.items()
        for epoch in (0, 1)
    ]


def test_quartiles_are_kept_in_files(tmp_path):
    made = [*rows(), ResultRow.of(torch.tensor([0.5]), method="S_KDE30", variant="", epoch=0, **FIELDS)]
    with output_folder(tmp_path / "model", "representation", "new") as output:
        path = write_results(output, "results/finetune.jsonl", made)
    assert read_results(path) == made
    assert made[0].quartiles == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])
    assert made[-1].quartiles is None
    assert "quartiles" not in path.read_text().splitlines()[-1]


@pytest.mark.parametrize("quartiles", [[0.1, 0.2], [0.5, 0.4, 0.6, 0.7, 0.8], [0.1, 0.2, 0.3, 0.4, float("nan")]])
def test_what_are_no_quartiles(quartiles):
    with pytest.raises(UserError, match="quartile"):
        replace(rows()[0], quartiles=quartiles)


def test_a_box_is_a_population_and_the_best_is_at_the_top():
    axes = Figure().subplots()
    draw_boxes(axes, [row for row in rows() if row.epoch == 0], QUANTITIES["test_accuracy"])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["S_U (n 5)", "S_KDE30 (n 5)"]
    found = sorted({round(float(x)) for line in axes.lines for x in line.get_xdata()})
    assert found == [10, 20, 30, 40, 50, 60, 70, 80, 90]


@pytest.mark.parametrize(("epochs", "panels"), [((0, 1), 2), ((0,), 1), ((1,), 1)])
def test_boxes_stand_beside_curves_where_there_are_both(tmp_path, epochs, panels):
    shown = [row for row in rows() if row.epoch in epochs]
    plot_curves(tmp_path / "plot.png", shown, "test_accuracy", QUANTITIES["test_accuracy"])
    width = Image.open(tmp_path / "plot.png").width
    assert (width > 1500) == (panels == 2)


def drawn(monkeypatch) -> list[Figure]:
    """Figures, as they are when they are written."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **named: [figures.append(self), save(self, *args, **named)]
    )
    return figures


def asked(method: str, variant: str, accuracy: list[float], quantile: float | None = None) -> ResultRow:
    settings = {} if quantile is None else {"quantile": quantile}
    return ResultRow.of(
        torch.tensor(accuracy), method=method, variant=variant, epoch=0, **FIELDS | {"settings": settings}
    )


def test_what_was_got_stands_beside_what_the_zoo_has(tmp_path, monkeypatch):
    figures = drawn(monkeypatch)
    made = [asked("zoo", "training models", [0.1, 0.5, 0.9])]
    made += [asked("zoo", f"quantile {q}", [q - 0.1, q, q + 0.1], q) for q in (0.25, 0.75)]
    made += [asked("S_Flow", f"quantile {q}", [0.3], q) for q in (0.25, 0.75)]  # a single network
    made += [asked("S_KDE", "joint quantile 0.25", [0.2, 0.4, 0.6], 0.25)]
    plot_asked(tmp_path / "plot.png", made)
    zoo, flow, joint = figures[0].axes
    assert [axes.get_title() for axes in figures[0].axes] == ["zoo", "S_Flow", "S_KDE joint"]
    assert [label.get_text() for label in zoo.get_xticklabels()] == ["all", "0.25", "0.75"]
    goal = next(line for line in flow.lines if line.get_linestyle() == "--")
    assert goal.get_xdata().tolist() == [1, 2]
    assert goal.get_ydata().tolist() == pytest.approx([25, 75])
    assert {round(float(y)) for line in joint.lines for y in line.get_ydata()} == {20, 25, 30, 40, 50, 60}
    plot_asked(tmp_path / "without.png", [row for row in made if row.method != "zoo"])  # of hyperrep 0.1.0
    assert len(figures[1].axes) == 2


def test_two_quantities_against_each_other(tmp_path, monkeypatch):
    figures = drawn(monkeypatch)
    made = [row for row in rows() if row.epoch == 0]
    made += [replace(row, what="nearest_training_similarity") for row in made if row.method == "S_U"]
    plot_against(tmp_path / "plot.png", made, "test_accuracy", "nearest_training_similarity")
    (axes,) = figures[0].axes
    (container,) = axes.containers  # S_KDE30 has no similarity
    assert container.get_label() == "S_U"
    assert container.lines[0].get_xydata().tolist() == [pytest.approx([20, 20])]
