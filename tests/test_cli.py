"""The `hyperrep` command: what it answers at once, what it refuses, and the whole story through it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
import yaml
from datasets import Dataset, Features, Image
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from PIL import Image as PILImage
from safetensors import SafetensorError
from tiny_zoo import TINY_SETTINGS, write_tiny_zoo

from hyperrep.errors import UserError
from hyperrep.zoo import load_zoo


ROOT = Path(__file__).parent.parent
CONFIG = "digits"


def with_weights(zoo: Path, target: Path, change) -> Path:
    """A copy of a zoo whose weights went through `change`."""
    loaded = load_zoo(zoo)
    for rows in loaded.splits.values():
        change(rows.weights)
    return loaded.save(target)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [("--help", "evaluate"), ("zoo build --help", "--keep-epochs"), ("evaluate finetune --help", "--bandwidth")],
)
def test_help_does_not_import_torch(arguments, said):
    script = (
        f"import sys, runpy; sys.argv = ['hyperrep', *{arguments.split()}]\n"
        "try: runpy.run_module('hyperrep_cli', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'hyperrep'} & set(sys.modules)))"
    )
    environment = os.environ | {"NO_COLOR": "1", "COLUMNS": "120"}
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment).stdout
    assert said in out
    assert out.splitlines()[-1] == "[]"


@pytest.mark.parametrize("wanted", [None, "active"])
def test_waiting_threads_sleep_unless_the_user_says_otherwise(wanted):
    """OpenMP reads it when torch is loaded, so that it must be there before."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": wanted} if wanted else {}
    script = "import hyperrep_cli, os, sys; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.split() == [wanted or "passive", "False"]


def test_a_mistake_in_a_process_of_its_own(tmp_path, representation):
    """Nothing but the one line: no warning of a library, no bar, no traceback."""
    arguments = ["sample", str(representation), "--top", "0", "--output", str(tmp_path / "out")]
    outcome = subprocess.run([sys.executable, "-m", "hyperrep_cli", *arguments], capture_output=True, text=True)
    assert outcome.returncode == 2
    assert outcome.stderr == "error: method kde: top is 0.0; it must be a share above 0 and at most 1, such as 0.3.\n"
    assert outcome.stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["sample model", "sample model --output out --num-model 3", "zoo bild"])
