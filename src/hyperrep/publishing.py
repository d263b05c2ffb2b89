"""What goes with a pipeline to the Hub: card and results of the folder it came from, or a short card of its own."""

import filecmp
import logging
import shutil
from functools import partial
from pathlib import Path
from string import Template
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from .files import is_unchanged, output_folder, read_json, signed_card
from .hub import EMPTY, PUBLISHED
from .samplers import CONFIG_NAME, SAMPLER_FOLDER, STATE_NAME
from .tables import markdown_table


TAGS = ["weight-space-learning", "hyper-representation", "model-zoo", "weight-generation"]
_CARD = Template("""
# $title

A hyper-representation, an encoder-decoder transformer over the weights of neural networks, and a sampler over its
latents that generates new ones (Schürholt et al., *Hyper-Representations as Generative Models*, NeurIPS 2022,
arXiv:2209.14733).

```python
import torch
from hyperrep import HyperRepPipeline

pipe = HyperRepPipeline.from_pretrained("$repo")
networks = pipe(num_models=50, generator=torch.Generator().manual_seed(0))
networks.save_pretrained("samples")          # folders for AutoModelForImageClassification
```

$table

$results
""")

_OTHER_SAMPLER = (
    "\n> The sampler was replaced after this was written: what it says of samples is about the earlier one.\n"
)

logger = logging.getLogger(__name__)


def carry_card(source: Path | None, folder: str | Path, repo: str) -> None:
    """Card and results of the folder that a representation came from, to the folder that it was saved to.

    Results belong to weights: other weights get a short card, and none of them. A changed sampler gets a short card
    beside them; or, if somebody changed the card, that card, which says so at its top.

    Args:
        source (`Path`, *optional*): a folder with results, a local one or a snapshot from the Hub.
        folder (`str` or `Path`): the saved representation.
        repo (`str`): the Hub id that a new card names.
    """
    folder = Path(folder)
    files: list[Path] = []
    noted: ModelCard | None = None
    if source is not None and _same_file(source, folder, "model.safetensors"):
        files = [path for path in sorted(source.glob("results/*")) if _is_carried(path, source)]
        card = source / "README.md"
        if _is_carried(card, source):
            if _same_sampler(source / SAMPLER_FOLDER, folder / SAMPLER_FOLDER):
                files.append(card)
            elif is_unchanged(card.read_text(encoding="utf-8")):
                logger.warning(
                    "the sampler is another than that of %s: its card is replaced by a short one; hyperrep card "
                    "writes a full one in a folder.",
                    source,
                )
            else:
                noted = ModelCard.load(card, ignore_metadata_errors=True)
                noted.text = f"{_OTHER_SAMPLER}\n{noted.text}"
    with output_folder(folder, "representation", "add") as out:
        if noted is not None:
            out.write("README.md", noted.save)
        for path in files:
            out.write(path.relative_to(source).as_posix(), partial(shutil.copyfile, path))  # type: ignore[arg-type]
        if not (folder / "README.md").exists():
            out.write("README.md", ModelCard(_short_card(folder, repo)).save)


def _short_card(folder: Path, repo: str) -> str:
    title = repo.split("/")[-1]
    data = ModelCardData(license="apache-2.0", library_name="hyperrep", tags=TAGS, model_name=title)
    sampler = read_json(folder / SAMPLER_FOLDER / CONFIG_NAME)
    has_results = any(folder.glob("results/*.jsonl"))
    text = _CARD.substitute(
        title=title,
        repo=repo,
        table=markdown_table(["sampler", ""], [[name, str(value)] for name, value in sampler.items()]),
        results="Results: `results/*.jsonl`." if has_results else f"{EMPTY}: run `hyperrep evaluate`.",
    )
    return signed_card(data, text)


def _same_file(source: Path, folder: Path, name: str) -> bool:
    pair = (source / name, folder / name)
    return all(path.is_file() for path in pair) and filecmp.cmp(*pair, shallow=False)


def _same_sampler(source: Path, folder: Path) -> bool:
    def settings(path: Path) -> dict[str, Any]:
        return (read_json(path / CONFIG_NAME) if (path / CONFIG_NAME).exists() else {}) | {"hyperrep_version": ""}

    return settings(source) == settings(folder) and _same_file(source, folder, STATE_NAME)


def _is_carried(path: Path, source: Path) -> bool:
    """Whether it is of a kind that is published; links out of the folder are not, but those of the Hub's cache are."""
    root = source.parent.parent if source.parent.name == "snapshots" else source
    kind = any(path.match(pattern) for pattern in PUBLISHED) and not path.name.startswith(".")
    return kind and path.is_file() and path.resolve().is_relative_to(root.resolve())
