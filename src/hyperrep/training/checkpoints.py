"""Checkpoints of a training run: complete or absent, and without pickles.

output/checkpoints/settings.json                      what the run was started with
output/checkpoints/step-000120/{model,optimizer}.safetensors, state.json
"""

import json
import logging
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict
from safetensors.torch import save_file
from torch import Tensor, nn, optim

from ..errors import UserError
from ..files import OutputFolder, construct, read_json, read_tensors


FOLDER = "checkpoints"
# What settings keep of a zoo, and what is wrong if it differs; too long to show.
ZOO_KEYS = {"layout": "networks of another layout", "zoo_sha256": "other weights"}
KEPT = 2  # checkpoints of a run; older ones are removed
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what Adam keeps of a parameter; the first is a scalar

logger = logging.getLogger(__name__)


@strict
@dataclass
class RunState:
    """What a run carries from one step to the next beside model and optimiser.

    Attributes:
        step (`int`): steps that are made.
        seconds (`float`): that they took.
        sums (`dict`): of the losses, since the epoch began.
        losses (`dict`): means of the last whole epoch.
        best (`dict`, *optional*): `step` and `value` of the best evaluation.
        evaluations_since_best (`int`)
    """

    step: int
    seconds: float | int = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    best: dict[str, float | int] | None = None
    evaluations_since_best: int = 0

    def __post_init__(self) -> None:
        if self.step < 0 or self.seconds < 0 or self.evaluations_since_best < 0:
            raise ValueError("a count is negative.")
        if self.best is not None and (set(self.best) != {"step", "value"} or not isinstance(self.best["step"], int)):
            raise ValueError(f"best is {self.best}; a step and a value are needed.")


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
        self.folder = output / FOLDER
        self.settings = json.loads(json.dumps(settings))

    def check_settings(self) -> None:
        """Whether a run with these settings may go on in its output folder; writes nothing.

        Raises:
            UserError: if there is no run to resume, or it had other settings.
        """
        path = self.folder / "settings.json"
        if not path.exists():
            if self.output.is_dir() and any(self.output.glob("[!.]*")):
                raise UserError(f"{self.output} holds no training run to resume; choose another folder.")
            return
        before = read_json(path)
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

    def start(self, files: OutputFolder) -> None:
        """Write down the settings, in the folder that is ours now; damaged checkpoints go."""
        settings = json.dumps({"zoo": self.zoo} | self.settings, indent=2) + "\n"
        files.write(f"{FOLDER}/settings.json", lambda path: path.write_text(settings), working=True)

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, in order."""
        names = (re.fullmatch(r"step-(\d{6,12})", path.name) for path in self.folder.glob("step-*"))
        return sorted(int(name[1]) for name in names if name)

    def save(self, files: OutputFolder, model: nn.Module, optimizer: optim.Optimizer, state: dict[str, Any]) -> None:
        """Write the checkpoint of step `state["step"]`; remove the oldest beyond [`KEPT`], but none that a kept one
        calls the best."""
        name = _name(state["step"])
        if (self.output / name).exists():
            return
        with files.arriving(name) as folder:
            save_file(model.state_dict(), folder / "model.safetensors")
            moments = {
                f"{index}.{name}": tensor
                for index, tensors in optimizer.state_dict()["state"].items()
                for name, tensor in tensors.items()
            }
            save_file(moments, folder / "optimizer.safetensors")
            (folder / "state.json").write_text(json.dumps(state, indent=2) + "\n")
        steps = self.steps()
        best = {self._state(step)["best"]["step"] for step in steps[-KEPT:] if self._state(step)["best"]}
        files.remove(*(_name(step) for step in set(steps[:-KEPT]) - best))

    def load_last(
        self, model: nn.Module, optimizer: optim.Optimizer, needs_best: bool = False
    ) -> dict[str, Any] | None:
        """Load the newest checkpoint that is whole into model and optimiser.

        Args:
            model (`nn.Module`), optimizer (`optim.Optimizer`)
            needs_best (`bool`, *optional*): the checkpoint of the best evaluation must be whole, too.

        Returns:
            `dict`: the run's state, or `None` if there is no checkpoint yet.

        Raises:
            UserError: if there are checkpoints, and none of them is whole.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                state = self._state(step)
                weights, moments = self._weights(model, step), self._moments(optimizer, step)
                if needs_best and state["best"]:
                    self._weights(model, state["best"]["step"])
            except UserError as error:
                logger.warning("checkpoint of step %d is passed over: %s", step, error)
                continue
            model.load_state_dict(weights)
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": moments, "param_groups": groups})
            return state
        if steps:
            raise UserError(f"no checkpoint in {self.folder} is whole; start anew with --overwrite.")
        return None

    def load_model(self, model: nn.Module, step: int) -> None:
        """Load the model of the checkpoint of one step.

        Raises:
            UserError: if it is damaged, or that of another model.
        """
        model.load_state_dict(self._weights(model, step))

    def remove(self, files: OutputFolder, after: int = -1) -> None:
        """Remove the checkpoints of later steps than `after`, by default all; the settings stay."""
        files.remove(*(_name(step) for step in self.steps() if step > after))

    def _state(self, step: int) -> dict[str, Any]:
        path = self.output / _name(step) / "state.json"
        state = asdict(construct(RunState, read_json(path), path))  # type: ignore[call-overload]
        if state["step"] != step:
            raise UserError(f"{path}: step is {state['step']}; {step} is needed.")
        return state

    def _weights(self, model: nn.Module, step: int) -> dict[str, Tensor]:
        state = model.state_dict()
        integers = [name for name, tensor in state.items() if not tensor.is_floating_point()]
        shapes = {name: tensor.shape for name, tensor in state.items()}
        return read_tensors(self.output / _name(step) / "model.safetensors", shapes, integers)

    def _moments(self, optimizer: optim.Optimizer, step: int) -> dict[int, dict[str, Tensor]]:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        shapes = {
            f"{index}.{name}": () if name == "step" else parameter.shape
            for index, parameter in enumerate(parameters)
            for name in MOMENTS
        }
        tensors = read_tensors(self.output / _name(step) / "optimizer.safetensors", shapes)
        return {index: {name: tensors[f"{index}.{name}"] for name in MOMENTS} for index in range(len(parameters))}


def _name(step: int) -> str:
    return f"{FOLDER}/step-{step:06d}"


__all__ = ["Checkpoints", "RunState"]
