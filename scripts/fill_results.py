"""Numbers of README, cards and docs/generation.md, from the result files beside the cards: `make results`.

    python scripts/fill_results.py

A page has its numbers in blocks. What a block holds, it says itself, and what lies between its two marks is made anew:

    <!-- results
    files: [model_cards/hyperrep-digits/results/finetune.jsonl]    # of zoos, too
    populations: [B_T, S_KDE30 independent]                        # all by default
    epochs: [0, 1, 5]
    -->
    ...
    <!-- end of results -->

Cards are written as `hyperrep card` does, where configuration and results lie beside them; of the others, tables of
results alone. A test compares all of it with the files.
"""

import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hyperrep.cards import result_sections, write_model_card
from hyperrep.errors import UserError
from hyperrep.evaluation import experiment_class
from hyperrep.files import is_unchanged, parse_yaml
from hyperrep.results import QUANTITIES, read_results
from hyperrep.tables import markdown_table
from hyperrep.zoo.accuracy import accuracy_table, read_accuracy


ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "model_cards/README.md", "docs/generation.md")  # with blocks
BLOCK = re.compile(r"(<!-- results\n(.*?)\n-->\n).*?(<!-- end of results -->)", re.DOTALL)
SHORT = {
    "nearest_training_similarity": "similarity to the nearest training network",
    "nearest_sample_similarity": "and sibling",
    "ensemble_accuracy": "vote",
    "distance_ratio": "distance to the nearest training network (1 = the zoo's own)",
    "good_and_far_1": "good and that far",
    "dispersion": "dispersion (1 = the zoo's own)",
    "directions": "directions (1 = as many as the zoo's)",
    "data_copying": "C_T (below 0 = nearer than held-out networks)",
}


def main() -> int:
    try:
        pages = {ROOT / page: filled((ROOT / page).read_text(encoding="utf-8"), ROOT) for page in PAGES}
        pages |= {card: filled_card(card) for card in sorted(ROOT.glob("model_cards/*/README.md"))}
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for page, text in pages.items():
        if text != page.read_text(encoding="utf-8"):
            page.write_text(text, encoding="utf-8")
            print(f"filled {page.relative_to(ROOT)}")
    return 0


def filled(text: str, root: Path) -> str:
    """A page with its blocks made anew.

    Args:
        text (`str`)
        root (`Path`): that the blocks' files are relative to.

    Raises:
        UserError: if a block names what its files do not have.
    """
    return BLOCK.sub(lambda block: f"{block[1]}{_table(block[2], root)}\n{block[3]}", text)


def filled_card(card: Path) -> str:
    """The card with the numbers of the result files beside it.

    Raises:
        UserError: if somebody changed a card that would be written anew.
    """
    folder, text = card.parent, card.read_text(encoding="utf-8")
    if (folder / "zoo_config.json").exists():
        table = markdown_table(*accuracy_table(read_accuracy(folder / "results" / "accuracy.jsonl")))
        return re.sub(r"(?<=\n)\| epoch \| all models .*?\n(?!\|)", lambda _: f"{table}\n", text, count=1, flags=re.S)
    if not (folder / "config.json").exists():
        sections = f"\n{result_sections(folder).rstrip()}\n"
        return re.sub(
            r"\n## (?!Use|Model|Training|Limits).*?(?=\n## Limits)", lambda _: sections, text, count=1, flags=re.S
        )
    if not is_unchanged(text):
        raise UserError(f"{card} is not as hyperrep wrote it; remove it, or make the change in src/hyperrep/cards.py.")
    with tempfile.TemporaryDirectory() as place:
        return write_model_card(folder, f"org/{folder.name}", Path(place, "README.md")).read_text(encoding="utf-8")


def _table(asked: str, root: Path) -> str:
    block: dict[str, Any] = parse_yaml(asked, "results block")
    epochs, wanted = block["epochs"], block.get("populations")
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for name in block["files"]:
        for images, population, heading, cell in _cells(root / name, epochs):
            if wanted is None or population in wanted:
                lines.setdefault((images, population), {}).setdefault(heading, cell)
    if missing := [one for one in wanted or () if one not in {population for _, population in lines}]:
        raise UserError(f"{', '.join(block['files'])}: no numbers of {missing[0]}.")
    order = list(wanted or dict.fromkeys(population for _, population in lines))
    images_in_order = list(dict.fromkeys(images for images, _ in lines))
    names = sorted(lines, key=lambda name: (images_in_order.index(name[0]), order.index(name[1])))
    headings = ["n", *(f"epoch {epoch}" for epoch in epochs), *SHORT.values()]
    headings = [heading for heading in headings if any(heading in cells for cells in lines.values())]
    return markdown_table(
        ["images", "networks", *headings],
        [[*name, *(lines[name].get(heading, "") for heading in headings)] for name in names],
    )


def _cells(path: Path, epochs: list[int]) -> Iterator[tuple[str, str, str, str]]:
    """Images, population, heading and what stands below it."""
    if path.name.startswith("accuracy"):
        for one in read_accuracy(path):
            if one.split == "all" and one.epoch in epochs:
                yield from _named(path.parent.parent.name, "zoo", one.n, one.epoch, one.shown(published=True))
        return
    rows = read_results(path)
    quantities = {**QUANTITIES, **(experiment_class(rows[0].experiment).quantities)}
    for row in rows:
        if row.what == "test_accuracy" and row.epoch in epochs:
            yield from _named(row.target, row.population, row.n, row.epoch, quantities[row.what].shown(row))
        elif row.what in SHORT and row.epoch == 0:
            yield row.target, row.population, SHORT[row.what], quantities[row.what].shown(row)


def _named(images: str, name: str, n: int, epoch: int, cell: str) -> Iterator[tuple[str, str, str, str]]:
    yield images, name, "n", f"{n:,}"
    yield images, name, f"epoch {epoch}", cell


if __name__ == "__main__":
    sys.exit(main())
