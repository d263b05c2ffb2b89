import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from training_runs import (
    QUICK,
    one_thread,  # noqa: F401
)

from hyperrep import HyperRepModel, load_zoo
from hyperrep.errors import UserError
from hyperrep.evaluation.ablation import (
    _rows,
    ablation_table,
    contrast,
    permutation,
    run_studies,
    size,
    subsets,
    width,
)
from hyperrep.evaluation.report import run_ablation
from hyperrep.population import choose_engine
from hyperrep.training import TrainingConfig
from hyperrep.training.config import BEHAVIOR_WEIGHTS
from hyperrep.zoo import zoo_images


INGREDIENTS = {
    "normalization": {"normalize_loss"},
    "alignment": {"align"},
    "behavior": set(BEHAVIOR_WEIGHTS),
}


def digits_config() -> TrainingConfig:
    return TrainingConfig.from_yaml("digits", QUICK)


def settings(config: TrainingConfig) -> dict:
    values = asdict(config)
    return values | {"normalize_loss": config.model_config().normalize_loss, "model": None}


@pytest.mark.parametrize("preset", ["digits", "mnist"])
def test_subsets_differ_in_nothing_but_their_ingredients(preset):
    config = TrainingConfig.from_yaml(preset)
    found = subsets(config)
    assert len(found) == 8
    assert next(iter(found)) == "normalization+alignment+behavior"
    assert next(iter(found.values())) == config
    for name, part in found.items():
        kept = set() if name == "none" else set(name.split("+"))
        changed = {key for key, value in settings(part).items() if value != settings(config)[key]}
        left_out = [keys for ingredient, keys in INGREDIENTS.items() if ingredient not in kept]
        assert changed <= set().union(*left_out)
        assert all(changed & keys for keys in left_out)
        assert "behavior" in kept or not any(getattr(part, name) for name in BEHAVIOR_WEIGHTS)
        assert part.model_config().normalize_loss == ("normalization" in kept)
        assert (part.align, part.runs_networks) == ("alignment" in kept, "behavior" in kept)


def test_only_what_a_configuration_has_is_left_out():
    paper = TrainingConfig.from_yaml("mnist-paper")
    assert list(subsets(paper)) == ["normalization", "none"]
    with pytest.raises(UserError, match="nothing to leave out"):
        subsets(subsets(paper)["none"])


def test_accuracies_are_those_of_the_trained_models(digits_zoo, tmp_path):
    only = ["normalization+alignment", "alignment"]
    run_ablation(digits_config(), str(digits_zoo), None, tmp_path, only)
    rows = [json.loads(line) for line in (tmp_path / "ablation.jsonl").read_text().splitlines()]
    assert (tmp_path / "ablation.png").exists()

    zoo = load_zoo(digits_zoo)
    images, network = zoo_images(zoo).test, zoo.config.network_config()
    engine = choose_engine("auto", network)
    held_out = zoo["test"]
    weights = held_out.weights[held_out.epoch > 20]
    means = {(row["method"], row["variant"], row["what"]): row["mean"] for row in rows}
    for name in only:
        model = HyperRepModel.from_pretrained(tmp_path / name)
        assert model.config.normalize_loss == ("normalization" in name)
        with torch.no_grad():
            decoded = model.decode(model.encode(weights))
        for what, rows_of in {"original": weights, "reconstruction": decoded}.items():
            accuracy = engine.evaluate(network, rows_of, images.pixels, images.labels).accuracy.mean().item()
            assert means[name, "held-out", f"{what}_accuracy"] == pytest.approx(accuracy, abs=1e-3)

    # complete runs are read
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/model.safetensors")}
    again = run_studies(digits_config(), zoo, tmp_path, only=only)
    assert [row.mean for row in again] == [row["mean"] for row in rows]
    assert {path: path.stat().st_mtime_ns for path in written} == written
    header, lines = ablation_table(again)
    # training networks answer validation images, and are not called tested
    assert header[1:3] == ["training networks, validation images", "held-out networks, test images"]
    images_of = {row["variant"]: row["settings"]["images"] for row in rows}
    assert images_of == {"training": "validation images", "held-out": "test images"}
    assert {row["method"]: row["settings"]["training"]["align"] for row in rows} == dict.fromkeys(only, True)
    assert len({row["settings"]["representation_sha256"] for row in rows}) == 2
    assert [line[0] for line in lines] == ["(originals)", *only]
    assert all(len(line) == len(header) for line in lines)


