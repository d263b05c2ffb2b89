import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import result_rows
import torch
from torch.testing import assert_close

from hyperrep import HyperRepConfig, HyperRepModel, load_zoo
from hyperrep.errors import UserError
from hyperrep.evaluation import (
    Bench,
    Finetune,
    Progress,
    ResultRow,
    error_similarity,
    nearest_similarity,
    read_results,
    results_table,
    run_experiment,
    write_results,
)
from hyperrep.evaluation.novelty import vote_accuracy
from hyperrep.evaluation.populations import draw_populations
from hyperrep.evaluation.progress import Outcome
from hyperrep.files import output_folder
from hyperrep.population import choose_engine
from hyperrep.representation.filter import Filter
from hyperrep.results import fingerprint, stored_sampler
from hyperrep.samplers import KDESampler, Sampler, UniformSampler, refit
from hyperrep.training.data import TrainingData
from hyperrep.zoo import zoo_images


FIELDS = result_rows.FIELDS | {"method": "S_KDE30", "variant": "independent"}
SETTINGS = {"num_models": 4, "epochs": 1, "methods": ("kde-independent", "kde-joint", "uniform")}
ONE = {"num_models": 1, "epochs": 0, "methods": ("kde-joint", "uniform")}


def bench(representation: Path, zoo: Path, sampler: Sampler | None = None, **changes) -> Bench:
    """A representation and its zoo, as an evaluation sees them."""
    loaded, model = load_zoo(zoo), HyperRepModel.from_pretrained(representation)
    engine = choose_engine("auto", loaded.config.network_config())
    return replace(Bench(model, loaded, zoo_images(loaded), engine, "model", None, sampler), **changes)


def test_error_similarity_worked_by_hand():
    labels = torch.tensor([0, 0, 0, 0])
    first = torch.tensor([[0, 1, 1, 1]])  # wrong on images 1, 2, 3
    others = torch.tensor([[1, 1, 2, 0], [0, 0, 0, 0], [0, 2, 3, 1]])  # wrong on 0, 1, 2; on none; on 1, 2, 3
    assert_close(error_similarity(first, others, labels), torch.tensor([[2 / 4, 0.0, 1.0]]))
    assert_close(nearest_similarity(first, others, labels), torch.tensor([1.0]))
    # among themselves, a network is not its own neighbour
    assert_close(nearest_similarity(others, None, labels), torch.tensor([0.5, 0.0, 0.5]))


def test_a_network_alone_has_no_nearest_one():
    labels, alone = torch.tensor([0, 1]), torch.tensor([[1, 1]])
    assert nearest_similarity(alone, None, labels).tolist() == []  # it was -1
    assert nearest_similarity(alone, alone[:0], labels).tolist() == []


def test_a_vote_worked_by_hand():
    predictions = torch.tensor([[0, 1, 2, 2], [0, 1, 0, 1], [1, 2, 0, 0]], dtype=torch.uint8)
    assert (
        vote_accuracy(predictions, torch.tensor([0, 1, 2, 0])) == 0.75
    )  # 0, 1, 0, and of three tied classes the first


def test_two_networks_without_errors_are_alike():
    labels = torch.tensor([0, 1])
    assert error_similarity(labels[None], labels[None], labels).item() == 1


def test_a_result_row_has_the_papers_standard_deviation(tmp_path):
    row = ResultRow.of(torch.tensor([0.2, 0.4, 0.9]), what="test_accuracy", epoch=0, **FIELDS)
    assert (row.n, row.mean) == (3, pytest.approx(0.5))
    assert row.std == pytest.approx((0.26 / 3) ** 0.5)  # ddof 0
    with output_folder(tmp_path, "results", "add") as output:
        write_results(output, "rows.jsonl", [row])
    assert read_results(tmp_path / "rows.jsonl") == [row]
    later = replace(row, epoch=5, mean=0.75, std=0.125)
    header, lines = results_table([row, later])
    assert header == ["method", "variant", "n", "epoch 0", "epoch 5"]
    assert lines == [["S_KDE30", "independent", "3", "50.0 ± 29.4", "75.0 ± 12.5"]]


