"""`hyperrep evaluate memorisation`: copies remember more than noise, and noise as much as noise."""

import shutil

import pytest
import torch
from torch.testing import assert_close

from hyperrep.evaluation import read_results
from hyperrep.evaluation.experiments.memorisation import above_noise
from hyperrep.evaluation.novelty import error_similarity, nearest_other_similarity


def test_a_network_is_held_against_the_others_alone():
    generator = torch.Generator().manual_seed(0)
    answers = torch.randint(3, (6, 50), generator=generator)
    answers[1] = answers[0]  # two checkpoints of one network, and a twin of it
    answers[4] = answers[0]
    models, labels = torch.tensor([0, 0, 1, 1, 2, 3]), torch.randint(3, (50,), generator=generator)
    found = nearest_other_similarity(answers[:4], models[:4], answers, models, labels)
    assert_close(found[:2], torch.ones(2))  # its twin
    expected = error_similarity(answers[2:3], answers[[0, 1, 4, 5]], labels).max()
    assert found[2] == expected < 1
    assert not len(nearest_other_similarity(answers[:2], models[:2], answers[:2], models[:2], labels))


def test_only_noise_that_is_as_good_counts():
    noise_accuracy = torch.tensor([0.90, 0.91, 0.50])
    noise_similarity = torch.tensor([0.6, 0.4, 0.1])
    accuracy, similarity = torch.tensor([0.905, 0.51, 0.70]), torch.tensor([0.8, 0.15, 1.0])
    above, share = above_noise(accuracy, similarity, noise_accuracy, noise_similarity)
    assert_close(above, torch.tensor([((0.8 - 0.5) + (0.15 - 0.1)) / 2]))
    assert_close(share, torch.tensor([2 / 3]))
    above, share = above_noise(accuracy[2:], similarity[2:], noise_accuracy, noise_similarity)
    assert not len(above)
    assert share.tolist() == [0]


def test_from_the_command(hyperrep, representation, digits_zoo, tmp_path):
    model = shutil.copytree(representation, tmp_path / "model")
    line = f"evaluate memorisation {model} --zoo {digits_zoo} --num-models 12 --methods kde-joint --methods noise"
    code, out, err = hyperrep(line)
    assert code == 0, err
    assert "beyond that of noise copies as good" in " ".join(out.split())
    rows = read_results(model / "results" / "memorisation.jsonl")
    found = {(row.what, row.method, row.variant): row.mean for row in rows}
    assert {row.epoch for row in rows} == {0}
    assert {row.n for row in rows if row.method == "B_N30"} == {12}
    assert all(row.settings["noise_scales"] and row.settings["as_good"] == 0.02 for row in rows)
    similarity = {tuple(name): mean for (what, *name), mean in found.items() if what == "nearest_training_similarity"}
    assert similarity["B_KDE30", "joint"] > similarity["B_N30", "0.1"] > similarity["B_N30", "0.5"]
    assert similarity["zoo", "best training models"] < similarity["B_KDE30", "joint"]  # is not its own neighbour
    assert found["similarity_above_noise", "B_KDE30", "joint"] > 0.05
    assert abs(found["similarity_above_noise", "B_N30", "0.3"]) < 0.1
    assert (model / "results" / "memorisation.png").read_bytes()[:4] == b"\x89PNG"

    kept = (model / "results" / "memorisation.jsonl").read_text()
    code, _, err = hyperrep(line)
    assert code == 2
    assert "--overwrite" in err
    assert hyperrep(f"{line} --overwrite")[0] == 0
    again = read_results(model / "results" / "memorisation.jsonl")
    assert [row.mean for row in again] == [row.mean for row in rows]
    assert kept


def test_one_network(hyperrep, representation, digits_zoo, tmp_path):
    line = f"evaluate memorisation {representation} --zoo {digits_zoo} --num-models 1 --methods uniform --output new"
    code, _, err = hyperrep(line)
    assert code == 0, err
    assert {row.n for row in read_results(tmp_path / "new" / "memorisation.jsonl")} == {1}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--num-models 0", "num_models is 0"),
        ("--seed -1", "seed is -1"),
        ("--methods nonsense", "method 'nonsense' is unknown"),
        ("--top 2", "top"),
    ],
)
def test_mistakes(hyperrep, representation, digits_zoo, options, said):
    code, _, err = hyperrep(f"evaluate memorisation {representation} --zoo {digits_zoo} --output new {options}")
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
