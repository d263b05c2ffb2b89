"""What a run keeps in its folder: checkpoints, log, trackers' files; and nothing of anybody else is touched."""

import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate import tracking
from accelerate.tracking import GeneralTracker
from accelerate.utils import LoggerType
from safetensors.torch import load_file, save_file
from tiny_zoo import TINY_SETTINGS, tiny_layout, write_tiny_zoo
from training_runs import Killed, files, killed_at, one_thread, script, tiny_config, wait_for  # noqa: F401

from hyperrep.errors import UserError
from hyperrep.files import output_folder
from hyperrep.representation import HyperRepModel
from hyperrep.training import loop, train
from hyperrep.training.checkpoints import Checkpoints


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return write_tiny_zoo(tmp_path_factory.mktemp("zoo") / "tiny")


def trained(seed: int = 42, steps: int = 1) -> tuple[HyperRepModel, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = HyperRepModel(tiny_config().model_config(layout=tiny_layout().to_list()))
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(steps):
        model(torch.randn(4, tiny_layout().num_params), num_views=2).loss.backward()
        optimizer.step()
    return model, optimizer


def same(first: HyperRepModel, second: HyperRepModel) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files(folder)}


def test_checkpoints_hold_no_pickle_and_only_the_last_two_stay(tmp_path):
    model, optimizer = trained()
    checkpoints = Checkpoints(tmp_path / "out", {})
    with output_folder(tmp_path / "out", "representation") as folder:
        for step in (5, 10, 100):
            checkpoints.save(folder, model, optimizer, {"step": step})
    assert checkpoints.steps() == [10, 100]
    assert {Path(name).suffix for name in files(tmp_path)} == {".safetensors", ".json"}
    other, other_optimizer = trained(seed=1, steps=0)
    assert checkpoints.load_last(other, other_optimizer)["step"] == 100
    assert same(model, other)
    for before, after in zip(model.parameters(), other.parameters(), strict=True):
        for name in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(optimizer.state[before][name], other_optimizer.state[after][name])


def test_what_a_kept_checkpoint_calls_the_best_is_kept(tmp_path):
    """After a newest checkpoint that is damaged, the one before it needs its own best one."""
    model, optimizer = trained()
    checkpoints = Checkpoints(tmp_path / "out", {})
    bests = {5: 5, 10: 5, 15: 5, 20: 20, 25: 20}
    with output_folder(tmp_path / "out", "representation") as folder:
        for step, best in bests.items():
            checkpoints.save(folder, model, optimizer, {"step": step, "best": {"step": best, "value": 1.0}})
            expected = sorted({best for step in checkpoints.steps()[-2:] for best in (step, bests[step])})
            assert checkpoints.steps() == expected
    assert checkpoints.steps() == [20, 25]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def nan(path: Path) -> None:
    tensors = load_file(path)
    next(tensor for tensor in tensors.values() if tensor.is_floating_point()).fill_(float("nan"))
    save_file(tensors, path)


def one_less(path: Path) -> None:
    tensors = load_file(path)
    tensors.popitem()
    save_file(tensors, path)


def pickled(path: Path) -> None:
    torch.save({"a": torch.ones(2)}, path)


def number(path: Path) -> None:
    path.write_text('{"step": "ten"}')