class CountingEngine:
    """Counts the epochs that are really trained."""

    def __init__(self, engine):
        self.engine, self.name, self.epochs = engine, engine.name, 0

    def train_epoch(self, *args):
        self.epochs += 1
        return self.engine.train_epoch(*args)

    def evaluate(self, *args, **kwargs):
        return self.engine.evaluate(*args, **kwargs)


def test_finetuning_every_population(representation, digits_zoo, tmp_path):
    made = bench(representation, digits_zoo, Sampler.from_pretrained(representation / "sampler"))
    zoo, model, engine = made.zoo, made.model, CountingEngine(made.engine)
    made = replace(made, engine=engine)

    def evaluate(**settings):
        with output_folder(tmp_path, "results", "add") as output:
            return list(Finetune(**SETTINGS | settings).rows(made, Progress(output, ".finetune")))

    rows = evaluate()

    found = {(row.what, row.method, row.variant, row.epoch): row for row in rows}
    expected = [("S_KDE30", "independent"), ("S_KDE", "independent"), ("B_KDE", "independent")]
    for method, variant in [*expected, ("S_KDE30", "joint"), ("B_KDE30", "joint"), ("S_U", "")]:
        for epoch in (0, 1):
            assert found["test_accuracy", method, variant, epoch].n == 4
        assert 0 <= found["nearest_training_similarity", method, variant, 0].mean <= 1
        assert found["ensemble_accuracy", method, variant, 0].n == 4
    # trained from scratch: the zoo's own test split, not trained again
    for epoch in zoo.config.epochs:
        accuracy = zoo["test"].metrics["test_accuracy"][zoo["test"].epoch == epoch].double()
        row = found["test_accuracy", "B_T", "", epoch]
        assert (row.n, row.mean) == (len(accuracy), pytest.approx(accuracy.mean().item()))
        assert row.std == pytest.approx(accuracy.std(correction=0).item())
    # training networks as they are, to be trained on
    last = zoo["train"].select([25])
    row = found["test_accuracy", "B_F", "", 0]
    assert row.mean == pytest.approx(last.metrics["test_accuracy"][:4].double().mean().item())
    assert row.settings["models"] == last.model_id[:4].tolist()
    assert row.interval is not None
    assert row.interval[0] <= row.mean <= row.interval[1]
    assert set(row.p_values) == {"B_T", "B_KDE30 independent"}
    assert found["test_accuracy", "B_KDE30", "independent", 0].p_values is None  # not against itself
    # a density this narrow over whole weight vectors gives copies, and the similarity says so
    copies = found["nearest_training_similarity", "B_KDE30", "joint", 0].mean
    assert copies > 0.8 > found["nearest_training_similarity", "B_KDE30", "independent", 0].mean
    assert engine.epochs == 8

    again = evaluate()
    assert engine.epochs == 8  # everything was kept
    assert [row.mean for row in again] == [row.mean for row in rows]
    (tmp_path / ".finetune" / "S_U-only.json").unlink()  # as if it had been interrupted before the last
    again = evaluate()
    assert engine.epochs == 9
    assert [row.mean for row in again] == [row.mean for row in rows]
    evaluate(seed=1)
    assert engine.epochs == 17  # other samples are other populations

    # every setting that made a number stands in its row
    settings = found["test_accuracy", "S_KDE30", "independent", 1].settings
    sampling = {"method": "kde", "variant": "independent", "bandwidth": 0.002, "top": 0.3, "worst": False}
    assert settings["sampling"] == sampling | {"score": "validation_accuracy"}
    assert settings["stored_sampler"] is True  # it was recognised, and is not fine-tuned twice
    assert not found["test_accuracy", "S_KDE30", "joint", 1].settings.get("stored_sampler")
    assert not any(row.method == "S_stored" for row in rows)
    assert settings["epochs_seen"] == [21, 22, 23, 24, 25]
    assert settings["weight_threshold"] == 5.0
    assert settings["zoo_sha256"] == model.config.zoo["sha256"]
    assert settings["representation_sha256"] == fingerprint(model.state_dict())
    assert settings["recipe"] == zoo.config.protocol["recipe"]
    assert settings["num_models"] == 4
    assert settings["order_seeds"] == [1_000_000, 1_000_003]
    assert {"hyperrep", "torch", "engine", "images_fingerprint", "zoo_revision"} <= set(settings)
    # the baseline is not filtered, and says so
    assert found["test_accuracy", "B_T", "", 1].settings["weight_threshold"] is None
    assert stored_sampler(rows) == "S_KDE30 (independent)"
    titles = [title for title, _, _ in Finetune.tables(rows)]
    assert [title.split(",")[0] for title in titles] == [
        "Test accuracy",
        "95 % interval of the mean test accuracy",
        "Error-set similarity to the nearest training model",
        "Error-set similarity to the nearest network of the same population",
        "Test accuracy of the majority vote of n networks",
    ]


