"""A new experiment is one file: a class with settings and numbers. Everything else follows."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import hyperrep_cli
import hyperrep_cli.evaluate
from hyperrep.cards import write_model_card
from hyperrep.evaluation import experiments as folder_of_experiments
from hyperrep.evaluation import read_results


FILE = '''
"""How large are generated weights?"""

from typing import ClassVar

from hyperrep.evaluation.experiment import Experiment, measured, setting
from hyperrep.evaluation.populations import draw_populations, planned
from hyperrep.results import Quantity
from hyperrep.samplers import settings_class


@settings_class
class Norms(Experiment):
    """Mean absolute weights of generated networks."""

    name: ClassVar[str] = "norms"
    title: ClassVar[str] = "Sizes"
    quantities = {"norm": Quantity("Mean absolute weight", in_per_cent=False)}

    num_models: int = setting(3, "Networks of each population.")
    methods: tuple[str, ...] = setting((), "Draw by these alone.")

    def rows(self, bench, progress=None):
        fields = bench.fields(self.name, 0)
        drawn = list(draw_populations(bench, planned(self.methods), self.num_models, 0))

        def measure(weights, report):
            report(1)
            return {"norm": {0: weights.abs().mean(dim=1)}, "norm_of_all": {0: weights.abs().mean()[None]}}

        settings = fields["settings"] | {"num_models": self.num_models}
        for population, outcome in measured(drawn, settings, measure, 1, progress):
            yield from outcome.rows(method=population.method, variant=population.variant, **fields)
'''


def test_a_file_is_a_command_with_results_tables_and_a_plot(representation, digits_zoo, tmp_path, monkeypatch, capsys):
    (tmp_path / "experiments").mkdir()
    file = tmp_path / "experiments" / "norms.py"
    file.write_text(FILE)
    known = hyperrep_cli.evaluate.experiment_files()
    monkeypatch.setattr(hyperrep_cli.evaluate, "experiment_files", lambda: known | {"norms": file})
    monkeypatch.setattr(folder_of_experiments, "__path__", [*folder_of_experiments.__path__, str(file.parent)])
    model = shutil.copytree(representation, tmp_path / "model")

    def run(command: str) -> str:
        monkeypatch.setattr("sys.argv", ["hyperrep", *command.split()])
        with pytest.raises(SystemExit) as stop:
            hyperrep_cli.main()
        said = capsys.readouterr()
        assert not stop.value.code, said.err
        return said.out

    assert "Mean absolute weights of generated networks." in run("evaluate --help")
    assert "--num-models" in run("evaluate norms --help")
    said = run(f"evaluate norms {model} --zoo {digits_zoo} --num-models 2 --methods uniform --methods kde-joint")
    assert "Mean absolute weight" in said
    assert "norm of all" in said

    rows = read_results(model / "results" / "norms.jsonl")
    found = {(row.what, row.method, row.variant): row for row in rows}
    assert {key[1:] for key in found} == {("S_U", ""), ("S_KDE30", "joint"), ("B_KDE30", "joint"), STORED}
    for row in rows:
        assert (row.experiment, row.n) == ("norms", 2)
        assert row.settings["sampling"]["method"] in ("kde", "uniform")
        assert row.settings["num_models"] == 2
    for what, method, variant in found:  # the mean of the networks' means is that of all
        assert abs(found["norm", method, variant].mean - found["norm_of_all", method, variant].mean) < 1e-6, what
    assert (model / "results" / "norms.png").read_bytes()[:4] == b"\x89PNG"
    as_json = run(f"evaluate norms {model} --zoo {digits_zoo} --num-models 2 --json --output {tmp_path / 'other'}")
    assert {row["experiment"] for row in json.loads(as_json)} == {"norms"}


STORED = ("S_stored", "independent")


def numbers(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if line.startswith("| S_"))


def test_a_result_file_is_a_section_of_the_card(representation, digits_zoo, tmp_path, monkeypatch):
    model: Path = shutil.copytree(representation, tmp_path / "model")
    row = json.dumps(
        {
            "what": "novel_quantity",
            "experiment": "unheard_of",
            "method": "S_NEW",
            "variant": "",
            "source": "model",
            "target": "digits",
            "epoch": 0,
            "n": 3,
            "mean": 0.123456,
            "std": 0.01,
            "seed": 0,
            "zoo": "zoo",
            "revision": None,
            "machine": "a machine",
            "seconds": 1.0,
            "settings": {},
        }
    )
    (model / "results" / "unheard_of.jsonl").write_text(row + "\n")
    text = write_model_card(model).read_text()
    assert "novel quantity" in text
    assert list(numbers(text)) == ["| S_NEW |  | 3 | 0.123 ± 0.010 |"]