def test_a_measure_that_is_no_number_is_left_out_with_a_warning(caplog):
    split = {"r2": 0.5, "r2_per_layer": {"convs.0": float("nan"), "linears.0": 0.25}}
    split["accuracy"] = {which: {"mean": 0.5, "std": 0.1, "n": 3} for which in ("original", "reconstruction")}
    zoo, images = SimpleNamespace(name="zoo", revision=None), SimpleNamespace(name="digits")
    rows = _rows("none", {"train_sample": split, "test": split, "seconds": 1.0}, zoo, images, 0, {})
    assert {row.what for row in rows} == {"original_accuracy", "reconstruction_accuracy", "r2", "r2 of linears.0"}
    assert "r2 of convs.0 of none, held-out networks, is no number" in caplog.text
    assert len(ablation_table(rows)[1][1]) == 5


def test_results_that_are_not_ours_are_kept(digits_zoo, tmp_path):
    (tmp_path / "ablation.jsonl").write_text("mine")
    with pytest.raises(UserError, match="was not written by hyperrep"):
        run_ablation(digits_config(), str(digits_zoo), None, tmp_path, ["alignment"])
    assert [path.name for path in tmp_path.iterdir()] == ["ablation.jsonl"]


def test_an_unknown_subset(digits_zoo, tmp_path):
    with pytest.raises(UserError, match="'alignmnt' is unknown; choose from normalization"):
        run_studies(digits_config(), load_zoo(digits_zoo), tmp_path, only=["alignmnt"])
    assert not list(tmp_path.iterdir())


WHOLE = "normalization+alignment+behavior"


def changes(part: TrainingConfig, config: TrainingConfig) -> dict:
    """What a part has another than the configuration, fields of the model among them."""
    flat, before = ({**asdict(one), **one.model_config().to_dict()} for one in (part, config))
    return {key: value for key, value in flat.items() if value != before[key] and key != "model"}


def test_a_study_changes_one_thing():
    config = digits_config()
    assert changes(contrast(config)["contrast"], config) == {"contrast_weight": 0.0996}
    assert changes(permutation(config)["permutation"], config) == {"align": False, "permute": True}
    widths = {name: changes(part, config)["neuron_latent_size"] for name, part in list(width(config).items())[1:]}
    assert widths == {"width-4": 4, "width-8": 8, "width-32": 32}
    fewer = size(replace(config, num_train_epochs=10), 150)
    assert {name: part.num_train_epochs for name, part in fewer.items()} == {
        WHOLE: 10,
        "networks-50": 30,
        "networks-100": 15,
    }
    for study in (contrast(config), permutation(config), width(config), size(config, 60)):
        assert next(iter(study)) == WHOLE
        assert study[WHOLE] == config


def test_what_is_on_is_switched_off():
    paper = TrainingConfig.from_yaml("mnist-paper")
    assert changes(contrast(paper)["no-contrast"], paper) == {"contrast_weight": 0.0}
    assert changes(permutation(paper)["no-permutation"], paper) == {"permute": False}
    assert [part.model_config().latent_size for part in width(paper).values()] == [700, 175, 350, 1400]


def test_a_zoo_of_fewer_networks_is_learned_from(hyperrep, digits_zoo, tmp_path, monkeypatch):
    monkeypatch.setattr("hyperrep.evaluation.ablation.SIZES", (13, 500))
    given = " ".join(f"--{name} {value}" for name, value in QUICK.items())
    line = f"evaluate ablation digits --zoo {digits_zoo} --output out {given} --study size --study width"
    code, out, err = hyperrep(f"{line} --only networks-13 --only width-4")
    assert code == 0, err
    rows = [json.loads(line) for line in (tmp_path / "out" / "ablation.jsonl").read_text().splitlines()]
    assert {row["method"]: row["settings"]["training_networks"] for row in rows} == {"networks-13": 13, "width-4": 14}
    seen = {path.parts[-3]: json.loads(path.read_text())["rows"]["train"] for path in tmp_path.glob("out/*/results/*")}
    assert seen == {"networks-13": 13 * 5, "width-4": 14 * 5}
    table = " ".join(out.split())
    assert "held-out networks, test images" in table
    assert "training networks, validation images" in table


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--study sizes", "study 'sizes' is unknown; choose from ingredients, contrast"),
        ("--study size", "the zoo has 14 training networks; more than 50 are needed"),
        ("--study contrast --only alignment", "part 'alignment' is unknown; choose from normalization"),
    ],
)
def test_mistakes(hyperrep, digits_zoo, tmp_path, options, said):
    code, _, err = hyperrep(f"evaluate ablation digits --zoo {digits_zoo} --output out {options}")
    assert code == 2
    assert said in err
    assert not (tmp_path / "out" / "ablation.jsonl").exists()