@pytest.fixture(scope="module")
def single(representation, digits_zoo):
    """Evaluates one network a population for no epoch: everything but the training."""
    made = bench(representation, digits_zoo)
    return lambda **settings: list(Finetune(**ONE | settings).rows(made))


def test_a_single_network_has_no_sibling(single):
    found = {(row.what, row.method) for row in single()}
    assert ("nearest_training_similarity", "S_KDE30") in found
    assert ("nearest_sample_similarity", "S_KDE30") not in found
    assert ("nearest_sample_similarity", "zoo") in found


@pytest.mark.parametrize(("top", "name"), [(0.1, "10"), (0.3, "30"), (0.125, "12.5"), (1.0, "100")])
def test_a_method_is_called_by_the_share_that_made_it(single, top, name):
    methods = {row.method for row in single(top=top)}
    assert {f"S_KDE{name}", f"B_KDE{name}"} <= methods
    assert len([method for method in methods if "KDE" in method]) == 2


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1]",
        "null",
        "\x00",
        '{"settings": {',
        '{"settings": 5}',
        '{"values": {"test_accuracy": {"0": [NaN]}}}',
        "longer",
        "wrong",
    ],
)
def test_a_damaged_progress_file_is_made_again_with_a_warning(tmp_path, caplog, content):
    outcome = Outcome({"top": 0.3}, 2, {"test_accuracy": {"0": [0.1, 0.2]}, "ensemble_accuracy": {"0": [0.9]}}, 1.0)
    with output_folder(tmp_path, "results", "add") as output:
        progress = Progress(output, ".finetune")
        progress.write("S_U-only", outcome)
        assert progress.read("S_U-only", {"top": 0.3}) == outcome
        assert progress.read("S_U-only", {"top": 0.1}) is None
        assert not caplog.text
        path = tmp_path / ".finetune" / "S_U-only.json"
        if content in ("longer", "wrong"):
            changed = [0.1, 0.2, 0.3] if content == "longer" else ["0.1", 0.2]
            content = json.dumps(json.loads(path.read_text()) | {"values": {"test_accuracy": {"0": changed}}})
        path.write_text(content)
        assert progress.read("S_U-only", {"top": 0.3}) is None
        assert f"{path}" in caplog.text
        assert "is measured again" in caplog.text
        progress.write("S_U-only", outcome)  # what lies there is ours, whatever it holds
        assert progress.read("S_U-only", {"top": 0.3}) == outcome
        progress.remove()
    assert not (tmp_path / ".finetune").exists()


def populations(representation, digits_zoo, sampler):
    drawn = draw_populations(bench(representation, digits_zoo, sampler), Finetune(**ONE).draws, 2, 0)
    return {(population.method, population.variant): population for population in drawn}


def test_the_sampler_that_ships_with_the_model_is_scored(representation, digits_zoo):
    stored = refit(Sampler.from_pretrained(representation / "sampler"), variant="joint")
    changed = populations(representation, digits_zoo, refit(stored, bandwidth=0.05))
    found = changed["S_stored", "joint"]
    assert found.settings["stored_sampler"] is True
    assert found.settings["sampling"]["bandwidth"] == 0.05
    assert not torch.allclose(found.weights, changed["S_KDE30", "joint"].weights)
    assert not changed["S_KDE30", "joint"].settings.get("stored_sampler")
    # of other latents, with the same settings
    others = KDESampler(variant="joint").fit(stored.latents.flip(0) * 0.5, stored.scores)
    assert ("S_stored", "joint") in populations(representation, digits_zoo, others)