def test_what_typer_refuses_has_no_traceback(hyperrep, tmp_path, command):
    code, _, err = hyperrep(command)
    assert code == 2
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_mistakes_are_one_line_and_exit_code_2(hyperrep, capsys, tmp_path, digits_zoo, representation):
    (tmp_path / "typo.yaml").write_text("hidden_sizze: 64\n")
    (tmp_path / "existing").mkdir()
    (tmp_path / "existing" / "thesis").write_text("years of work")
    with_weights(digits_zoo, tmp_path / "nan-zoo", lambda weights: weights.fill_(float("nan")))
    other = shutil.copytree(digits_zoo, tmp_path / "other-zoo") / "zoo_config.json"
    other.write_text(other.read_text().replace("convs.0.weight", "first.weight"))
    pickled = shutil.copytree(representation, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    cut = shutil.copytree(representation, tmp_path / "cut") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-1000])
    (tmp_path / "cnn").mkdir()
    (tmp_path / "cnn" / "config.json").write_text(json.dumps(load_zoo(digits_zoo).config.network))
    pixels = {"image": [PILImage.new("L", (8, 8))] * 2}
    for split in ("train", "test"):
        name = f"{split}-00000-of-00001.parquet"
        Dataset.from_dict({"x": [1, 2]}).to_parquet(str(tmp_path / "no-images" / name))
        Dataset.from_dict(pixels, Features({"image": Image()})).to_parquet(str(tmp_path / "no-labels" / name))
    capsys.readouterr()  # bars of writing them
    before = sorted(tmp_path.rglob("*"))

    z, r = digits_zoo, representation
    mistakes = {
        "zoo build --protocol mnsit --output out": "did you mean 'mnist'",
        "zoo build --protocol mnist --images ./missing --output out": "no image folder at './missing'",
        "zoo build --protocol mnist --images no-images --output out": "0 columns of type Image",
        "zoo build --protocol mnist --images no-labels --output out": "0 columns of type ClassLabel",
        "zoo build --protocol digits --models 0 --output out": "a zoo of 0 models",
        "zoo build --protocol digits --models 8 --output existing": "existing exists",
        "zoo build --protocol digits --models 8 --output existing --overwrite": "was not written by hyperrep",
        "zoo build --protocol digits --models 8 --keep-epochs x --output out": "epochs 'x'",
        "zoo info ./missing": "there is no folder './missing'",
        f"train {CONFIG} --zoo ./missing --output out": "there is no folder './missing'",
        f"train typo.yaml --zoo {z} --output out": "did you mean 'hidden_size'",
        f"train {CONFIG} --zoo nan-zoo --output out": "drops all",
        f"train {CONFIG} --zoo {z} --output out --learning-rat 1": "did you mean 'learning_rate'",
        f"train {CONFIG} --zoo {z} --output out --resum": "--resum has no value",
        f"train {CONFIG} --zoo {z} --output out 5": "'5' stands alone",
        f"evaluate ablation {CONFIG} --zoo {z} --output out --batch-size 0": "batch_size is 0",
        f"train {CONFIG} --zoo {z} --output existing": "existing exists",
        f"evaluate finetune {r} --zoo other-zoo --output out": "another layout",
        f"evaluate finetune pickled --zoo {z} --output out": "pytorch_model.bin but no model.safetensors",
        f"evaluate finetune cnn --zoo {z} --output out": "model_type is 'small_cnn'",
        f"evaluate finetune {r} --zoo {z} --num-models 0 --output out": "num_models is 0",
        f"evaluate finetune {r} --zoo {z} --top 1.5 --output out": "top is 1.5",
        f"evaluate finetune {r} --zoo {z} --output typo.yaml": "typo.yaml is a file",
        f"sample {r} --top 0 --output out": "top is 0",
        f"sample {r} --num-models 0 --output out": "num_models is 0",
        f"sample {r} --num-models 1 --output typo.yaml": "typo.yaml is a file",
        f"sample {r} --variant independant --output out": "choose from independent",
        f"sample {r} --method kdee --output out": "did you mean 'kde'",
        f"sample {r} --output existing": "existing exists",
        f"sample {r} --output existing --overwrite": "was not written by hyperrep",
        "sample pickled --output out": "pytorch_model.bin but no model.safetensors",
        "sample cut --output out": "cut/model.safetensors is damaged",
        "sample cnn --output out": "model_type is 'small_cnn'",
        "card existing": "is not a representation",
        "push existing org/name": "has no README.md",
    }
    for command, reason in mistakes.items():
        code, _, err = hyperrep(command)
        # datasets draws bars while it reads a folder of images; everything else is silent
        lines = [line for line in err.splitlines() if line.strip() and not line.lstrip().startswith("Generating ")]
        assert (code, len(lines)) == (2, 1), (command, err)
        assert lines[0].startswith("error: "), command
        assert reason in lines[0], command
        assert sorted(tmp_path.rglob("*")) == before, command


def test_checkpoints_with_nan_are_dropped_and_counted(hyperrep, tmp_path, digits_zoo):
    with_weights(digits_zoo, tmp_path / "zoo", lambda weights: weights[:2].fill_(float("nan")))
    (tmp_path / "config.yaml").write_text(
        "hidden_size: 16\nintermediate_size: 16\nnum_train_epochs: 1\nepochs: [0, 1]\n"
        "batch_size: 8\ncontrast_weight: 0\n"
    )
    code, _, err = hyperrep("train config.yaml --zoo zoo --output out")
    assert code == 0, err
    results = json.loads((tmp_path / "out" / "results" / "training.json").read_text())
    assert results["dropped"] == {"train": 2, "validation": 2, "test": 2}