def other_step(path: Path) -> None:
    path.write_text('{"step": 5}')


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(
            (name, damage)
            for name in ("model.safetensors", "optimizer.safetensors")
            for damage in (Path.unlink, cut, zeroed, nan, one_less, pickled)
        ),
        *(("state.json", damage) for damage in (Path.unlink, cut, zeroed, number, other_step)),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, caplog, name, damage):
    checkpoints = Checkpoints(tmp_path / "out", {})
    with output_folder(tmp_path / "out", "representation") as folder:
        for step in (5, 10):
            checkpoints.save(folder, *trained(steps=step // 5), {"step": step})
    damage(tmp_path / "out" / "checkpoints" / "step-000010" / name)
    model, optimizer = trained(seed=1, steps=0)
    assert checkpoints.load_last(model, optimizer)["step"] == 5
    assert same(model, trained()[0])
    assert ["step 10" in record.getMessage() for record in caplog.records] == [True]
    shutil.rmtree(tmp_path / "out" / "checkpoints" / "step-000005")
    with pytest.raises(UserError, match=r"no checkpoint .* is whole; start anew with --overwrite"):
        checkpoints.load_last(model, optimizer)


def test_a_run_whose_newest_checkpoint_and_log_are_damaged_ends_as_one_left_alone(zoo, tmp_path, monkeypatch):
    config = tiny_config()
    train(config, zoo, tmp_path / "whole")
    killed_at(monkeypatch, 17)
    with pytest.raises(Killed):
        train(config, zoo, tmp_path / "out")
    monkeypatch.undo()
    assert [path.name for path in sorted((tmp_path / "out/checkpoints").glob("step-*"))] == [
        "step-000010",
        "step-000015",
    ]
    zeroed(tmp_path / "out" / "checkpoints" / "step-000015" / "model.safetensors")
    log = tmp_path / "out" / "training_log.jsonl"
    log.write_bytes(log.read_bytes() + b'{"half": \xff\n[]\n{"step": 1')
    results = train(config, zoo, tmp_path / "out", resume=True)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [5, 10, 15, 20]
    assert results["train"].keys() == {"loss", "reconstruction_loss", "contrastive_loss"}
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_log_that_is_gone_costs_the_log_alone(zoo, tmp_path, monkeypatch):
    config = tiny_config()
    expected = train(config, zoo, tmp_path / "whole")
    killed_at(monkeypatch, 20)
    monkeypatch.setattr(HyperRepModel, "save_pretrained", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(config, zoo, tmp_path / "out")
    monkeypatch.undo()
    (tmp_path / "out" / "training_log.jsonl").unlink()
    assert train(config, zoo, tmp_path / "out", resume=True)["train"] == expected["train"]


@pytest.mark.parametrize("flag", ["resume", "overwrite"])
def test_a_project_with_checkpoints_of_its_own_is_left_alone(zoo, tmp_path, flag):
    project = tmp_path / "project"
    for name in ("checkpoints/settings.json", "checkpoints/step-000005/model.safetensors", "config.json", "README.md"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("{}")
    before = contents(project)
    with pytest.raises(UserError, match="was not written by hyperrep"):
        train(tiny_config(), zoo, project, **{flag: True})
    assert contents(project) == before


@pytest.mark.parametrize("name", ["notes.md", "results/mine.csv", "checkpoints/step-000005/mine", "model.safetensors"])
def test_overwriting_refuses_beside_what_somebody_added_or_changed(zoo, tmp_path, name):
    train(tiny_config(num_train_epochs=1), zoo, tmp_path / "out")
    (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "out" / name).write_text("fine-tuned for a week")
    before = contents(tmp_path / "out")
    with pytest.raises(UserError, match=f"did not write, or what was changed since: .*{name}"):
        train(tiny_config(), zoo, tmp_path / "out", overwrite=True)
    assert contents(tmp_path / "out") == before


def test_a_mistake_that_overwrites_loses_nothing(zoo, tmp_path):
    train(tiny_config(num_train_epochs=1), zoo, tmp_path / "out")
    before = contents(tmp_path / "out")
    for settings in ({"epochs": [7]}, {"batch_size": 41}, {"log_with": "pigeon"}, {"pca_init": True}):
        with pytest.raises(UserError):
            train(tiny_config(**settings), zoo, tmp_path / "out", overwrite=True)
    assert contents(tmp_path / "out") == before


def test_two_runs_into_one_folder(zoo, tmp_path, monkeypatch):
    def second(*_):
        with pytest.raises(UserError, match="another run is writing to"):
            train(tiny_config(), zoo, tmp_path / "out", resume=True)
        refused.append(True)
        raise Killed

    refused: list[bool] = []
    monkeypatch.setattr(loop, "append_log", second)
    with pytest.raises(Killed):
        train(tiny_config(), zoo, tmp_path / "out")
    assert refused == [True]


def test_a_folder_without_a_run_is_not_resumed(zoo, tmp_path):
    with output_folder(tmp_path / "out", "representation") as folder:
        folder.write_text("results/finetune.jsonl", "{}\n")
    with pytest.raises(UserError, match="holds no training run to resume"):
        train(tiny_config(), zoo, tmp_path / "out", resume=True)


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(zoo, tmp_path, monkeypatch):
    def full(output, entry):
        if entry["step"] == 10:
            raise OSError(28, "No space left on device")
        append(output, entry)

    append = loop.append_log
    monkeypatch.setattr(loop, "append_log", full)
    with pytest.raises(UserError, match="the disk is full"):
        train(tiny_config(), zoo, tmp_path / "out")
    assert (tmp_path / "out" / "checkpoints" / "step-000005" / "state.json").exists()


def test_what_trackers_write_is_known_and_goes_with_the_run(zoo, tmp_path, monkeypatch):
    class Tracker(GeneralTracker):
        """Stands in for tensorboard."""

        name = "trackio"
        requires_logging_directory = True
        tracker = None

        def __init__(self, run_name, logging_dir, **kwargs):
            super().__init__()
            self.folder = Path(logging_dir) / run_name
            self.folder.mkdir(parents=True)
            (self.folder / "events.0").write_text("begun")

        def store_init_configuration(self, values):
            pass

        def log(self, values, step, **kwargs):
            (self.folder / f"events.{step}").write_text("logged")

    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.TRACKIO])
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "trackio", Tracker)
    config = {"num_train_epochs": 1, "log_with": "trackio"}
    train(tiny_config(**config), zoo, tmp_path / "out")
    assert {"trackers/hyperrep/events.0", "trackers/hyperrep/events.5"} <= files(tmp_path / "out")
    train(tiny_config(num_train_epochs=1), zoo, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "trackers").exists()


def test_more_parameters_than_memory_are_refused_before_they_are_made(zoo, tmp_path, monkeypatch):
    for sizes in ({"hidden_size": 10**9}, {"num_hidden_layers": 10**9}, {"intermediate_size": 10**9}):
        with pytest.raises(UserError):
            tiny_config(**sizes)
    machine = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(total=100_000))
    monkeypatch.setattr("hyperrep.training.memory.psutil", machine)
    with pytest.raises(UserError, match=r"a model of .* parameters takes 0.0 GiB to train; cpu has"):
        train(tiny_config(), zoo, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on(zoo, tmp_path, number):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(TINY_SETTINGS | {"num_train_epochs": 2000, "checkpoint_epochs": 2000}))
    run = script(path, zoo, tmp_path / "out")
    wait_for(lambda: (tmp_path / "out" / "training_log.jsonl").exists(), run)
    wait_for(lambda: (tmp_path / "out" / "training_log.jsonl").stat().st_size, run)
    run.send_signal(number)
    stderr = run.communicate()[1]
    assert run.returncode == 128 + number, stderr
    assert stderr.strip().splitlines()[-1].endswith("go on with the same command and --resume.")
    assert len(Checkpoints(tmp_path / "out", {}).steps()) == 1
    assert not (tmp_path / "out" / ".hyperrep.lock").exists()