@pytest.mark.parametrize(
    ("sampler", "name"),
    [
        (lambda stored: refit(stored, variant="joint"), ("S_KDE30", "joint")),
        (lambda stored: UniformSampler().fit(stored.latents), ("S_U", "")),
    ],
)
def test_a_stored_sampler_that_is_one_of_the_others_is_recognised(representation, digits_zoo, sampler, name):
    found = populations(representation, digits_zoo, sampler(Sampler.from_pretrained(representation / "sampler")))
    assert [key for key, value in found.items() if value.settings.get("stored_sampler")] == [name]
    assert len(found) == 3


def test_decoded_networks_must_be_finite(representation, digits_zoo, monkeypatch):
    made = bench(representation, digits_zoo)
    decode = made.model.decode

    def broken(latents):
        weights = decode(latents).clone()
        weights[0, 0] = float("nan")
        return weights

    monkeypatch.setattr(made.model, "decode", broken)
    with pytest.raises(UserError, match=r"S_KDE30 joint: 1 of 3 networks came out NaN or infinite: is model damaged"):
        list(draw_populations(made, Finetune(methods=("kde-joint",)).draws, 3, 0))


def test_a_row_with_nan_is_not_made():
    with pytest.raises(UserError, match=r"test_accuracy of S_KDE30, epoch 0: mean is nan"):
        ResultRow.of(torch.tensor([0.2, float("nan")]), what="test_accuracy", epoch=0, **FIELDS)


ROW = {"what": "test_accuracy", "epoch": 0, "n": 3, "mean": 0.5, "std": 0.1} | FIELDS


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (json.dumps(ROW)[:-20], "line 2, is damaged"),
        (json.dumps(ROW | {"mean": float("nan")}), "NaN is not a number"),
        (json.dumps(ROW | {"mean": "0.5"}), "line 2,: .*'mean' expected float"),
        (json.dumps(ROW | {"n": 0}), "line 2,: .* n 0"),
        (json.dumps(ROW | {"extra": 1}), "line 2,: key 'extra' is unknown"),
        (json.dumps({"what": "test_accuracy"}), "line 2, lacks experiment"),
        ("[1, 2]", "line 2, holds a list"),
        ("\xff", "damaged"),
    ],
)
def test_a_damaged_result_file_is_named_with_its_line(tmp_path, line, message):
    path = tmp_path / "finetune.jsonl"
    path.write_bytes((json.dumps(ROW) + "\n").encode() + line.encode("latin-1") + b"\n")
    with pytest.raises(UserError, match=message) as error:
        read_results(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parent.parent / "model_cards").glob("hyperrep-*/results/*.jsonl")), ids=str
)
def test_the_projects_own_results_can_be_read(path):
    rows = read_results(path)
    assert rows
    assert [row.to_dict() | {"settings": {}} for row in rows] == [
        json.loads(line) | {"settings": {}} for line in path.read_text().splitlines()
    ]


def test_an_evaluation_writes_into_the_representation_and_replaces_only_its_own(representation, digits_zoo, tmp_path):
    folder = shutil.copytree(representation, tmp_path / "model")
    shutil.rmtree(folder / "sampler")  # there need not be one

    def run(overwrite=False, output=None):
        return run_experiment(Finetune(**ONE), str(folder), str(digits_zoo), output=output, overwrite=overwrite)

    rows = run()
    assert read_results(folder / "results" / "finetune.jsonl") == rows
    assert (folder / "results" / "finetune.png").read_bytes()[:4] == b"\x89PNG"
    assert not (folder / "results" / ".finetune").exists()
    with pytest.raises(UserError, match="exists; replace it with --overwrite"):
        run()
    assert [row.mean for row in run(overwrite=True, output=folder / "results")] == [row.mean for row in rows]
    (folder / "results" / "finetune.jsonl").write_text("my notes")
    with pytest.raises(UserError, match="was changed since"):
        run(overwrite=True)
    assert (folder / "results" / "finetune.jsonl").read_text() == "my notes"
    run(output=tmp_path / "elsewhere")
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == {
        ".hyperrep.json",
        "finetune.jsonl",
        "finetune.png",
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_models": 0}, "num_models is 0"),
        ({"epochs": -1}, "epochs is -1"),
        ({"top": 1.5}, "top is 1.5"),
        ({"top": 0.0}, "top is 0.0"),
        ({"top": float("nan")}, "top is nan"),
        ({"bandwidth": 0.0}, "bandwidth is 0.0"),
        ({"bandwidth": -1.0}, "bandwidth is -1.0"),
        ({"bandwidth": float("nan")}, "bandwidth is nan"),
        ({"bandwidth": float("inf")}, "bandwidth is inf"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 10**30}, "seed is 1000"),
        ({"methods": ("kde-joined",)}, "'kde-joined' is unknown"),
    ],
)
def test_settings_are_checked_before_anything_is_trained(wrong, message):
    with pytest.raises(UserError, match=message):
        Finetune(**wrong)