def test_the_story_by_commands(hyperrep, tmp_path):
    (tmp_path / "config.yaml").write_text(
        "hidden_size: 16\nintermediate_size: 16\nlatents_per: neuron\nneuron_latent_size: 2\nnum_train_epochs: 1\n"
        "epochs: [1]\nbatch_size: 4\ncontrast_weight: 0\nbehavior_weight: 0.3\nbehavior_images: 2\n"
    )
    for command in (
        "zoo build --protocol digits --models 8 --epochs 1 --max-images 60 --output zoo",
        "train config.yaml --zoo zoo --output model --hidden-size 8 --epochs=[0,1]",
        "sample model --num-models 3 --output samples",
        "evaluate finetune model --zoo zoo --num-models 3 --epochs 1",
        "card model --repo org/model",
        "card zoo",
    ):
        code, out, err = hyperrep(command)
        assert code == 0, err
        if command.startswith("evaluate"):
            assert "S_KDE30" in out
    assert (tmp_path / "samples" / "model-00002" / "model.safetensors").exists()
    assert (tmp_path / "model" / "results" / "finetune.png").exists()
    assert "S_KDE30" in (tmp_path / "model" / "README.md").read_text()
    settings = json.loads((tmp_path / "model" / "results" / "training.json").read_text())["settings"]
    assert (settings["model"]["hidden_size"], settings["epochs"]) == (8, [0, 1])


def command(*arguments: object, **kwargs) -> subprocess.CompletedProcess:
    """`hyperrep ...` in a process of its own."""
    line = [sys.executable, "-m", "hyperrep_cli", *map(str, arguments)]
    return subprocess.run(line, **{"capture_output": True, "text": True} | kwargs)


def failing(error: BaseException):
    def fail(*arguments, **kwargs):
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "/closed/x"), "/closed/x: Permission denied."),
        (IsADirectoryError(21, "Is a directory", "x"), "x: Is a directory."),
        (OSError(28, "No space left on device"), "the disk is full"),
        (OSError(30, "Read-only file system", "x"), "x: Read-only file system."),
        (OSError("in the words\nof a library"), "in the words of a library"),
        (SafetensorError("header too small"), "a file cannot be read: header too small"),
        (yaml.YAMLError("no"), "a file cannot be read: no"),
        (pyarrow.ArrowInvalid("no magic bytes"), "a file cannot be read: no magic bytes"),
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
        (OfflineModeIsEnabled("offline"), "it is not all in the cache"),
        (LocalEntryNotFoundError("none"), "it is not all in the cache"),
        (UserError("what and\nwhy"), "what and why"),
    ],
)
def test_what_a_library_or_the_system_refuses_is_one_line(hyperrep, monkeypatch, error, said):
    monkeypatch.setattr("hyperrep.HyperRepPipeline.from_pretrained", failing(error))
    code, out, err = hyperrep("sample model --output out")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1
    code, _, err = hyperrep("--debug sample model --output out")
    assert code == 2
    assert "Traceback" in err


def test_a_mistake_of_ours_shows_where_it_is(hyperrep, monkeypatch):
    monkeypatch.setattr("hyperrep.HyperRepPipeline.from_pretrained", failing(KeyError("latents")))
    code, _, err = hyperrep("sample model --output out")
    assert code == 1
    assert "KeyError: 'latents'" in err
    assert err.splitlines()[-1].startswith("This is a mistake in hyperrep")


def test_interrupted_by_the_keyboard(hyperrep, monkeypatch):
    monkeypatch.setattr("hyperrep.HyperRepPipeline.from_pretrained", failing(KeyboardInterrupt()))
    assert hyperrep("sample model --output out") == (130, "", "interrupted\n")


def test_terminated_while_writing(hyperrep, monkeypatch, tmp_path, representation):
    """SIGTERM in the middle of the second network: nothing is left, and what was there stays."""
    assert hyperrep(f"sample {representation} --num-models 1 --output out")[0] == 0
    before = sorted(tmp_path.rglob("*"))

    def terminated(tensors, path, metadata):
        assert Path(path).parent.name == "model-00001"
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("hyperrep.generated.save_file", terminated)
    for output in ("out --overwrite", "fresh"):
        assert hyperrep(f"sample {representation} --num-models 2 --output {output}") == (143, "", "terminated\n")
    assert sorted(tmp_path.rglob("*")) == before
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(
    "options",
    [
        "--num-models -1",
        "--num-models 1000000000000",
        "--num-models 1e3",
        "--num-models nan",
        "--seed 18446744073709551616",
        "--seed -9223372036854775809",
        "--seed 1.5",
        "--top nan",
        "--top -0.1",
        "--top inf",
        "--bandwidth nan",
        "--bandwidth inf",
        "--bandwidth -1",
        "--bandwidth 1e300",
        "--network hidden_act=nosuch",
        "--network nonsense",
        "--network hidden_ac=relu",
        "--network image_size=-1",
        "--network hidden_sizes=3",
        "--method",
    ],
)
def test_options_out_of_range(hyperrep, tmp_path, representation, options):
    code, _, err = hyperrep(f"sample {representation} --output out {options}")
    assert code == 2, err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_the_output_is_looked_at_before_the_work(hyperrep, monkeypatch, tmp_path):
    monkeypatch.setattr("hyperrep.HyperRepPipeline.from_pretrained", failing(AssertionError("too late")))
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "index.json").write_text("{}")
    for output in ("web", "web --overwrite", "web/index.json"):
        assert hyperrep(f"sample model --output {output}")[0] == 2


