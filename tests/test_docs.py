"""Pages and cards point to what is there, and the reference to what can be imported."""

import importlib
import re
from pathlib import Path

import pytest
import yaml


ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "model_cards/*.md", "model_cards/*/*.md", "spaces/*.md")
    for path in ROOT.glob(pattern)
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target, _, heading = link.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        there = page if not target else page.parent / target
        assert there.exists(), f"{page}: {link}"
        if heading:
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in headings}


def test_the_reference_names_what_there_is():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    pages = [page for entry in site["nav"] for page in (entry["Reference"] if isinstance(entry, dict) else [entry])]
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert set(pages) == there
    names = re.findall(r"^::: (\S+)$", "\n".join((ROOT / "docs" / page).read_text() for page in pages), re.MULTILINE)
    assert len(names) > 20
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            module, _, member = name.rpartition(".")
            assert getattr(importlib.import_module(module), member).__doc__, f"{name} says nothing"
