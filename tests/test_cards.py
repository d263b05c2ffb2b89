"""The model card: valid metadata, and no number that is not in the result files."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from hyperrep.cards import write_model_card
from hyperrep.errors import UserError
from hyperrep.evaluation import ResultRow, results_table, write_results


FIELDS = {
    "experiment": "finetune",
    "source": "model",
    "target": "digits",
    "seed": 17,
    "zoo": "zoo",
    "revision": None,
    "machine": "a machine of 96 cores",
    "seconds": 1.0,
}


def rows() -> list[ResultRow]:
    """Results with numbers of their own, so that each is found once."""
    made = []
    populations = [("B_T", ""), ("B_KDE30", "joint"), ("S_KDE30", "independent"), ("S_U", "")]
    for i, (method, variant) in enumerate(populations):
        names = FIELDS | {"method": method, "variant": variant}
        for epoch in (0, 1, 3, 7):
            values = torch.tensor([0.1, 0.2, 0.4]) + 0.031 * i + 0.0517 * epoch
            made.append(ResultRow.of(values, what="test_accuracy", epoch=epoch, **names))
        for what, shift in (("nearest_training_similarity", 0.013), ("nearest_sample_similarity", 0.0177)):
            made.append(ResultRow.of(torch.tensor([0.3, 0.5]) + shift * (i + 1), what=what, epoch=0, **names))
    return made


@pytest.fixture
def folder(representation, tmp_path) -> Path:
    """A representation without its weights: the card needs configuration and results alone."""
    ignored = shutil.ignore_patterns("*.safetensors", "checkpoints")
    return shutil.copytree(representation, tmp_path / "hyperrep-digits", ignore=ignored)


def tables(text: str) -> list[list[list[str]]]:
    """The cells of every Markdown table, without the line under the header."""
    found = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [[line for line in table if set(line[0]) != {"-"}] for table in found if table]


def test_the_metadata_is_yaml_that_the_hub_reads(folder):
    write_results(folder / "results" / "finetune.jsonl", rows())
    text = write_model_card(folder, "org/hyperrep-digits").read_text()
    metadata = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1])
    assert metadata["license"] == "apache-2.0"
    assert metadata["library_name"] == "hyperrep"
    assert {"hyper-representation", "model-zoo"} <= set(metadata["tags"])
    # S_KDE30, the method, at the epochs the poster names first; unrounded numbers are in the results file
    (entry,) = metadata["model-index"]
    assert entry["name"] == "hyperrep-digits"
    (result,) = entry["results"]
    stored = {row.epoch: row.mean for row in rows() if row.what == "test_accuracy" and row.method == "S_KDE30"}
    values = {int(metric["name"].split()[-1]): metric["value"] for metric in result["metrics"]}
    assert values == {epoch: pytest.approx(stored[epoch], abs=5e-5) for epoch in (0, 1)}
    card = ModelCard.load(folder / "README.md")
    assert len(card.data.eval_results) == 2
    assert result["dataset"]["name"] == "digits"


def test_every_number_of_the_tables_is_one_of_the_results(folder):
    write_results(folder / "results" / "finetune.jsonl", rows())
    accuracy, training, samples = tables(write_model_card(folder).read_text())[-3:]
    assert accuracy[0] == ["method", "variant", "n", "epoch 0", "epoch 1", "epoch 7"]  # not 3, but the last
    stored = {(row.what, row.method, row.variant, row.epoch): row for row in rows()}
    whats = ("test_accuracy", "nearest_training_similarity", "nearest_sample_similarity")
    for what, table in zip(whats, (accuracy, training, samples)):
        assert len(table) == 5
        for method, variant, n, *cells in table[1:]:
            for heading, cell in zip(table[0][3:], cells, strict=True):
                row = stored[what, method, variant, int(heading.split()[-1])]
                assert cell == f"{100 * row.mean:.1f} ± {100 * row.std:.1f}"
                assert n == str(row.n)


def test_no_blank_is_left(folder):
    for results in (False, True):
        if results:
            write_results(folder / "results" / "finetune.jsonl", rows())
        text = write_model_card(folder, "org/hyperrep-digits").read_text()
        assert "$" not in text
        assert ("Not evaluated yet" in text) != results
    assert "a machine of 96 cores; sampling seed 17." in text
    assert text.count('from_pretrained("org/hyperrep-digits")') == 2


def test_settings_and_training_are_as_recorded(folder):
    model, training = tables(write_model_card(folder).read_text())
    config = json.loads((folder / "config.json").read_text())
    recorded = json.loads((folder / "results" / "training.json").read_text())
    for name in ("hidden_size", "latent_size", "intermediate_size"):
        assert [name, str(config[name])] in model
    assert ["steps", str(recorded["steps"])] in training
    assert {line[0] for line in training[1:]} == set(recorded)
    text = (folder / "README.md").read_text()
    assert f"(50, {config['latent_size']})" in text
    assert "2,464 parameters" in text
    assert "hyper-representation of the cnn-zoo-digits zoo" in text
    assert "The sampler `kde independent`" in text


def test_a_new_card_replaces_the_old(folder):
    write_results(folder / "results" / "finetune.jsonl", rows())
    before = results_table(rows())[1][2][3]
    assert before in write_model_card(folder).read_text()
    changed = [replace(row, mean=0.123, std=0.0) for row in rows()]
    write_results(folder / "results" / "finetune.jsonl", changed)
    text = write_model_card(folder).read_text()
    assert "| S_KDE30 | independent | 3 | 12.3 ± 0.0 | 12.3 ± 0.0 | 12.3 ± 0.0 |" in text
    assert before not in text
    assert text.count("license:") == 1


@pytest.mark.parametrize("content", [None, '{"model_type": "small_cnn"}'])
def test_a_folder_that_is_no_representation_gets_no_card(tmp_path, content):
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="not a representation"):
        write_model_card(tmp_path)
    assert not (tmp_path / "README.md").exists()
