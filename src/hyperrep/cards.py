"""The model card of a representation: README.md with metadata, made from its config and all its result files.

The metadata name no `pipeline_tag`: none of the Hub's tasks is the generation of weights, and a task that it does not
know is refused; the tag `weight-generation` says it. They name as `datasets` what has an id on the Hub: the zoo, if it
came from there, and the images.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from huggingface_hub.utils import validate_repo_id

from .errors import UserError
from .evaluation.report import described
from .files import output_folder, read_json, signed_card
from .files.writing import written_atomically
from .hub import EMPTY
from .publishing import TAGS
from .representation import HyperRepConfig
from .results import ResultRow, read_results, stored_sampler
from .samplers import CONFIG_NAME, SAMPLER_FOLDER, sampler_classes
from .tables import markdown_table
from .weights import WeightLayout


_TEMPLATE = Template(
    """
# $title

A hyper-representation of the model zoo `$zoo`: an encoder-decoder transformer over the weights of networks with
$size, and a sampler over its latents that generates new ones. Method: Schürholt et al.,
*Hyper-Representations as Generative Models*, NeurIPS 2022 (arXiv:2209.14733).

## Use

```python
import torch
from hyperrep import HyperRepModel, HyperRepPipeline

pipe = HyperRepPipeline.from_pretrained("$repo")
networks = pipe(num_models=50, generator=torch.Generator().manual_seed(0))
networks.save_pretrained("samples")          # folders for AutoModelForImageClassification

model = HyperRepModel.from_pretrained("$repo")
latents = model.encode(networks.weights)     # (50, $latent_size)
```

## Model

$model_table

## Training

$training

$results
## Limits

Generated networks have the architecture and the preprocessing of the zoo. The sampler `$sampler` is the stored
default. Read accuracy together with similarity: near 100 %, networks are copies. With the behavioural loss on
(`behavior_weight` or `shuffled_weight` above 0), the decoder was also trained on how decoded networks answer to
labelled training images: part of what samples can do, it has learned itself, and their accuracy is not that of the
paper's method.

Licence: Apache-2.0.
"""
)

SPLITS = {"train_sample": "training networks", "validation": "validation networks", "test": "test networks"}
MODEL_SETTINGS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "latents_per",
    "latent_size",
    "standardize_weights",
    "normalize_loss",
    "contrast",
    "contrast_weight",
)


def write_model_card(folder: str | Path, repo: str = "org/hyperrep", output: str | Path | None = None) -> Path:
    """Write the card of a representation. A card that somebody else wrote or changed is not replaced.

    Args:
        folder (`str` or `Path`): with `config.json`, and `results/finetune.jsonl` once evaluated.
        repo (`str`, *optional*): the Hub id that the examples name.
        output (`str` or `Path`, *optional*): a new file to write instead of `README.md` in the folder.

    Returns:
        `Path`: the card.

    Raises:
        UserError: if the folder is not a representation, one of its files is damaged, `repo` is no Hub id, or there
            is a file in the card's place that is not ours.
    """
    folder = Path(folder)
    card = ModelCard(_card(folder, repo))
    if output is None:
        with output_folder(folder, "representation", "add") as out:
            return out.write("README.md", card.save)
    output = Path(output)
    if output.exists():
        raise UserError(f"{output} exists; name a new file.")
    if not output.absolute().parent.is_dir():
        raise UserError(f"{output} cannot be written: there is no folder {output.absolute().parent}.")
    with written_atomically(output) as temporary:
        card.save(temporary)
    return output


def _card(folder: Path, repo: str) -> str:
    """Metadata and text."""
    config = _read_config(folder)
    training = _read_if_there(folder / "results" / "training.json")
    sampler = _read_if_there(folder / "sampler" / "sampler_config.json")
    rows = [row for part in _read_all(folder).values() for row in part]
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"repo {repo!r} cannot be a Hub id; write it as org/name.") from error
    zoo = config.zoo or {}
    data = ModelCardData(
        license="apache-2.0",
        library_name="hyperrep",
        tags=TAGS,
        datasets=_datasets(zoo, rows) or None,
        model_name=repo.split("/")[-1],
        eval_results=_eval_results(rows) or None,
    )
    text = _TEMPLATE.substitute(
        title=repo.split("/")[-1],
        zoo=zoo.get("name", "unknown"),
        repo=repo,
        size=WeightLayout.from_list(config.layout).described,
        latent_size=config.latent_size,
        model_table=_table({name: getattr(config, name) for name in MODEL_SETTINGS}),
        training=_training(training),
        results=result_sections(folder),
        sampler=" ".join(str(sampler[key]) for key in ("method", "variant") if sampler.get(key)) or "none",
    )
    return signed_card(data, text)


def _read_config(folder: Path) -> HyperRepConfig:
    path = folder / "config.json"
    values = read_json(path) if path.exists() else {}
    if values.get("model_type") != HyperRepConfig.model_type:
        raise UserError(f"{folder} is not a representation: it has no config.json with model_type 'hyperrep'.")
    try:
        config = HyperRepConfig.from_dict(values)
        WeightLayout.from_list(config.layout)
        return config
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error


def _read_all(folder: Path) -> dict[str, list[ResultRow]]:
    results = {path.stem: read_results(path) for path in sorted((folder / "results").glob("*.jsonl"))}
    return {name: rows for name, rows in results.items() if rows}


def _read_if_there(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _eval_results(rows: Sequence[ResultRow]) -> list[EvalResult]:
    """Accuracy of what the pipeline draws, at the epochs that the poster names first: by the sampler that ships with
    the model, if one of the populations is its; others, copies of training networks among them, stand in the tables.
    One result each: the population and the epoch make its configuration, so that no two results share an identifier.
    """
    generated = [row for row in rows if row.what == "test_accuracy" and row.method.startswith("S_")]
    results = []
    for row in [row for row in generated if row.settings.get("stored_sampler")] or generated:
        if row.epoch in (0, 1):
            name = f"{row.method} {row.variant}".strip()
            population = f"{name}, epoch {row.epoch} of fine-tuning"
            results.append(
                EvalResult(
                    task_type="image-classification",
                    task_name="Image classification by generated networks",
                    dataset_type=row.target,
                    dataset_name=row.target,
                    dataset_config=population,
                    dataset_split="test",
                    metric_type="accuracy",
                    metric_name=f"accuracy of {row.n} networks, {population}",
                    metric_value=round(row.mean, 4),
                )
            )
    return results


def _datasets(zoo: Mapping[str, Any], rows: Sequence[ResultRow]) -> list[str]:
    """Ids on the Hub: of a zoo that has a commit there, and of images that were not a local folder."""
    names = [str(zoo["name"])] if zoo.get("revision") else []
    names += [row.target for row in rows if row.target.count("/") == 1]
    return list(dict.fromkeys(names))


def _training(training: dict[str, Any]) -> str:
    """What training found, in a table one can read, and everything that decided it in one that can be opened."""
    if not training:
        return "Not recorded."
    splits = [split for split in SPLITS if isinstance(training.get(split), dict)]
    parts = []
    if splits:
        measures = {split: dict(_flat(training[split])) for split in splits}
        names = list(dict.fromkeys(name for split in splits for name in measures[split]))
        lines = [[name, *(measures[split].get(name, "") for split in splits)] for name in names]
        parts += [
            "Networks that the representation reconstructs; training and validation networks answer validation\n"
            "images, test networks test images:",
            markdown_table(["measure", *(SPLITS[split] for split in splits)], lines),
        ]
    parts.append(_table({name: value for name, value in training.items() if name not in {*splits, "settings"}}))
    if training.get("settings"):
        parts.append(_details("All settings of the training", _table({"": training["settings"]})))
    return "\n\n".join(parts)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every setting, named by its path; a mean, its spread and its number are one."""
    for key, value in values.items():
        name = f"{prefix} {key}".strip()
        if isinstance(value, dict) and value.keys() == {"mean", "std", "n"}:
            yield name, f"{_plain(value['mean'])} ± {_plain(value['std'])} (n {_plain(value['n'])})"
        elif isinstance(value, dict):
            yield from _flat(value, name)
        else:
            yield name, _plain(value)


