"""The model card of a representation: README.md with metadata, made from its config and result files alone."""

import json
from pathlib import Path
from string import Template
from typing import Any

from .errors import UserError
from .evaluation.results import ResultRow, markdown_table, read_results, results_table


TAGS = ["weight-space-learning", "hyper-representation", "model-zoo", "weight-generation"]
SHOWN_EPOCHS = (0, 1, 5, 10, 25, 50)

_TEMPLATE = Template(
    """
# $title

A hyper-representation of the $zoo zoo: an encoder-decoder transformer over the weights of networks with
$num_params parameters, and a sampler over its latents that generates new ones. Method: Schürholt et al.,
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

| | |
|---|---|
$model_table

## Training

| | |
|---|---|
$training_table

$results
## Limits

Generated networks have the architecture and the preprocessing of the zoo. The sampler `$sampler` is the stored
default; `as_released` repeats the sampling of the paper's published code, whose samples are near-copies of training
models. Read accuracy together with similarity. With the behavioural loss on (`behavior_weight` or `shuffled_weight`
above 0), the decoder was also trained on how decoded networks answer to labelled training images: part of what samples
can do, it has learned itself, and their accuracy is not that of the paper's method.

Licence: Apache-2.0.
"""
)

_RESULTS = Template(
    """## Results

Test accuracy in per cent, mean ± std (ddof 0) over n networks, on $target; epochs of fine-tuning by the zoo's own
recipe. B_T: trained from scratch (test split of the zoo). B_KDE30, S_KDE30: drawn from a kernel density over weights,
or latents, of the best 30 % of the training models. S_U: uniform latents.

$table

![Fine-tuning curves](results/finetune.png)

How alike (error-set similarity: shared misclassified images over all misclassified by either, in per cent; 100 is a
copy) a network is before fine-tuning to its nearest training model, and to its nearest sibling:

$similarity

$machine; sampling seed $seed. Files: `results/*.jsonl`.

"""
)


def write_model_card(folder: str | Path, repo: str = "org/hyperrep") -> Path:
    """Write `README.md` into a representation's folder.

    Args:
        folder (`str` or `Path`): with `config.json`, and `results/finetune.jsonl` once evaluated.
        repo (`str`, *optional*): the Hub id that the examples name.

    Returns:
        `Path`: the card.

    Raises:
        UserError: if the folder is not a representation.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    folder = Path(folder)
    config = _read_json(folder / "config.json")
    if config is None or config.get("model_type") != "hyperrep":
        raise UserError(f"{folder} is not a representation: it has no config.json with model_type 'hyperrep'.")
    training = _read_json(folder / "results" / "training.json") or {}
    sampler = _read_json(folder / "sampler" / "sampler_config.json") or {}
    results_path = folder / "results" / "finetune.jsonl"
    rows = read_results(results_path) if results_path.exists() else []

    zoo = (config.get("zoo") or {}).get("name", "unknown")
    data = ModelCardData(
        license="apache-2.0",
        library_name="hyperrep",
        tags=TAGS,
        model_name=repo.split("/")[-1],
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=row.target,
                dataset_name=row.target,
                metric_type="accuracy",
                metric_name=f"accuracy of {row.method} ({row.variant}), epoch {row.epoch}",
                metric_value=round(row.mean, 4),
            )
            for row in rows
            if row.what == "test_accuracy" and row.method == "S_KDE30" and row.epoch in (0, 1)
        ]
        or None,
    )
    text = _TEMPLATE.substitute(
        title=repo.split("/")[-1],
        zoo=zoo,
        repo=repo,
        num_params=f"{_num_params(config['layout']):,}",
        latent_size=config["latent_size"],
        model_table=_settings_table(
            config,
            (
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
            ),
        ),
        training_table=_settings_table(training, tuple(training)),
        results=_results(rows),
        sampler=" ".join(str(sampler[key]) for key in ("method", "variant") if sampler.get(key)) or "none",
    )
    path = folder / "README.md"
    ModelCard(f"---\n{data.to_yaml()}\n---\n{text}").save(path)
    return path


def _read_json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _num_params(layout: list) -> int:
    from .weights import WeightLayout

    return WeightLayout.from_list(layout).num_params


def _settings_table(values: dict[str, Any], names: tuple[str, ...]) -> str:
    return "\n".join(f"| {name} | {_plain(values[name])} |" for name in names if name in values)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(entry)}" for key, entry in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(entry) for entry in value)
    return str(value)


def _results(rows: list[ResultRow]) -> str:
    if not rows:
        return "## Results\n\nNot evaluated yet: run `hyperrep evaluate finetune`.\n\n"
    last = max(row.epoch for row in rows)
    shown = [row for row in rows if row.epoch in {*SHOWN_EPOCHS, last}]
    similarity = "\n\n".join(
        f"{title}\n\n{markdown_table(*results_table(shown, what))}"
        for what, title in (
            ("nearest_training_similarity", "To the nearest training model:"),
            ("nearest_sample_similarity", "To the nearest network of the same population:"),
            ("ensemble_accuracy", "Test accuracy of all n networks' majority vote, before fine-tuning:"),
        )
        if any(row.what == what for row in rows)
    )
    return _RESULTS.substitute(
        target=rows[0].target,
        table=markdown_table(*results_table(shown)),
        similarity=similarity,
        machine=rows[0].machine,
        seed=rows[0].seed,
    )
