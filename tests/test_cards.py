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
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from hyperrep import HyperRepPipeline
from hyperrep.cards import write_model_card
from hyperrep.errors import UserError
from hyperrep.evaluation import ResultRow, results_table
from hyperrep.files import output_folder
from hyperrep.publishing import carry_card
from hyperrep.results import write_results as write_rows


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


def write_results(path: Path, rows: list[ResultRow]) -> None:
    """As an evaluation leaves them in a representation's folder."""
    with output_folder(path.parent.parent, "representation", "add") as output:
        write_rows(output, f"results/{path.name}", rows)


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
    # what was sampled, at the epochs the poster names first; unrounded numbers are in the results file
    (entry,) = metadata["model-index"]
    assert entry["name"] == "hyperrep-digits"
    stored = {(row.method, row.epoch): row.mean for row in rows() if row.what == "test_accuracy"}
    values = {result["dataset"]["config"]: result["metrics"][0]["value"] for result in entry["results"]}
    assert values == {
        f"{name}, epoch {epoch} of fine-tuning": pytest.approx(stored[name.split()[0], epoch], abs=5e-5)
        for name in ("S_KDE30 independent", "S_U")
        for epoch in (0, 1)
    }
    assert all(result["dataset"]["name"] == "digits" for result in entry["results"])
    assert "datasets" not in metadata  # neither zoo nor images have an id on the Hub
    assert "pipeline_tag" not in metadata  # no task of the Hub is the generation of weights


def test_every_result_has_an_identifier_of_its_own(folder):
    several = rows() + [replace(row, variant="joint") for row in rows() if row.method == "S_KDE30"]
    write_results(folder / "results" / "finetune.jsonl", several)
    results = ModelCard.load(write_model_card(folder, "org/hyperrep-digits")).data.eval_results
    assert len(results) == 6
    assert len({result.unique_identifier for result in results}) == 6
    assert len({result.metric_name for result in results}) == 6
    assert model_index_to_eval_results(eval_results_to_model_index("hyperrep-digits", results))[1] == results


def test_the_headline_is_what_the_pipeline_draws(folder):
    drawn = {"sampling": {"method": "kde", "variant": "independent"}, "stored_sampler": True}
    several = [replace(row, settings=row.settings | drawn) if row.method == "S_KDE30" else row for row in rows()]
    several += [replace(row, variant="joint") for row in rows() if row.method == "S_KDE30"]  # near-copies
    write_results(folder / "results" / "finetune.jsonl", several)
    results = ModelCard.load(write_model_card(folder, "org/hyperrep-digits")).data.eval_results
    assert {result.dataset_config for result in results} == {
        f"S_KDE30 independent, epoch {epoch} of fine-tuning" for epoch in (0, 1)
    }


def test_what_is_on_the_hub_is_named_as_a_data_set(folder):
    config = json.loads((folder / "config.json").read_text())
    config["zoo"] |= {"name": "org/cnn-zoo-mnist", "revision": "0" * 40}
    (folder / "config.json").write_text(json.dumps(config))
    write_results(folder / "results" / "finetune.jsonl", [replace(row, target="ylecun/mnist") for row in rows()])
    assert ModelCard.load(write_model_card(folder)).data.datasets == ["org/cnn-zoo-mnist", "ylecun/mnist"]


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


def leaves(values: dict, path: str = "") -> dict[str, object]:
    found = {}
    for key, value in values.items():
        name = f"{path} {key}".strip()
        found |= leaves(value, name) if isinstance(value, dict) and "mean" not in value else {name: value}
    return found


def test_settings_and_training_are_as_recorded(folder):
    model, measures, training, settings = tables(write_model_card(folder).read_text())
    config = json.loads((folder / "config.json").read_text())
    recorded = json.loads((folder / "results" / "training.json").read_text())
    for name in ("hidden_size", "latent_size", "intermediate_size"):
        assert [name, str(config[name])] in model
    assert ["steps", str(recorded["steps"])] in training
    # every setting is there once, in a line of its own
    assert [line[0] for line in settings[1:]] == list(leaves(recorded["settings"]))
    splits = ("train_sample", "validation", "test")
    others = {name: value for name, value in recorded.items() if name not in ("settings", *splits)}
    assert [line[0] for line in training[1:]] == list(leaves(others))
    assert {line[0] for line in measures[1:]} == set(leaves(recorded["test"]))
    assert measures[0] == ["measure", "training networks", "validation networks", "test networks"]
    (line,) = [line for line in measures if line[0] == "reconstruction_loss"]
    assert line[1:] == [f"{recorded[split]['reconstruction_loss']:.4g}" for split in splits]
    (line,) = [line for line in measures if line[0] == "accuracy original"]
    accuracy = recorded["test"]["accuracy"]["original"]
    assert line[3] == f"{accuracy['mean']:.4g} ± {accuracy['std']:.4g} (n {accuracy['n']})"
    text = (folder / "README.md").read_text()
    assert max(map(len, text.splitlines())) < 400
    assert f"(50, {config['latent_size']})" in text
    assert "2,464 parameters" in text
    assert "hyper-representation of the model zoo `cnn-zoo-digits`" in text
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


