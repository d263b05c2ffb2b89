"""What a user can get wrong, and what can go wrong: one clear line, and nothing is lost."""

import pytest
import torch
from tiny_zoo import tiny_layout, tiny_network, write_tiny_zoo
from training_runs import files, one_thread, script, tiny_config  # noqa: F401

from hyperrep.errors import UserError
from hyperrep.networks import SmallCNNConfig, SmallCNNForImageClassification
from hyperrep.representation import HyperRepModel
from hyperrep.training import step as training_step
from hyperrep.training import train
from hyperrep.training.checkpoints import Checkpoints
from hyperrep.training.failures import memory_errors_explained
from hyperrep.training.step import make_views
from hyperrep.zoo import write_zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return write_tiny_zoo(tmp_path_factory.mktemp("zoo") / "tiny")


def test_an_existing_folder_needs_a_decision(zoo, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "thesis.txt").write_text("precious")
    for flags in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(UserError, match="Choose another folder"):
            train(tiny_config(), zoo, output, **flags)
        assert files(output) == {"thesis.txt"}

    first = train(tiny_config(), zoo, tmp_path / "run")
    with pytest.raises(UserError, match=r"--resume.*--overwrite"):
        train(tiny_config(), zoo, tmp_path / "run")
    before = files(tmp_path / "run")
    second = train(tiny_config(seed=1, num_train_epochs=1), zoo, tmp_path / "run", overwrite=True)
    assert second["validation"] != first["validation"]
    assert files(tmp_path / "run") == before


def test_resume_with_other_settings_or_another_zoo_is_refused(zoo, tmp_path):
    train(tiny_config(num_train_epochs=1), zoo, tmp_path / "out")
    before = {name: (tmp_path / "out" / name).read_bytes() for name in files(tmp_path / "out")}
    with pytest.raises(UserError, match=r"had learning_rate 0.001, this one has 0.5"):
        train(tiny_config(num_train_epochs=1, learning_rate=0.5), zoo, tmp_path / "out", resume=True)
    other = write_tiny_zoo(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=r"learned from zoo tiny; zoo other holds other weights. Resume with its zoo"):
        train(tiny_config(num_train_epochs=1), other, tmp_path / "out", resume=True)
    train(tiny_config(num_train_epochs=1, eval_epochs=7), zoo, tmp_path / "out", resume=True)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in files(tmp_path / "out")} == before


