"""Every number of the README and the cards has a source: the result files beside the cards."""

import json
import re
import runpy
import shutil
from pathlib import Path

import pytest

from hyperrep.cards import result_sections
from hyperrep.errors import UserError
from hyperrep.tables import markdown_table
from hyperrep.zoo.accuracy import accuracy_table, read_accuracy


ROOT = Path(__file__).parent.parent
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "fill_results.py"))
CARDS = sorted(ROOT.glob("model_cards/*/README.md"))
DIGITS = "model_cards/hyperrep-digits/results/finetune.jsonl"
PAGE = f"<!-- results\nfiles: [{DIGITS}]\npopulations: [S_U, B_T]\nepochs: [0, 5]\n-->\n<!-- end of results -->\n"


def of_results(text: str) -> str:
    """What a README says of results, without its blocks, and without what it quotes from the paper."""
    text = re.sub(r"arXiv[ :]\d+\.\d+|https?://\S+", "", SCRIPT["BLOCK"].sub("", text))
    text = text[text.index("What to expect") : text.index("## Use")] if "What to expect" in text else text
    return re.sub(r"The paper\s+reports [^:]*:", "", text)


@pytest.mark.parametrize("page", SCRIPT["PAGES"])
def test_blocks_are_what_their_files_say(page):
    text = (ROOT / page).read_text()
    assert len(SCRIPT["BLOCK"].findall(text)) == text.count("<!-- results") > 0
    assert SCRIPT["filled"](text, ROOT) == text, "run `make results`"


@pytest.mark.parametrize("page", SCRIPT["PAGES"])
def test_no_number_of_a_result_stands_outside(page):
    text = (ROOT / page).read_text()
    assert re.findall(r"\d+\.\d+", of_results(text)) == []
    assert "±" not in SCRIPT["BLOCK"].sub("", re.sub("mean ± std|without ±", "", text))


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.parent.name)
def test_cards_are_what_their_files_say(card):
    text = card.read_text()
    assert SCRIPT["filled_card"](card) == text, "run `make results`"
    if (card.parent / "zoo_config.json").exists():
        table = markdown_table(*accuracy_table(read_accuracy(card.parent / "results" / "accuracy.jsonl")))
        assert f"\n\n{table}\n\n" in text
    else:
        assert result_sections(card.parent).rstrip() in text


def test_a_block_has_the_numbers_asked_for(tmp_path):
    (tmp_path / DIGITS).parent.mkdir(parents=True)
    shutil.copy(ROOT / DIGITS, tmp_path / DIGITS)
    rows = [json.loads(line) for line in (tmp_path / DIGITS).read_text().splitlines()]
    accuracy = {
        (row["method"], row["epoch"]): f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f}"
        for row in rows
        if row["what"] == "test_accuracy" and row["variant"] == ""
    }
    text = SCRIPT["filled"](PAGE, tmp_path)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[0] == "|"]
    assert lines[0][:5] == ["images", "networks", "n", "epoch 0", "epoch 5"]
    for (images, name, n, *cells), (method, count) in zip(lines[2:], (("S_U", "32"), ("B_T", "14")), strict=True):
        assert (images, name, n) == ("digits", method, count)
        assert cells[:2] == [accuracy[method, 0], accuracy[method, 5]]
    assert SCRIPT["filled"](text, tmp_path) == text

    changed = [row | {"mean": 0.1234} if (row["method"], row["epoch"]) == ("S_U", 5) else row for row in rows]
    (tmp_path / DIGITS).write_text("".join(json.dumps(row) + "\n" for row in changed))
    assert SCRIPT["filled"](text, tmp_path) != text
    assert "12.3 ±" in SCRIPT["filled"](text, tmp_path)


def test_what_has_no_source_is_named(tmp_path):
    with pytest.raises(UserError, match="no numbers of S_X"):
        SCRIPT["filled"](PAGE.replace("S_U", "S_X"), ROOT)
    with pytest.raises(UserError, match="cannot be read"):
        SCRIPT["filled"](PAGE, tmp_path)
    card = shutil.copytree(ROOT / "model_cards" / "hyperrep-digits", tmp_path / "hyperrep-digits") / "README.md"
    card.write_text(card.read_text().replace("92.3", "95.3"))
    with pytest.raises(UserError, match="not as hyperrep wrote it"):
        SCRIPT["filled_card"](card)