def test_a_terminal_that_cannot_print_a_table(digits_zoo):
    outcome = command("zoo", "info", digits_zoo, env=os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    assert outcome.returncode == 0, outcome.stderr
    assert "checkpoints: train" in outcome.stdout


def test_a_reader_that_goes_away(digits_zoo):
    line = f"{sys.executable} -m hyperrep_cli zoo info {digits_zoo}"
    outcome = subprocess.run(["bash", "-c", f"{line} | head -c 1; {line} >&-"], capture_output=True, text=True)
    assert "Traceback" not in outcome.stderr
    assert "BrokenPipe" not in outcome.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk of Linux")
def test_a_log_on_a_full_disk_ends_nothing(tmp_path):
    zoo = write_tiny_zoo(tmp_path / "zoo")
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump({**TINY_SETTINGS, "num_train_epochs": 1}))
    words = ["train", tmp_path / "settings.yaml", "--zoo", zoo, "--output", tmp_path / "out"]
    for arguments, code in ((words, 0), (["zoo", "info", tmp_path / "nowhere"], 2)):
        with open("/dev/full", "w") as full:
            command = [sys.executable, "-m", "hyperrep_cli", *map(str, arguments)]
            assert subprocess.run(command, stdout=full, stderr=full).returncode == code
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_the_environment_is_told_and_nothing_private(tmp_path):
    secrets = {"HF_TOKEN": "hf_secret", "HOME": str(tmp_path), "USER": "somebody"}
    outcome = command("env", "--json", env=os.environ | secrets)
    described = json.loads(outcome.stdout)
    assert {"python", "hyperrep", "torch", "device", "threads", "native engine"} <= set(described)
    assert not [secret for secret in secrets.values() if secret in outcome.stdout]


def test_quiet_and_verbose(representation, tmp_path):
    """Without a home, a terminal, or standard input; a bar for nothing."""
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    arguments = ["sample", representation, "--num-models", 1, "--output", tmp_path / "out"]
    outcome = command("-q", *arguments, env=environment, stdin=subprocess.DEVNULL)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert outcome.stdout == f"1 networks in {tmp_path / 'out'}\n"


def test_warnings_made_errors_meet_none_of_ours(representation, tmp_path):
    line = [sys.executable, "-W", "error:::hyperrep", "-m", "hyperrep_cli", "sample", str(representation)]
    outcome = subprocess.run([*line, "--output", str(tmp_path / "out")], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr


def test_started_in_a_folder_that_is_gone(tmp_path, representation):
    (tmp_path / "gone").mkdir()
    line = f"cd gone && rmdir ../gone && {sys.executable} -m hyperrep_cli sample {representation} --output out"
    outcome = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True)
    assert outcome.returncode == 2
    assert outcome.stderr == "error: .: the folder the command was started in is gone; go to another.\n"


def test_two_runs_into_one_folder(tmp_path, representation):
    line = [
        sys.executable,
        "-m",
        "hyperrep_cli",
        "sample",
        str(representation),
        "--num-models",
        "3",
        "--output",
        "out",
    ]
    runs = [
        subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"
    ]
    errors = [run.communicate()[1] for run in runs]
    assert sorted(run.returncode for run in runs) == [0, 2]
    assert sorted(error.count("\n") for error in errors) == [0, 1]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {".hyperrep.json", "README.md", "index.json", "model-00000", "model-00001", "model-00002"}