def test_a_card_that_somebody_changed_is_kept(folder, tmp_path):
    card = write_model_card(folder)
    write_model_card(folder)  # ours, and unchanged
    card.write_text(card.read_text() + "\nMy own remarks.\n")
    before = card.read_bytes()
    with pytest.raises(UserError, match=r"README\.md was not written by hyperrep, or was changed since"):
        write_model_card(folder)
    assert card.read_bytes() == before
    elsewhere = tmp_path / "card.md"
    assert write_model_card(folder, "org/other", elsewhere) == elsewhere
    assert 'from_pretrained("org/other")' in elsewhere.read_text()
    assert card.read_bytes() == before
    with pytest.raises(UserError, match="exists; name a new file"):
        write_model_card(folder, output=elsewhere)
    with pytest.raises(UserError, match="there is no folder"):
        write_model_card(folder, output=tmp_path / "none" / "card.md")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", '{"model_type": "hyperrep", "layout": "x"}', r"config\.json"),
        ("config.json", '{"model_type": "hyperrep"', r"config\.json is damaged"),
        ("results/training.json", '{"loss": NaN}', r"training\.json is damaged"),
        ("results/finetune.jsonl", '{"what": "test_accuracy"', r"finetune\.jsonl, line 1, is damaged"),
        ("sampler/sampler_config.json", "[]", r"sampler_config\.json holds a list"),
    ],
)
def test_a_damaged_file_is_named_and_no_card_is_written(folder, file, content, message):
    (folder / file).write_text(content)
    with pytest.raises(UserError, match=message):
        write_model_card(folder)
    assert not (folder / "README.md").exists()


@pytest.mark.parametrize("repo", ["a b/c", "a/b/c", "--x", "x" * 200])
def test_what_cannot_be_a_hub_id_gets_no_card(folder, repo):
    with pytest.raises(UserError, match="cannot be a Hub id"):
        write_model_card(folder, repo)


def with_settings(row: ResultRow, variant: str) -> ResultRow:
    sampling = {"method": "kde", "variant": variant, "bandwidth": 0.002, "top": 0.1, "score": "validation_accuracy"}
    return replace(row, method="S_KDE10", settings={"torch": "2", "sampling": sampling, "stored_sampler": True})


def test_the_card_says_what_made_its_numbers(folder):
    made = [with_settings(row, "independent") if row.method == "S_KDE30" else row for row in rows()]
    write_results(folder / "results" / "finetune.jsonl", made)
    text = write_model_card(folder).read_text()
    assert "S_KDE10: over latents, of the best 10 % of the training networks. A Gaussian kernel density" in text
    settings = tables(text)[-1]
    assert ["sampling top", "0.1"] in settings
    assert "ships with the model" not in text  # that one has the best 30 %
    path = folder / "sampler" / "sampler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"top": 0.1}))
    assert "The sampler that ships with the model is S_KDE10 (independent)." in write_model_card(folder).read_text()


def saved(representation: Path, folder: Path) -> Path:
    """What `save_pretrained` of a pipeline leaves: model and sampler."""
    ignored = shutil.ignore_patterns("results", "README.md", "checkpoints", ".hyperrep.json", "*.jsonl")
    return shutil.copytree(representation, folder, ignore=ignored)


def test_card_and_results_travel_with_the_model(representation, tmp_path):
    source = shutil.copytree(representation, tmp_path / "source")
    write_results(source / "results" / "finetune.jsonl", rows())
    card = write_model_card(source)
    card.write_text(card.read_text() + "\nMy own remarks.\n")
    (source / "results" / "secret.json").symlink_to("/etc/hostname")
    target = saved(representation, tmp_path / "same")
    carry_card(source, target, "org/name")
    assert (target / "README.md").read_bytes() == card.read_bytes()
    assert (target / "results" / "finetune.jsonl").read_bytes() == (source / "results/finetune.jsonl").read_bytes()
    assert not (target / "results" / "secret.json").exists()

    target = saved(representation, tmp_path / "resampled")
    path = target / "sampler" / "sampler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"top": 0.1}))
    carry_card(source, target, "org/name")
    text = (target / "README.md").read_text()
    assert "The sampler was replaced after this was written" in text
    assert ModelCard(text).data == ModelCard(card.read_text()).data
    assert "My own remarks" in text

    source = shutil.copytree(representation, tmp_path / "untouched")
    write_results(source / "results" / "finetune.jsonl", rows())
    write_model_card(source)
    target = shutil.copytree(target, tmp_path / "short", ignore=shutil.ignore_patterns("README.md"))
    carry_card(source, target, "org/name")
    text = (target / "README.md").read_text()
    assert "Not evaluated yet" not in text
    assert "| top | 0.1 |" in text

    target = saved(representation, tmp_path / "other")
    (target / "model.safetensors").write_bytes(b"other weights")
    carry_card(source, target, "org/name")
    assert "Not evaluated yet" in (target / "README.md").read_text()
    assert not (target / "results").exists()


def test_what_a_pipeline_publishes_is_the_evaluated_card(representation, tmp_path, monkeypatch):
    source = shutil.copytree(representation, tmp_path / "source")
    write_results(source / "results" / "finetune.jsonl", rows())
    card = write_model_card(source).read_text()
    published = {}

    def push(folder, repo_id, **_):
        published.update(
            {path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*.*")}
        )
        return "address"

    monkeypatch.setattr("hyperrep.pipeline.push_folder", push)
    assert HyperRepPipeline.from_pretrained(source).push_to_hub("org/hyperrep") == "address"
    assert published["README.md"].decode() == card
    assert {"results/finetune.jsonl", "results/training.json", "model.safetensors"} <= set(published)
