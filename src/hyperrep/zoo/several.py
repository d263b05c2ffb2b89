"""Networks of several architectures: a folder, or a repository, with a zoo for each of them.

What `datasets` calls configurations: rows of one have weights of one length, and columns that fit them.

    load_dataset("org/zoos", "resnet-272474")     load_zoo("org/zoos/resnet-272474")     load_zoos("org/zoos")
"""

import logging
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from ..errors import UserError
from ..files import mode_of, output_folder, signed_card
from ..tables import markdown_table
from .card import TAGS, data_files, size_category
from .config import ZooConfig
from .dataset import SEVERAL, load_config
from .found import Found, found_checkpoints, layout_in
from .importing import by_architecture, configuration_of, write_found
from .parquet import are_in_rows
from .settings import MIN_MODELS


_CARD = """
# {title}: {count} architectures

{num_models} networks, trained elsewhere; a zoo for each of their architectures, and a configuration of this dataset.

{table}

```python
from hyperrep import load_zoo

zoo = load_zoo("{repo}/{first}")          # or load_dataset("{repo}", "{first}") for the plain rows
```

One representation learns from all of them: `hyperrep train windows --zoo {repo} --output MODEL`.
"""

logger = logging.getLogger(__name__)


def import_zoos(
    source: str | Path,
    output: str | Path,
    epoch: int | None = None,
    epochs: Collection[int] = (),
    overwrite: bool = False,
    repo: str | None = None,
) -> Path:
    """Write a folder of checkpoints of several architectures as zoos, each in a subfolder: those are one architecture
    that have the same tensors and, where configurations lie beside them, the same of these. An architecture with too
    few models for three splits is left out, with a warning.

    Args:
        source, output, epoch, epochs, overwrite: as in [`import_zoo`].
        repo (`str`, *optional*): the Hub id that the cards' examples name.

    Returns:
        `Path`: of the folder of zoos.

    Raises:
        UserError: as [`import_zoo`], or if no architecture has enough models.
    """
    source, output = Path(source), Path(output)
    repo = repo or f"org/{output.absolute().name}"
    groups = _named(by_architecture(found_checkpoints(source, epochs)))
    with output_folder(output, "zoos", mode_of(overwrite=overwrite)) as folder:
        folder.remove(SEVERAL)
        with folder.staging(replace=True) as stage:
            for name, found in groups.items():
                write_found(found, source, stage / name, epoch=epoch, repo=f"{repo}/{name}", alike=True)
            configs = {name: load_config(stage / name) for name in groups}
            _write_card(stage / "README.md", configs, repo, output.absolute().name)
        folder.write_json(SEVERAL, {"zoos": list(groups)})
    return output


def _named(groups: list[list[Found]]) -> dict[str, list[Found]]:
    """Architectures by a name: what kind they are and how large, numbered where that is not enough.

    Raises:
        UserError: if none has enough models.
    """
    named: dict[str, list[Found]] = {}
    seen: Counter[str] = Counter()
    for found in groups:
        kind = str(configuration_of(found[0].path).get("model_type", "network")).replace("_", "-")
        name = f"{kind}-{layout_in(found[0].path).num_params}"
        models = len({one.model for one in found})
        if models < MIN_MODELS:
            logger.warning(
                "%d of architecture %s left out, %s among them: a zoo has %d models or more.",
                *(models, name, found[0].model, MIN_MODELS),
            )
            continue
        seen[name] += 1
        named[name if seen[name] == 1 else f"{name}-{seen[name]}"] = found
    if not named:
        raise UserError(f"no architecture has {MIN_MODELS} models, which three splits need.")
    return named


def _write_card(path: Path, configs: dict[str, ZooConfig], repo: str, title: str) -> None:
    from huggingface_hub import DatasetCard, DatasetCardData

    names = list(configs)
    data = DatasetCardData(
        pretty_name=title,
        tags=TAGS,
        size_categories=size_category(sum(config.num_models for config in configs.values())),
        configs=[
            {"config_name": name, "data_files": data_files(config.files, f"{name}/")}
            for name, config in configs.items()
        ],
    )
    lines = [
        [
            f"[{name}]({name}/README.md)",
            f"{config.num_models:,}",
            config.weight_layout().described,
            "in their rows" if are_in_rows(config) else "safetensors",
        ]
        for name, config in configs.items()
    ]
    text = _CARD.format(
        title=title,
        count=len(names),
        num_models=f"{sum(config.num_models for config in configs.values()):,}",
        table=markdown_table(["architecture", "models", "size of a network", "weights"], lines),
        repo=repo,
        first=names[0],
    )
    DatasetCard(signed_card(data, text)).save(path)


__all__ = ["import_zoos"]
