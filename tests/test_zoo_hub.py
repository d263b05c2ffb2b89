"""Zoos from the Hub and on it: models that a list names, and several architectures in one repository."""

import os
import subprocess
import sys

from fake_hub import FakeHub


SCRIPT = """
import sys
from pathlib import Path
import datasets, torch
from huggingface_hub import HfApi
from tiny_zoo import tiny_layout, tiny_network
from hyperrep import load_zoo, load_zoos
from hyperrep.hub import push_folder
from hyperrep.networks import SmallCNNConfig, SmallCNNForImageClassification
from hyperrep.zoo import import_zoo, import_zoos

datasets.disable_progress_bars()
work, api, names = Path(sys.argv[1]), HfApi(), []
for number in range(16):
    settings = tiny_network().to_dict() | {"hidden_sizes": [5 + number % 2]}
    torch.manual_seed(number)
    module = SmallCNNForImageClassification(SmallCNNConfig.from_dict(settings))
    name = f"somebody/net-{number}"
    module.save_pretrained(work / name)
    api.create_repo(name)
    api.upload_folder(repo_id=name, folder_path=work / name)
    names.append(name)
(work / "models.txt").write_text("# even ones\\n" + "\\n".join(f"{name}  # theirs" for name in names[::2]) + "\\n\\n")
zoo = load_zoo(import_zoo(work / "models.txt", work / "even", epoch=4))
print("models", zoo.config.num_models, zoo.config.network["hidden_sizes"])
row = zoo["train"]
expected = SmallCNNForImageClassification.from_pretrained(work / names[2 * int(row.model_id[0])]).state_dict()
print("same", torch.equal(row.weights[0], zoo.config.weight_layout().vectorize(expected).detach()))

(work / "all.txt").write_text("\\n".join(names[:-1] + [f"{names[-1]}@main"]))
folder = import_zoos(work / "all.txt", work / "zoos", epoch=4, repo="org/zoos")
push_folder(folder, "org/zoos", repo_type="dataset")
local = load_zoos(folder)
for mine, theirs in zip(local, load_zoos("org/zoos")):
    print(theirs.name, theirs.revision is not None, torch.equal(mine["train"].weights, theirs["train"].weights))
one = load_zoo(theirs.name)
print("one", torch.equal(one["test"].weights, theirs["test"].weights))
rows = datasets.load_dataset("org/zoos", theirs.name.rpartition("/")[2], split="test", cache_dir=str(work / "cache"))
print("rows", torch.equal(torch.tensor(rows["weights"]), theirs["test"].weights))

for text in ("somebody/nobody", "\\n", "one/two/three"):
    (work / "wrong.txt").write_text(text)
    try:
        import_zoo(work / "wrong.txt", work / "wrong", epoch=4)
    except Exception as error:
        print("error", type(error).__name__, error)
"""


def test_lists_of_models_and_repositories_of_zoos(tmp_path):
    with FakeHub() as hub:
        environment = os.environ | hub.environment(tmp_path / "hf")
        environment["PYTHONPATH"] = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
        outcome = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    lines = outcome.stdout.splitlines()
    assert "models 8 [5]" in lines
    for expected in ("same True", "one True", "rows True"):
        assert expected in lines
    assert [line for line in lines if line.startswith("org/zoos/")] == [
        "org/zoos/small-cnn-119 True True",
        "org/zoos/small-cnn-136 True True",
    ]
    errors = [line for line in lines if line.startswith("error UserError")]
    assert len(errors) == 3
    assert "'somebody/nobody' is neither a local folder nor a model on the Hub" in errors[0]
    assert "lists no models" in errors[1]
