"""What every sampler is: a density with settings and a state, in a folder of its own that holds no pickle."""

import dataclasses
import difflib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

import torch
from huggingface_hub.dataclasses import strict
from safetensors.torch import save_file
from torch import Tensor

from ..errors import UserError
from ..files import construct, read_json, read_tensors
from ..version import __version__


SAMPLER_FOLDER = "sampler"  # of a representation
CONFIG_NAME = "sampler_config.json"
STATE_NAME = "sampler.safetensors"
LARGEST_NUMBER = 100_000  # networks at a time; folders of networks are numbered with five digits
T = TypeVar("T")
Shapes = Mapping[str, tuple[int | None, ...]]


@dataclass_transform(eq_default=False)
def settings_class(cls: type[T]) -> type[T]:
    """A sampler as a dataclass whose fields are its settings; their types are checked, whoever sets them."""
    return strict(dataclasses.dataclass(eq=False)(cls))


class Sampler(ABC):
    r"""
    A density over latents, or over anything else that has rows of numbers.

    A new one is a subclass in a file of this folder, and nothing else: a dataclass ([`settings_class`]) whose fields
    are its settings, with a name, `method`; tensors that are its state, named and shaped in `state_shapes`; `_fit`,
    which makes them, and `_sample`, which draws. Saving, loading, the command line and the tables follow.

    Attributes:
        method (`str`): what it is called on the command line.
        label (`str`): its name in tables: `KDE` of S_KDE30 and B_KDE30. By default the method in capitals.
        spaces (`tuple[str, ...]`): what tables show it over: `latents` (S_...), or `weights` themselves (B_...), as a
            baseline.
        variants (`tuple[Mapping, ...]`): settings that tables show side by side; by default the sampler as it is.
        tabled (`bool`): whether tables show it that name no methods; those that take minutes to fit, or need another
            library, are asked for.
        state_shapes (`Mapping[str, tuple]`): every tensor of its state; `None` stands for any size.
        whole_numbers (`tuple[str, ...]`): which of them are int64; the others are float32.
        of_drawing (`tuple[str, ...]`): settings that decide how it is drawn from and not what is learned, so that they
            may change without a fit.
        state (`dict[str, Tensor]`): these tensors, once it is fitted or loaded.
    """

    method: ClassVar[str]
    label: ClassVar[str] = ""
    spaces: ClassVar[tuple[str, ...]] = ("latents",)
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    tabled: ClassVar[bool] = True
    state_shapes: ClassVar[Shapes]
    whole_numbers: ClassVar[tuple[str, ...]] = ()
    of_drawing: ClassVar[tuple[str, ...]] = ()
    state: dict[str, Tensor] | None = None

    @classmethod
    def about(cls) -> str:
        """What it is, in a line: the first of its documentation."""
        lines = (cls.__doc__ or "").strip().splitlines()
        return lines[0] if lines else cls.method

    def settings(self) -> dict[str, Any]:
        """Constructor arguments, as stored in `sampler_config.json`."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def check_installed(self) -> None:  # noqa: B027  most need nothing more
        """Whether the libraries it needs are there, for who has much to do before it is fitted.

        Raises:
            UserError: names what to install.
        """

    @property
    @abstractmethod
    def latent_size(self) -> int:
        """Width of what is drawn."""

    def fit(
        self,
        latents: Tensor,
        scores: Tensor | None = None,
        places: Tensor | None = None,
        models: Tensor | None = None,
    ) -> Self:
        """Learn the density.

        Args:
            latents (`Tensor`): (rows, latent_size).
            scores (`Tensor`, *optional*): (rows,), higher is better; a sampler may fit to the best alone.
            places (`Tensor`, *optional*): (latent_size, 2), int64: of which layer and of which neuron each number is,
                as [`HyperRepModel.latent_places`] and [`HyperRepProcessor.places`] say it, for samplers that draw
                layers or neurons. By default all are of one.
            models (`Tensor`, *optional*): (rows,), int64: of which network each row is a checkpoint, for samplers that
                hold some out, and for distances between networks. By default each row is one of its own.

        Raises:
            UserError: if shapes do not fit, there is no row, a number is NaN or infinite, or scores are needed and
                there are none.
        """
        if latents.ndim != 2 or not latents.numel() or (scores is not None and scores.shape != latents.shape[:1]):
            given = "none" if scores is None else list(scores.shape)
            raise UserError(
                f"latents have shape {list(latents.shape)} and scores {given}; (rows, latent_size) and (rows,) are "
                "needed, with one row or more."
            )
        fine = torch.isfinite(latents).all(dim=1)
        if scores is not None:
            fine &= torch.isfinite(scores)
        if broken := int((~fine).sum()):
            raise UserError(f"{broken} of the {len(latents)} latents or their scores are NaN or infinite.")
        if places is None:
            places = torch.zeros(latents.shape[1], 2, dtype=torch.int64)
        if places.shape != (latents.shape[1], 2) or places.dtype != torch.int64:
            raise UserError(
                f"places are {places.dtype} of shape {list(places.shape)}; int64 of shape [{latents.shape[1]}, 2] is "
                "needed."
            )
        if models is None:
            models = torch.arange(len(latents))
        if models.shape != latents.shape[:1] or models.dtype != torch.int64:
            raise UserError(
                f"models are {models.dtype} of shape {list(models.shape)}; int64 of shape [{len(latents)}] is needed."
            )
        finite = None if scores is None else _on_cpu(scores)
        self.state = self._fit(_on_cpu(latents), finite, places.cpu(), models.cpu())
        return self

    @abstractmethod
    def _fit(self, latents: Tensor, scores: Tensor | None, places: Tensor, models: Tensor) -> dict[str, Tensor]:
        """The state, from finite float32 latents and scores, places and models, on the CPU."""

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
        self.fitted()
        samples = self._sample(int(num_samples), generator)
        if not torch.isfinite(samples).all():
            raise UserError(f"sampling with {self} gave NaN or infinite latents.")
        return samples

    @abstractmethod
    def _sample(self, num_samples: int, generator: torch.Generator | None) -> Tensor: ...

    def fitted(self) -> dict[str, Tensor]:
        """The state.

        Raises:
            UserError: if there is none.
        """
        if self.state is None:
            raise UserError("the sampler is not fitted: call fit first, or load a saved one.")
        return self.state

    def drawn_from(self) -> dict[str, Tensor]:
        """The tensors that decide what is drawn: the state, unless some of it is kept for another reason.

        Raises:
            UserError: if there is none.
        """
        return self.fitted()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `sampler_config.json` (class name, settings) and `sampler.safetensors` (the state) into `folder`.
        Tensors that float16 holds without a loss are stored so.

        Raises:
            UserError: if the sampler is not fitted.
        """
        state = self.fitted()
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: _compact(tensor).contiguous() for name, tensor in state.items()}, folder / STATE_NAME)
        names = {
            "class_name": type(self).__name__,
            "method": self.method,
        }  # the class decides, the method is for readers
        config = {**names, **self.settings(), "hyperrep_version": __version__}
        (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """The sampler that was saved in `folder`, as it was: nothing is fitted.

        Called on [`Sampler`] itself it is of whatever class the folder says; on a subclass, of that one.

        Raises:
            UserError: if files are missing or damaged, the class is unknown or another, a setting is unknown or out of
                range, or the tensors are not those of that class.
        """
        folder = Path(folder)
        for name in (CONFIG_NAME, STATE_NAME):
            if not (folder / name).exists():
                raise UserError(f"{folder} holds no {name}: it is not a saved sampler.")
        try:
            config = read_json(folder / CONFIG_NAME)
            for name in ("method", "hyperrep_version"):
                config.pop(name, None)
            if not isinstance(name := config.pop("class_name", None), str):
                raise UserError(f"{CONFIG_NAME} names no class_name.")
            kind = one_of({kind.__name__: kind for kind in sampler_classes()}, name, "sampler class")
            if not issubclass(kind, cls):
                raise UserError(f"it is a {name}, not a {cls.__name__}.")
            sampler = construct(kind, config, CONFIG_NAME)
            sampler.restored(read_tensors(folder / STATE_NAME, sampler.state_shapes, kind.whole_numbers))
        except UserError as error:
            raise UserError(f"the sampler in {folder} cannot be used: {error}") from error
        return sampler

    def restored(self, state: dict[str, Tensor]) -> Self:
        """This sampler with a state that it, or one like it, was fitted to.

        Raises:
            UserError: if the tensors do not belong together.
        """
        self.state = state
        self.check_state()
        return self

    def check_state(self) -> None:  # noqa: B027  # most have nothing to add
        """Whether the tensors of a loaded state belong together.

        Raises:
            UserError: says what does not fit.
        """


def _on_cpu(tensor: Tensor) -> Tensor:
    """Float32 on the CPU, without gradient."""
    return tensor.detach().float().cpu().contiguous()


def _compact(tensor: Tensor) -> Tensor:
    """In float16, if every number comes back the same."""
    half = tensor.half() if tensor.is_floating_point() else tensor
    return half if torch.equal(half.to(tensor.dtype), tensor) else tensor


def sampler_classes() -> list[type[Sampler]]:
    """Every kind of sampler that is known: those of this package, and whatever else was defined since."""
    found: list[type[Sampler]] = []
    waiting = Sampler.__subclasses__()
    while waiting:
        kind = waiting.pop(0)
        found.append(kind)
        waiting += kind.__subclasses__()
    return [kind for kind in found if not getattr(kind, "__abstractmethods__", None)]


def one_of(known: Mapping[str, T], name: str, what: str) -> T:
    """What has this name.

    Raises:
        UserError: if nothing has; says which name is near.
    """
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise UserError(f"{what} {name!r} is unknown; did you mean {nearest!r}? There are {', '.join(known)}.")
    return known[name]
