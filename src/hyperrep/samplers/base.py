"""What every sampler shares: the latents it is fitted to, and a folder without pickles."""

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import UserError
from ..version import __version__


SAMPLER_FOLDER = "sampler"
CONFIG_NAME = "sampler_config.json"
LATENTS_NAME = "latents.safetensors"


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

    def __init__(self, top: float | None = None, score: str = "validation_accuracy"):
        if top is not None and not 0 < top <= 1:
            raise UserError(f"top is {top}; it must be a share above 0 and at most 1, such as 0.3.")
        self.top = top
        self.score = score
        self.latents: Tensor | None = None
        self.scores: Tensor | None = None

    def settings(self) -> dict[str, Any]:
        """Constructor arguments, as stored in `sampler_config.json`."""
        return {"top": self.top, "score": self.score}

    def fit(self, latents: Tensor, scores: Tensor | None = None) -> "Sampler":
        """Remember the latents.

        Args:
            latents (`Tensor`): (rows, latent_size). Rows with NaN are dropped.
            scores (`Tensor`, *optional*): (rows,), higher is better; needed for `top`.

        Raises:
            UserError: if nothing finite is left, or `top` is set and there are no scores.
        """
        if scores is None:
            if self.top is not None and self.top < 1:
                raise UserError(f"top {self.top} selects by score, and no scores were given.")
            scores = torch.zeros(len(latents))
        finite = torch.isfinite(latents).all(dim=1) & torch.isfinite(scores)
        if not finite.any():
            raise UserError(f"none of the {len(latents)} latents is finite.")
        self.latents = latents[finite].detach().float().cpu().contiguous()
        self.scores = scores[finite].detach().float().cpu().contiguous()
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
        """
        if num_samples < 1:
            raise UserError(f"num_models is {num_samples}; it must be at least 1.")
        return self._sample(num_samples, generator)

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
        UserError: if a file is missing or damaged.
    """
    for name in (CONFIG_NAME, LATENTS_NAME):
        if not (folder / name).exists():
            raise UserError(f"{folder} holds no {name}: it is not a saved sampler.")
    try:
        config = json.loads((folder / CONFIG_NAME).read_text())
        tensors = load_file(folder / LATENTS_NAME)
    except (json.JSONDecodeError, SafetensorError) as error:
        raise UserError(f"the sampler in {folder} is damaged: {error}.") from error
    if "method" not in config:
        raise UserError(f"{folder / CONFIG_NAME} names no method.")
    config.pop("hyperrep_version", None)
    return config, tensors["latents"], tensors["scores"]
