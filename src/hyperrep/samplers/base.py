"""What every sampler shares: the latents it is fitted to, and a folder without pickles."""

import dataclasses
import json
from abc import ABC, abstractmethod
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, TypeVar, dataclass_transform

import torch
from huggingface_hub.dataclasses import strict
from safetensors.torch import save_file
from torch import Tensor

from ..errors import UserError
from ..files import read_json, read_tensors
from ..version import __version__


SAMPLER_FOLDER = "sampler"
CONFIG_NAME = "sampler_config.json"
LATENTS_NAME = "latents.safetensors"
LARGEST_NUMBER = 100_000  # networks at a time; folders of networks are numbered with five digits
T = TypeVar("T")


@dataclass_transform(eq_default=False)
def settings_class(cls: type[T]) -> type[T]:
    """A sampler as a dataclass whose fields are its settings; their types are checked, whoever sets them."""
    return strict(dataclasses.dataclass(eq=False)(cls))


class Sampler(ABC):
    r"""
    A density over latents. It keeps *all* training latents with their scores, so that a published sampler can be
    refitted with another method or another share of the best.

    Args:
        top (`float`, *optional*): fit to this share of the latents, best by score (method S_...30 of the paper is
            0.3). The cut is the `1 - top` quantile of all scores; ties at the cut stay in. All latents by default.
        score (`str`, *optional*, defaults to `"validation_accuracy"`): what the scores are, for the record.
    """

    method: ClassVar[str]
    top: float | int | None
    score: str
    latents: Tensor | None = None
    scores: Tensor | None = None

    def __post_init__(self) -> None:
        if self.top is not None and not 0 < self.top <= 1:
            raise UserError(f"top is {self.top}; it must be a share above 0 and at most 1, such as 0.3.")

    def settings(self) -> dict[str, Any]:
        """Constructor arguments, as stored in `sampler_config.json`."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def fit(self, latents: Tensor, scores: Tensor | None = None) -> "Sampler":
        """Remember the latents.

        Args:
            latents (`Tensor`): (rows, latent_size).
            scores (`Tensor`, *optional*): (rows,), higher is better; needed for `top`.

        Raises:
            UserError: if shapes do not fit, there is no row, a number is NaN or infinite, or `top` is set and there
                are no scores.
        """
        if scores is None:
            if self.top is not None and self.top < 1:
                raise UserError(f"top {self.top} selects by score, and no scores were given.")
            scores = torch.zeros(len(latents))
        if latents.ndim != 2 or scores.shape != latents.shape[:1] or not latents.numel():
            raise UserError(
                f"latents have shape {list(latents.shape)} and scores {list(scores.shape)}; (rows, latent_size) and "
                "(rows,) are needed, with one row or more."
            )
        if broken := int((~(torch.isfinite(latents).all(dim=1) & torch.isfinite(scores))).sum()):
            raise UserError(f"{broken} of the {len(latents)} latents or their scores are NaN or infinite.")
        self.latents = latents.detach().float().cpu().contiguous()
        self.scores = scores.detach().float().cpu().contiguous()
        return self

    @property
    def anchors(self) -> Tensor:
        """The selected latents (anchors, latent_size)."""
        if self.latents is None or self.scores is None:
            raise UserError("the sampler has no latents yet: call fit first, or load a saved one.")
        if self.top is None:
            return self.latents
        return self.latents[self.scores >= torch.quantile(self.scores, 1 - self.top)]

    def sample(self, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw latents.

        Args:
            num_samples (`int`)
            generator (`torch.Generator`, *optional*): on the CPU; the same state gives the same latents.

        Returns:
            `Tensor`: (num_samples, latent_size), float32.

        Raises:
            UserError: if the number is none that can be drawn, the generator is not on the CPU, or what was drawn is
                not finite.
        """
        whole = isinstance(num_samples, Integral) and not isinstance(num_samples, bool)  # NumPy's are welcome
        if not whole or not 1 <= num_samples <= LARGEST_NUMBER:
            raise UserError(
                f"num_models is {num_samples!r}; it must be a whole number, at least 1 and at most {LARGEST_NUMBER:,} "
                "at a time."
            )
        if generator is not None and generator.device.type != "cpu":
            raise UserError(f"the generator is on {generator.device}; networks are drawn on the CPU.")
        samples = self._sample(int(num_samples), generator)
        if not torch.isfinite(samples).all():
            raise UserError(f"sampling with {self} gave NaN or infinite latents.")
        return samples

    @abstractmethod
    def _sample(self, num_samples: int, generator: torch.Generator | None) -> Tensor: ...

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `sampler_config.json` and `latents.safetensors` into `folder`."""
        if self.latents is None or self.scores is None:
            raise UserError("the sampler has no latents to save: call fit first.")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"latents": self.latents, "scores": self.scores}, folder / LATENTS_NAME)
        config = {"method": self.method, **self.settings(), "hyperrep_version": __version__}
        (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n")


def read_sampler(folder: Path) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Settings, latents and scores that [`Sampler.save_pretrained`] wrote.

    Raises:
        UserError: if a file is missing or damaged, or holds other tensors.
    """
    for name in (CONFIG_NAME, LATENTS_NAME):
        if not (folder / name).exists():
            raise UserError(f"{folder} holds no {name}: it is not a saved sampler.")
    config = read_json(folder / CONFIG_NAME)
    if not isinstance(config.get("method"), str):
        raise UserError(f"{folder / CONFIG_NAME} names no method.")
    config.pop("hyperrep_version", None)
    tensors = read_tensors(folder / LATENTS_NAME, {"latents": (None, None), "scores": (None,)})
    return config, tensors["latents"], tensors["scores"]
