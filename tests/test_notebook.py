"""The tour of `notebooks/` runs from its first cell to its last, as it is written."""

import contextlib
import io
import json
from pathlib import Path

import pytest
import torch


ROOT = Path(__file__).parent.parent
PRETRAINED = ROOT / "model_cards" / "hyperrep-digits" / "model.safetensors"


@pytest.mark.skipif(not PRETRAINED.exists(), reason="the pretrained representation is not in this tree")
def test_the_tour_runs_and_says_what_is_so(monkeypatch):
    monkeypatch.chdir(ROOT / "notebooks")
    cells = json.loads((ROOT / "notebooks" / "tour.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) == 9
    assert not any(cell.get("outputs") for cell in cells)  # what is printed is printed where it runs
    names: dict = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for i, text in enumerate(code):
            exec(compile(text, f"cell {i}", "exec"), names)
    assert names["distances"]
    assert min(names["distances"]) > 0.1
    generated, random = (names["curves"][name] for name in ("generated", "random"))
    assert generated[0].mean() > 80 > random[0].mean() + 40
    assert generated[3].mean() > random[3].mean()
    assert names["gap"] < 1e-4
    assert isinstance(names["net"], torch.nn.Module)
    assert "epoch 3" in printed.getvalue()
