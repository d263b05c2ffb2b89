"""scripts/reproduce.py: every stage once, timed, and gone on with where it was interrupted."""

import runpy
from pathlib import Path

import pytest

from hyperrep.results import read_results
from hyperrep.training import TrainingConfig
from hyperrep.zoo import get_protocol


SCRIPT = runpy.run_path(str(Path(__file__).parent.parent / "scripts" / "reproduce.py"))
MAIN = SCRIPT["main"].__globals__
LINE = "--table memorisation --datasets digits --models 20 --set num_models=3 methods=uniform,noise --train "
LINE += "num_train_epochs=1 behavior_images=2 hidden_size=32 intermediate_size=32"
STAGES = ["zoo", "representation", "sampler", "memorisation"]


@pytest.fixture
def reproduce(monkeypatch, tmp_path, capsys):
    """Run the script in an empty folder; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(line: str = LINE) -> tuple[int, str, str]:
        code = SCRIPT["main"](line.split())
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_each_stage_is_made_once(reproduce, tmp_path, monkeypatch):
    train = MAIN["train"]

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setitem(MAIN, "train", interrupted)
    code, _, err = reproduce()
    assert code == 130
    assert "the same command goes on" in err
    place = tmp_path / "reproduction"
    times = read_results(place / "seconds.jsonl")
    assert [row.method for row in times] == STAGES[:2]
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*.parquet")}
    assert before

    monkeypatch.setitem(MAIN, "train", train)
    code, out, err = reproduce()
    assert code == 0, err
    after = read_results(place / "seconds.jsonl")
    assert [row.method for row in after] == STAGES
    assert after[0] == times[0]
    assert after[1].mean > times[1].mean  # both runs
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (results,) = place.glob("memorisation-digits-*/memorisation.jsonl")
    rows = read_results(results)
    assert {row.n for row in rows if row.method in ("S_U", "B_N30")} == {3}
    assert "Memorisation: digits. Test accuracy" in out
    lines = dict(line.strip("│ ").split(" │ ") for line in out.split("Wall time")[1].splitlines() if "│" in line)
    seconds = {name.strip(): float(value) for name, value in lines.items()}
    assert seconds["altogether"] == pytest.approx(sum(seconds[stage] for stage in STAGES), abs=0.25)

    code, again, _ = reproduce()  # nothing is left to do
    assert (code, again) == (0, out)
    assert read_results(place / "seconds.jsonl") == after
    code, _, _ = reproduce(LINE.replace("num_models=3", "num_models=2"))  # but for another table
    assert code == 0
    assert [row.method for row in read_results(place / "seconds.jsonl")] == [*STAGES, "memorisation"]


@pytest.mark.parametrize(
    ("name", "epochs"), [("mnist", {0, 1, 5, 10, 21, 22, 23, 24, 25, 50}), ("stl10", {0, 1, 25, 50})]
)
def test_the_published_protocol(name, epochs):
    settings = SCRIPT["zoo_settings"](get_protocol(name), 1000, TrainingConfig.from_yaml("mnist"))
    assert settings.epochs_of("train") == 25
    assert settings.epochs_of("test") == 50
    assert epochs <= set(settings.keep_epochs)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--table nonsense --datasets digits", "table 'nonsense' is unknown; choose from architectures"),
        ("--table finetune --datasets digit", "did you mean 'digits'"),
        ("--table finetune --datasets digits --models 2", "a zoo of 2 models"),
        ("--table finetune --datasets digits --set epoch=3", "finetune has no setting 'epoch'; it has num_models"),
        ("--table finetune --datasets digits --set epochs=three", "expected int"),
        ("--table finetune --datasets digits --set epochs", "write it as KEY=VALUE"),
        ("--table finetune --datasets digits --images mnist=x", "--images names 'mnist'; data sets are digits"),
        ("--table finetune --datasets digits --images digits=/nowhere", "/nowhere"),
        (
            "--table finetune --datasets digits --train epochs=[26]",
            "epochs names 26, but protocol digits trains for 25",
        ),
        ("--table ablation --datasets digits --set methods=kde", "ablation has no setting 'methods'; it has studies"),
    ],
)
def test_mistakes(reproduce, tmp_path, line, said):
    code, out, err = reproduce(line)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("*.parquet"))


def test_what_is_somebody_elses_stays(reproduce, tmp_path):
    (tmp_path / "reproduction").mkdir()
    (tmp_path / "reproduction" / "seconds.jsonl").write_text("mine")
    code, _, err = reproduce()
    assert code == 2
    assert "was not written by hyperrep" in err
    assert [path.name for path in (tmp_path / "reproduction").iterdir()] == ["seconds.jsonl"]
