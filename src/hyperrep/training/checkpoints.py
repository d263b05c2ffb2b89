"""Checkpoints of a training run: complete or absent, and without pickles.

output/checkpoints/settings.json                      what the run was started with
output/checkpoints/step-000120/{model,optimizer}.safetensors, state.json
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn, optim

from ..errors import UserError


# What settings keep of a zoo, and what is wrong if it differs; too long to show.
ZOO_KEYS = {"layout": "networks of another layout", "zoo_sha256": "other weights"}
KEPT = 2  # checkpoints of a run; older ones are removed


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file under a temporary name and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(values, indent=2) + "\n")
    os.replace(temporary, path)


class Checkpoints:
    """The checkpoints in one output folder.

    Args:
        output (`Path`): folder of the run.
        settings (`dict`): everything that decides the result of the run, as JSON values; of the zoo, [`ZOO_KEYS`].
        zoo (`str`, *optional*): what the zoo is called; a zoo may be renamed between two parts of a run.
    """

    def __init__(self, output: Path, settings: dict[str, Any], zoo: str = ""):
        self.output = output
        self.zoo = zoo
        self.folder = output / "checkpoints"
        self.settings = json.loads(json.dumps(settings))

    def check(self, resume: bool, overwrite: bool) -> None:
        """Whether this run may start in its output folder; writes nothing.

        Raises:
            UserError: if the folder is in use and neither flag is set, or holds something else, or the run in it had
                other settings.
        """
        if resume and overwrite:
            raise UserError("--resume and --overwrite exclude each other.")
        if self.output.exists() and not self.output.is_dir():
            raise UserError(f"output {self.output} is a file; name a folder.")
        if not self.output.exists() or not any(self.output.iterdir()):
            return
        is_run = self.folder.is_dir()
        if not resume and not overwrite:
            hint = "go on with --resume, start anew with --overwrite, or" if is_run else "please"
            raise UserError(f"output folder {self.output} exists; {hint} choose another.")
        if not is_run:
            raise UserError(f"output folder {self.output} holds no training run; choose another.")
        settings = self.folder / "settings.json"
        if resume and settings.exists():
            before = json.loads(settings.read_text())
            for key in self.settings:
                if before.get(key) != self.settings[key]:
                    if key in ZOO_KEYS:
                        raise UserError(
                            f"the run in {self.output} learned from zoo {before.get('zoo')}; zoo {self.zoo} holds "
                            f"{ZOO_KEYS[key]}. Resume with its zoo or start anew with --overwrite."
                        )
                    raise UserError(
                        f"the run in {self.output} had {key} {before.get(key)!r}, this one has "
                        f"{self.settings[key]!r}; resume with its settings or start anew with --overwrite."
                    )

    def start(self, overwrite: bool) -> None:
        """Claim the output folder, after [`check`]."""
        if overwrite and self.output.exists():
            # everything that was made from the old weights goes with them; checkpoints, which mark the folder, last
            for name in ("config.json", "model.safetensors", "training_log.jsonl", "README.md"):
                (self.output / name).unlink(missing_ok=True)
            for name in ("results", "sampler", "hyperrep", "checkpoints"):  # hyperrep is tensorboard's
                shutil.rmtree(self.output / name, ignore_errors=True)
        write_json(self.folder / "settings.json", {"zoo": self.zoo} | self.settings)

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, in order."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*"))

    def save(
        self, model: nn.Module, optimizer: optim.Optimizer, state: dict[str, Any], best_step: int | None = None
    ) -> None:
        """Write the checkpoint of step `state["step"]`; remove the oldest beyond [`KEPT`], but not `best_step`'s."""
        target = self.folder / f"step-{state['step']:06d}"
        if target.exists():
            return
        temporary = self.folder / ".unfinished"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(model.state_dict(), temporary / "model.safetensors")
        moments = {
            f"{index}.{name}": tensor
            for index, tensors in optimizer.state_dict()["state"].items()
            for name, tensor in tensors.items()
        }
        save_file(moments, temporary / "optimizer.safetensors")
        write_json(temporary / "state.json", state)
        os.replace(temporary, target)
        for step in set(self.steps()[:-KEPT]) - {best_step}:
            shutil.rmtree(self.folder / f"step-{step:06d}")

    def load_last(self, model: nn.Module, optimizer: optim.Optimizer) -> dict[str, Any] | None:
        """Load the newest checkpoint into model and optimiser; its state, or `None` if there is none yet."""
        if not self.steps():
            return None
        folder = self.folder / f"step-{self.steps()[-1]:06d}"
        self.load_model(model, self.steps()[-1])
        moments: dict[int, dict[str, Any]] = {}
        for key, tensor in load_file(folder / "optimizer.safetensors").items():
            index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = tensor
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
        return json.loads((folder / "state.json").read_text())

    def load_model(self, model: nn.Module, step: int) -> None:
        """Load the model of the checkpoint of one step."""
        model.load_state_dict(load_file(self.folder / f"step-{step:06d}" / "model.safetensors"))

    def remove(self) -> None:
        """Remove the checkpoints of a complete run; its settings stay and mark the folder as ours."""
        for step in self.steps():
            shutil.rmtree(self.folder / f"step-{step:06d}")


__all__ = ["Checkpoints", "write_json"]