def _table(values: Mapping[str, Any]) -> str:
    return markdown_table(["setting", "value"], [list(line) for line in _flat(values)])


def _details(summary: str, text: str) -> str:
    return f"<details>\n<summary>{summary}</summary>\n\n{text}\n\n</details>"


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_plain(entry) for entry in value)
    return str(value)


def result_sections(folder: Path) -> str:
    """A section for each result file of a representation's folder, whatever it is about."""
    results = _read_all(folder)
    if not results:
        return f"## Results\n\n{EMPTY}: run `hyperrep evaluate finetune`.\n"
    return "".join(_section(name, rows, folder) for name, rows in results.items())


def _section(name: str, rows: Sequence[ResultRow], folder: Path) -> str:
    """Tables, plot, and what made the numbers of one result file."""
    title, about, tables = described(rows)
    parts = [f"## {title}: {rows[0].target}", about, _populations(rows)]
    parts += [_stored(rows, folder)]
    parts += [f"{heading}:\n\n{markdown_table(header, lines)}" for heading, header, lines in tables]
    if (folder / "results" / f"{name}.png").exists():
        parts.append(f"![{title}](results/{name}.png)")
    parts += [_made_by(rows), f"{rows[0].machine}; sampling seed {rows[0].seed}. File: `results/{name}.jsonl`."]
    return "\n\n".join(part for part in parts if part) + "\n\n"


def _populations(rows: Sequence[ResultRow]) -> str:
    """How each generated population was drawn, by what its rows say of it."""
    known = {kind.method: kind for kind in sampler_classes()}
    lines = {}
    for row in rows:
        sampling = row.settings.get("sampling")
        if not isinstance(sampling, dict):
            continue
        space = row.settings.get("space") or ("latents" if row.method.startswith("S_") else "weights")
        kind, top = known.get(sampling.get("method", "")), sampling.get("top")
        best = f", of the best {100 * top:.6g} % of the training networks" if isinstance(top, int | float) else ""
        lines[row.method] = f"- {row.method}: over {space}{best}. {kind.about() if kind else ''}".rstrip()
    return "\n".join(lines.values())


def _stored(rows: Sequence[ResultRow], folder: Path) -> str:
    """Which population the sampler gave that lies in the folder, if it is still the same."""
    sampler = _read_if_there(folder / SAMPLER_FOLDER / CONFIG_NAME)
    settings = next((row.settings.get("sampling") for row in rows if row.settings.get("stored_sampler")), None)
    if not isinstance(settings, dict) or any(sampler.get(name) != value for name, value in settings.items()):
        return ""
    return f"The sampler that ships with the model is {stored_sampler(rows)}."


def _made_by(rows: Sequence[ResultRow]) -> str:
    """What all generated populations have in common, and how each was drawn."""
    drawn = {(row.method, row.variant): dict(_flat(row.settings)) for row in rows if "sampling" in row.settings}
    if not drawn:
        return ""
    first, *others = drawn.values()
    shared = {name: value for name, value in first.items() if all(o.get(name) == value for o in others)}
    own = {
        f"{method} {variant}": ", ".join(
            f"{name.removeprefix('sampling ')} {value}" for name, value in values.items() if name not in shared
        )
        for (method, variant), values in drawn.items()
    }
    return _details("All settings of the evaluation", _table(shared | own))
