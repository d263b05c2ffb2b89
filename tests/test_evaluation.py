from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from hyperrep import HyperRepConfig, HyperRepModel, load_zoo
from hyperrep.errors import UserError
from hyperrep.evaluation import (
    FinetuneSettings,
    ResultRow,
    error_similarity,
    evaluate_finetune,
    nearest_similarity,
    read_results,
    results_table,
    write_results,
)
from hyperrep.evaluation.finetune import seen_rows
from hyperrep.evaluation.novelty import vote_accuracy
from hyperrep.population import choose_engine
from hyperrep.samplers import fit_sampler
from hyperrep.training.data import TrainingData
from hyperrep.zoo import zoo_images


FIELDS = {
    "experiment": "finetune",
    "method": "S_KDE30",
    "variant": "independent",
    "source": "model",
    "target": "digits",
    "seed": 0,
    "zoo": "zoo",
    "revision": None,
    "machine": "a machine",
    "seconds": 1.0,
}
SETTINGS = FinetuneSettings(num_models=4, epochs=1, variants=("independent", "joint"))


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
    write_results(tmp_path / "rows.jsonl", [row])
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
    zoo, model = load_zoo(digits_zoo), HyperRepModel.from_pretrained(representation)
    images = zoo_images(zoo)
    engine = CountingEngine(choose_engine("auto", zoo.config.network_config()))
    rows = evaluate_finetune(model, zoo, images, engine, SETTINGS, "model", progress_folder=tmp_path)

    found = {(row.what, row.method, row.variant, row.epoch): row for row in rows}
    for method, variant in [("S_KDE30", "independent"), ("S_KDE30", "joint"), ("B_KDE30", "joint"), ("S_U", "")]:
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
    # a density this narrow over whole weight vectors gives copies, and the similarity says so
    copies = found["nearest_training_similarity", "B_KDE30", "joint", 0].mean
    assert copies > 0.8 > found["nearest_training_similarity", "B_KDE30", "independent", 0].mean
    assert engine.epochs == 5

    again = evaluate_finetune(model, zoo, images, engine, SETTINGS, "model", progress_folder=tmp_path)
    assert engine.epochs == 5  # everything was kept
    assert [row.mean for row in again] == [row.mean for row in rows]
    (tmp_path / "S_U-only.json").unlink()  # as if it had been interrupted before the last
    again = evaluate_finetune(model, zoo, images, engine, SETTINGS, "model", progress_folder=tmp_path)
    assert engine.epochs == 6
    assert [row.mean for row in again] == [row.mean for row in rows]
    evaluate_finetune(model, zoo, images, engine, replace(SETTINGS, seed=1), "model", progress_folder=tmp_path)
    assert engine.epochs == 11  # other samples are other populations


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_models": 0}, "num_models is 0"),
        ({"epochs": -1}, "epochs is -1"),
        ({"top": 1.5}, "top is 1.5"),
        ({"top": 0.0}, "top is 0.0"),
        ({"bandwidth": 0.0}, "bandwidth is 0.0"),
        ({"variants": ("joined",)}, "'joined' is unknown"),
    ],
)
def test_settings_are_checked_before_anything_is_trained(wrong, message):
    with pytest.raises(UserError, match=message):
        FinetuneSettings(**wrong)


def test_a_zoo_of_another_layout_is_refused(digits_zoo):
    zoo = load_zoo(digits_zoo)
    model = HyperRepModel(HyperRepConfig(layout=[["a.weight", [2, 3]]], contrast_weight=0.0))
    with pytest.raises(UserError, match="another layout"):
        evaluate_finetune(model, zoo, zoo_images(zoo), choose_engine("loop", None), SETTINGS, "model")


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
    assert_close(seen_rows(model, zoo, "train").weights, data.train, rtol=0, atol=0)
    rows = zoo["train"].select(record["epochs"])
    assert len(fit_sampler(model, rows).latents) == len(data.train) == len(rows) - 3


def test_without_a_record_all_finite_checkpoints_of_the_last_epoch_are_kept(digits_zoo):
    zoo = load_zoo(digits_zoo)
    model = HyperRepModel(HyperRepConfig(layout=zoo.config.layout, contrast_weight=0.0))
    last = zoo["test"].epoch == 25
    zoo["test"].weights[last.nonzero()[0], 5] = float("nan")
    assert len(seen_rows(model, zoo, "test")) == int(last.sum()) - 1
    zoo["test"].weights[:] = float("inf")
    with pytest.raises(UserError, match=r"drops all \d+ test checkpoints"):
        seen_rows(model, zoo, "test")
