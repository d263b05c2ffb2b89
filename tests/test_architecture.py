"""The direction of imports: a room of the package imports only from those before it in the story. What a network
is, stands in one of them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import hyperrep


ROOT = Path(hyperrep.__file__).parent
STORY = (
    "errors",
    "version",
    "tables",
    "files",
    "hub",
    "weights",
    "networks",
    "images",
    "population",
    "zoo",
    "representation",
    "samplers",
    "training",
    "results",
    "publishing",
    "generated",
    "pipeline",
    "transformers_pipeline",
    "evaluation",
    "cards",
    "__init__",
)
# what a published model takes with it when it is published with its code
CARRIED = (
    *("configuration_hyperrep", "processing_hyperrep", "modeling_hyperrep"),
    *("alignment", "blocks", "embeddings", "losses", "strict", "windows"),
)


def imports(file: Path) -> Iterator[list[str]]:
    """What a file imports from the package, inside functions too, as paths below it: `["zoo", "split"]`."""
    here = list(file.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1] + (node.module.split(".") if node.module else [])
            yield from [base] if node.module else [[*base, name.name] for name in node.names]
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
            yield from (name.split(".")[1:] for name in names if name.split(".")[0] == "hyperrep")


def room(path: tuple[str, ...]) -> str:
    return path[0].removesuffix(".py")


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda file: str(file.relative_to(ROOT)))
def test_a_room_imports_only_from_those_before_it(file):
    here = room(file.relative_to(ROOT).parts)
    assert here in STORY, f"say in STORY where {here} stands"
    for target in imports(file):
        assert target, f"{file} imports the whole package"
        assert STORY.index(target[0]) <= STORY.index(here), f"{here} imports {'.'.join(target)}"


def test_only_networks_and_compiled_kernels_name_an_architecture():
    """Whatever else there is takes any; docstrings and comments may give it as an example."""
    named = set()
    for file in ROOT.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text())))
        words = [getattr(node, field, None) for node in nodes for field in ("id", "attr", "name", "arg")]
        if any("SmallCNN" in str(word) for word in words):
            named.add(file.relative_to(ROOT).as_posix())
    kernels = ("population/native/", "population/cuda/", "population/description.py")
    assert {name for name in named if not name.startswith(("networks/", *kernels))} == {"__init__.py"}
    assert "population/native/engine.py" in named


def test_what_travels_with_a_model_imports_nothing_that_stays_behind():
    for name in CARRIED:
        for target in imports(ROOT / "representation" / f"{name}.py"):
            assert target[0] == "representation"
            assert target[1] in CARRIED
