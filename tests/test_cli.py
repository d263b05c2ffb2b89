"""The `hyperrep` command: what it answers at once, what it refuses, and the whole story through it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset

import hyperrep_cli
from hyperrep.zoo import load_zoo
from hyperrep.zoo.dataset import write_split


ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "scripts/configs/hyperrep_digits.yaml"


@pytest.fixture
def hyperrep(monkeypatch, capsys, tmp_path):
    """Run a command in an empty folder; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def run(command: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hyperrep", *command.split()])
        code = 0
        try:
            hyperrep_cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def with_weights(zoo: Path, target: Path, change) -> Path:
    """A copy of a zoo whose weights went through `change`."""
    shutil.copytree(zoo, target)
    for split, rows in load_zoo(zoo).splits.items():
        change(rows.weights)
        write_split(target, split, rows)
    return target


def test_help_does_not_import_torch():
    script = (
        "import sys, runpy; sys.argv = ['hyperrep', '--help']\n"
        "try: runpy.run_module('hyperrep_cli', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout
    assert "evaluate" in out
    assert out.splitlines()[-1] == "[]"


def test_mistakes_are_one_line_and_exit_code_2(hyperrep, tmp_path, digits_zoo, representation):
    (tmp_path / "typo.yaml").write_text("hidden_sizze: 64\n")
    (tmp_path / "existing").mkdir()
    (tmp_path / "existing" / "thesis").write_text("years of work")
    with_weights(digits_zoo, tmp_path / "nan-zoo", lambda weights: weights.fill_(float("nan")))
    other = shutil.copytree(digits_zoo, tmp_path / "other-zoo") / "zoo_config.json"
    other.write_text(other.read_text().replace("convs.0.weight", "first.weight"))
    pickled = shutil.copytree(representation, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    for split in ("train", "test"):
        Dataset.from_dict({"x": [1, 2]}).to_parquet(str(tmp_path / "no-labels" / f"{split}-00000-of-00001.parquet"))
    before = sorted(tmp_path.rglob("*"))

    z, r = digits_zoo, representation
    mistakes = {
        "zoo build --protocol mnsit --output out": "did you mean 'mnist'",
        "zoo build --protocol mnist --images ./missing --output out": "no image folder at './missing'",
        "zoo build --protocol mnist --images no-labels --output out": "0 columns of type Image",
        "zoo build --protocol digits --models 0 --output out": "a zoo of 0 models",
        "zoo build --protocol digits --models 8 --output existing": "existing exists",
        "zoo build --protocol digits --models 8 --output existing --overwrite": "is not a zoo",
        "zoo build --protocol digits --models 8 --keep-epochs x --output out": "epochs 'x'",
        "zoo info ./missing": "there is no folder './missing'",
        f"train {CONFIG} --zoo ./missing --output out": "there is no folder './missing'",
        f"train typo.yaml --zoo {z} --output out": "did you mean 'hidden_size'",
        f"train {CONFIG} --zoo nan-zoo --output out": "drops all",
        f"train {CONFIG} --zoo {z} --output existing": "existing exists",
        f"evaluate finetune {r} --zoo other-zoo --output out": "another layout",
        f"evaluate finetune pickled --zoo {z} --output out": "pytorch_model.bin but no model.safetensors",
        f"evaluate finetune {r} --zoo {z} --num-models 0 --output out": "num_models is 0",
        f"sample {r} --top 0 --output out": "top is 0",
        f"sample {r} --num-models 0 --output out": "num_models is 0",
        f"sample {r} --method kdee --output out": "did you mean 'kde'",
        f"sample {r} --output existing": "existing exists",
        f"sample {r} --output existing --overwrite": "not overwritten",
        "sample pickled --output out": "pytorch_model.bin but no model.safetensors",
        "card existing": "is not a representation",
        "push existing org/name": "has no README.md",
    }
    for command, reason in mistakes.items():
        code, _, err = hyperrep(command)
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert (code, len(errors)) == (2, 1), (command, err)
        assert reason in errors[0], command
        assert "Traceback" not in err, command
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
        "train config.yaml --zoo zoo --output model",
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
