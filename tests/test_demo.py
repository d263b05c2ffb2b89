"""The demo replaces an earlier demo, and nothing else."""

import runpy
import sys
from pathlib import Path

import pytest

from hyperrep.errors import UserError
from hyperrep.files import output_folder


DEMO = runpy.run_path(str(Path(__file__).parent.parent / "scripts" / "demo.py"))


def earlier(demo: Path) -> None:
    for name, kind in DEMO["FOLDERS"].items():
        with output_folder(demo / name, kind) as folder:
            folder.write_text("some.txt", "old")
    with output_folder(demo, "demo", "add") as folder:
        folder.write_text("report.png", "old")


def test_an_earlier_demo_is_recognised(tmp_path):
    assert not DEMO["check"](tmp_path / "none")
    earlier(tmp_path / "demo")
    assert DEMO["check"](tmp_path / "demo")


@pytest.mark.parametrize(
    "name", ["zoo/tigers.txt", "representation/notes.md", "samples/model/tuned.bin", "report.png"]
)
@pytest.mark.parametrize("begun", [False, True], ids=["a project", "an earlier demo"])
def test_what_is_not_the_demos_is_refused_and_stays(tmp_path, monkeypatch, capsys, begun, name):
    demo = tmp_path / "demo"
    if begun:
        earlier(demo)
    (demo / name).parent.mkdir(parents=True, exist_ok=True)
    (demo / name).write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError):
        DEMO["check"](demo)
    monkeypatch.setattr(sys, "argv", ["demo.py", "--output", str(demo)])
    assert DEMO["main"]() == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
