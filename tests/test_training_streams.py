"""Everything random in a run comes from a stream of its own."""

import itertools
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from tiny_zoo import tiny_layout
from training_runs import one_thread, tiny_config  # noqa: F401

from hyperrep.representation import HyperRepModel
from hyperrep.training import step as training_step
from hyperrep.training.data import epoch_order
from hyperrep.training.step import TrainingStep, make_views
from hyperrep.training.streams import Purpose, seed_of


def test_no_two_purposes_seeds_places_or_lengths_meet():
    places = [place for length in range(4) for place in itertools.product((0, 1, 2, 10, 2**32, 2**40), repeat=length)]
    seeds = [
        seed_of(purpose, seed, *place)
        for purpose in get_args(Purpose)
        for seed in (0, 1, 12, 2**32, 2**32 + 1)
        for place in places
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_order_of_an_epoch_is_not_drawn_with_the_numbers_of_a_step():
    """Zeros at the end of a sequence of numbers once made epoch 3 and step 3 of process 0 one stream."""
    generator = torch.Generator().manual_seed(seed_of("augmentation", 1, 3, 0))
    assert not torch.equal(epoch_order(50, seed=1, epoch=3), torch.randperm(50, generator=generator))


class Recorded(Exception):
    pass


@pytest.mark.parametrize("rank", [0, 1])
def test_dropout_augmentation_and_behaviour_draw_different_numbers(monkeypatch, rank):
    def views(*arguments):
        drawn["augmentation"] = torch.rand(8, generator=arguments[-1]).tolist()
        return make_views(*arguments)

    def behavior(*arguments):
        drawn["behavior"] = torch.rand(8, generator=arguments[-1]).tolist()
        drawn["dropout"] = torch.rand(8).tolist()
        raise Recorded

    drawn: dict[str, list[float]] = {}
    config = tiny_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = HyperRepModel(config.model_config(layout=tiny_layout().to_list()))
    accelerator = SimpleNamespace(
        device=torch.device("cpu"),
        num_processes=2,
        process_index=rank,
        prepare=lambda *objects: objects,
        accumulate=lambda model: torch.no_grad(),
    )
    weights = torch.randn(8, tiny_layout().num_params)
    step = TrainingStep(
        config, accelerator, model, torch.optim.Adam(model.parameters()), weights, tiny_layout(), behavior
    )
    monkeypatch.setattr(training_step, "make_views", views)
    everything = []
    for number in (0, 0, 1):
        with pytest.raises(Recorded):
            step(number)
        everything.append(drawn.copy())
    assert everything[0] == everything[1]  # a step that is made again
    values = [value for once in everything[1:] for values in once.values() for value in values]
    assert len(set(values)) == len(values) == 48