@pytest.mark.parametrize("settings", [{"permute": True}, {"permute": False, "align": True}])
def test_units_of_networks_with_skips_are_not_reordered_as_those_of_a_chain(tmp_path, settings):
    skipped = tiny_network().to_dict() | {
        "conv_channels": [3, 3],
        "conv_kernel_sizes": [3, 1],
        "pool_sizes": [2, 1],
        "skips": [[1, 2, "identity"]],  # has no tensors: the layout looks like that of a chain
    }
    network = SmallCNNConfig.from_dict(skipped)
    weights = [SmallCNNForImageClassification(network).state_dict() for _ in range(40)]
    accuracy = {"validation_accuracy": torch.rand(40)}
    other = write_zoo(tmp_path / "zoo", weights, epoch=2, network=network, metrics=accuracy)
    with pytest.raises(UserError, match=r"changes its outputs.*Set permute and align to false"):
        train(tiny_config(**settings, symmetries="chain"), other, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    # not told, training finds what may move
    train(tiny_config(**settings, num_train_epochs=1, epochs=[2]), other, tmp_path / "out")
    assert HyperRepModel.from_pretrained(tmp_path / "out").config.symmetries == "permutations"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": [7]}, "7"),
        ({"batch_size": 41}, "batch_size 41 exceeds the 40 training checkpoints"),
        ({"weight_threshold": 1e-9}, "drops all"),
        ({"log_with": "pigeon"}, "'pigeon' is not installed"),
        ({"moments_weight": 0.1, "gradient_accumulation_steps": 8}, "batch_size 8 leaves one network to a process"),
        ({"gradient_accumulation_steps": 3}, "batch_size 8 is no multiple of 1 processes times 3"),
    ],
)
def test_a_users_mistake_leaves_nothing_behind(zoo, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        train(tiny_config(**settings), zoo, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(zoo, tmp_path, monkeypatch):
    def break_down(*arguments):
        views, targets, clean = make_views(*arguments)
        calls.append(1)
        return (views * float("nan") if len(calls) == 8 else views), targets, clean

    calls: list[int] = []
    monkeypatch.setattr(training_step, "make_views", break_down)
    with pytest.raises(UserError, match=r"the loss is nan at step 8; .* The last good checkpoint is step 5"):
        train(tiny_config(), zoo, tmp_path / "out")
    assert (tmp_path / "out" / "checkpoints" / "step-000005" / "model.safetensors").exists()
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_nan_gradient_stops_before_it_reaches_the_weights(zoo, tmp_path, monkeypatch):
    class Poison(torch.autograd.Function):
        """One at the value, NaN in the gradient."""

        @staticmethod
        def forward(ctx, loss):
            return loss.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float("nan")

    def poisoned(self, rows):
        losses = losses_of(self, rows)
        calls.append(1)
        return losses | {"loss": Poison.apply(losses["loss"])} if len(calls) == 10 else losses

    calls: list[int] = []
    losses_of = training_step.TrainingStep._losses
    monkeypatch.setattr(training_step.TrainingStep, "_losses", poisoned)
    # step 10 ends an epoch: its checkpoint would hold NaN
    with pytest.raises(UserError, match=r"gradient is nan at step 10; .* The last good checkpoint is step 5"):
        train(tiny_config(max_grad_norm=0), zoo, tmp_path / "out")
    kept = Checkpoints(tmp_path / "out", {})
    assert kept.steps() == [5]
    model = HyperRepModel(tiny_config().model_config(layout=tiny_layout().to_list()))
    kept.load_model(model, 5)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: ..."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4000000000000 bytes."),
        MemoryError(),
    ],
)
def test_out_of_memory_says_what_to_change(zoo, tmp_path, monkeypatch, error):
    def too_large(*_):
        raise error

    monkeypatch.setattr(training_step, "make_views", too_large)
    with pytest.raises(UserError, match="lower batch_size or raise gradient_accumulation_steps") as caught:
        train(tiny_config(), zoo, tmp_path / "out")
    assert "batch_size 8" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_real_shortage_of_memory_is_recognised_and_other_errors_are_left_alone():
    with pytest.raises(UserError, match="out of memory"), memory_errors_explained(tiny_config()):
        torch.empty(2**60)
    with pytest.raises(RuntimeError, match="tensor size"), memory_errors_explained(tiny_config()):
        torch.ones(2) @ torch.ones(3)


def test_resume_with_networks_of_another_layout_is_refused(zoo, digits_zoo, tmp_path):
    config = {"num_train_epochs": 1, "epochs": [1]}
    train(tiny_config(**config), zoo, tmp_path / "out")
    with pytest.raises(UserError, match=r"learned from zoo tiny; zoo .*digits holds networks of another layout"):
        train(tiny_config(**config), digits_zoo, tmp_path / "out", resume=True)
    # the same networks, other epochs of them: not another zoo
    with pytest.raises(UserError, match=r"had epochs \[1\], this one has \[2\]"):
        train(tiny_config(**config | {"epochs": [2]}), zoo, tmp_path / "out", resume=True)


def test_bf16_where_there_is_none(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr("hyperrep.training.start.is_bf16_available", lambda: False)
    with pytest.raises(UserError, match="mixed_precision bf16 is not supported by this device; set"):
        train(tiny_config(mixed_precision="bf16"), zoo, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_precision_in_the_same_process_says_so(zoo, tmp_path):
    train(tiny_config(num_train_epochs=1), zoo, tmp_path / "first")
    with pytest.raises(UserError, match=r"accelerate does not start: .*already been initialized"):
        train(tiny_config(mixed_precision="bf16"), zoo, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_launchers_accumulation_does_not_win_over_the_settings(zoo, tmp_path, monkeypatch):
    expected = train(tiny_config(num_train_epochs=1), zoo, tmp_path / "alone")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    assert train(tiny_config(num_train_epochs=1), zoo, tmp_path / "launched")["test"] == expected["test"]


def test_script_reports_a_mistake_in_one_line(zoo, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("hidden_sizze: 3\n")
    run = script(path, zoo, tmp_path / "out")
    stderr = run.communicate()[1]
    assert run.returncode == 2
    assert stderr.splitlines() == [f"error: {path}: key 'hidden_sizze' is unknown; did you mean 'hidden_size'?"]