def test_a_zoo_of_another_layout_is_refused(digits_zoo):
    zoo = load_zoo(digits_zoo)
    model = HyperRepModel(HyperRepConfig(layout=[["a.weight", [2, 3]]], contrast_weight=0.0))
    with pytest.raises(UserError, match="another layout"):
        Bench(model, zoo, zoo_images(zoo), choose_engine("loop", None), "model").check()


def test_more_networks_than_memory_are_refused_before_they_are_made(single):
    with pytest.raises(UserError, match=r"num_models is 1,000,000,000; .* GiB"):
        single(num_models=10**9)


def test_another_zoo_than_the_one_trained_on_is_said(representation, digits_zoo, caplog):
    made = bench(representation, digits_zoo)
    made.check()
    assert not caplog.text
    made = bench(representation, digits_zoo)
    made.zoo["validation"].weights[:, 0] += 0.01
    made.check()
    assert "are not those that model was trained on" in caplog.text
    assert made.fields("finetune", 0)["settings"]["zoo_sha256"] != made.model.config.zoo["sha256"]


@pytest.mark.parametrize(
    "record", [{"epochs": []}, {"epochs": "21"}, {"weight_threshold": 0}, {"weight_threshold": "5"}]
)
def test_a_damaged_record_of_the_filter(representation, digits_zoo, record):
    model = HyperRepModel.from_pretrained(representation)
    model.config.zoo = record
    with pytest.raises(UserError, match=r"config\.json, zoo"):
        Filter.of(model, load_zoo(digits_zoo))


def test_what_training_dropped_is_dropped_everywhere(representation, digits_zoo):
    zoo, model = load_zoo(digits_zoo), HyperRepModel.from_pretrained(representation)
    record = model.config.zoo
    zoo["train"].weights[zoo["train"].epoch > 20] = zoo["train"].weights[zoo["train"].epoch > 20].clamp(-4, 4)
    wild = (zoo["train"].epoch > 20).nonzero().flatten()[:3]
    zoo["train"].weights[wild[0], 5] = float("nan")
    zoo["train"].weights[wild[1], 5] = -5.5  # beyond the threshold of 5
    zoo["train"].weights[wild[2], 5] = float("inf")
    data = TrainingData.from_zoo(zoo, record["epochs"], record["weight_threshold"])
    assert data.dropped["train"] == 3
    assert_close(Filter.of(model, zoo).rows(zoo, "train").weights, data.train, rtol=0, atol=0)
    rows = zoo["train"].select(record["epochs"])
    assert len(data.train) == len(rows) - 3


def test_without_a_record_all_finite_checkpoints_of_the_last_epoch_are_kept(digits_zoo):
    zoo = load_zoo(digits_zoo)
    model = HyperRepModel(HyperRepConfig(layout=zoo.config.layout, contrast_weight=0.0))
    last = zoo["test"].epoch == 25
    zoo["test"].weights[last.nonzero()[0], 5] = float("nan")
    assert len(Filter.of(model, zoo).rows(zoo, "test")) == int(last.sum()) - 1
    zoo["test"].weights[:] = float("inf")
    with pytest.raises(UserError, match=r"drops all \d+ test checkpoints"):
        Filter.of(model, zoo).rows(zoo, "test")
