"""What commands print: nothing about standard output can raise."""

import io
import json
import os
import subprocess
import sys

import pytest

from hyperrep_cli.output import print_json, print_table, show


TABLE = ("Accuracy, %", ["method", "epoch 0"], [["S_KDE30", "85.5 ± 0.3"], ["R²", "…"]])


def printed(monkeypatch, encoding: str) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    print_table(*TABLE)
    return stream.buffer.getvalue().decode(encoding)


def test_a_table_shows_every_cell(monkeypatch):
    text = printed(monkeypatch, "utf-8")
    assert all(cell in text for line in TABLE[2] for cell in line)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "utf-16"])
def test_what_an_encoding_lacks_is_written_otherwise(monkeypatch, encoding):
    text = printed(monkeypatch, encoding)
    assert "S_KDE30" in text
    assert "85.5 +/- 0.3" in text or "85.5 ± 0.3" in text


def test_json_is_what_went_in(capsys):
    print_json([{"mean": 0.5, "what": "R²"}])
    assert json.loads(capsys.readouterr().out) == [{"mean": 0.5, "what": "R²"}]


class Broken(io.StringIO):
    def write(self, text):
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [Broken(), None])
def test_an_output_that_nobody_reads(monkeypatch, stream):
    if stream is None:
        stream = io.StringIO()
        stream.close()
    monkeypatch.setattr(sys, "stdout", stream)
    show("text")
    print("more")  # goes nowhere, quietly


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_a_closed_pipe_is_no_failure():
    code = "from hyperrep_cli.output import print_text; import sys; sys.stdin.read(); print_text('x' * 100_000)"
    run = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    run.stdout.close()
    run.stdin.close()
    assert run.wait() == 0
    assert run.stderr.read() == b""
