"""The pipeline: a representation and a sampler in, new networks out."""

import difflib
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from .errors import UserError
from .files import check_output, mode_of, output_folder
from .generated import WeightGenerationOutput
from .hub import PushSettings, push_folder
from .images import ImageData, load_images
from .networks import network_from, processor_from
from .publishing import carry_card
from .representation import HyperRepModel
from .representation.adapting import adapted
from .representation.batched import decode_rows, encode_anchors
from .representation.filter import Filter
from .representation.loading import load_representation
from .results import fingerprint
from .samplers import SAMPLER_FOLDER, AnchoredSampler, KDESampler, Sampler, fit_to_known
from .version import __version__
from .weights import WeightLayout
from .zoo import Zoo, load_zoos


VALIDATION_FRACTION = 0.1  # of the training images, where a representation does not say what its zoo held out


class HyperRepPipeline:
    r"""
    Samples latents and decodes them to networks. Two components, `model` and `sampler`, either may be replaced.

    Example:

    ```python
    >>> pipe = HyperRepPipeline.from_pretrained("org/hyperrep-svhn")
    >>> networks = pipe(num_models=50, generator=torch.Generator().manual_seed(0))
    >>> networks.save_pretrained("samples")
    ```

    Args:
        model ([`HyperRepModel`])
        sampler ([`Sampler`]): fitted to the model's latents.
        source (`str`, *optional*), revision (`str`, *optional*): where they came from, for the record.

    Raises:
        UserError: if the sampler's latents have another width than the model's.
    """

    def __init__(self, model: HyperRepModel, sampler: Sampler, source: str | None = None, revision: str | None = None):
        self._model = model.eval()
        self.sampler = sampler
        self.source = source
        self.revision = revision
        self.folder: Path | None = None  # that they were loaded from, with its card and results
        self.prompts: dict[str, Any] | None = None  # that it samples around, see prompted

    @classmethod
    def from_pretrained(
        cls,
        repo: str | Path,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        subfolder: str = "",
        **kwargs: Any,
    ) -> "HyperRepPipeline":
        """Load model and sampler from a local folder or the Hub.

        Args:
            repo (`str` or `Path`): local folder or Hub id.
            revision, token (`str`, *optional*), cache_dir (`str` or `Path`, *optional*), local_files_only (`bool`,
                *optional*), subfolder (`str`, *optional*): see [`~hyperrep.hub.resolve_folder`].
            kwargs: for [`HyperRepModel.from_pretrained`], such as `dtype` and `device_map`.

        Raises:
            UserError: if there is no such repository, or it lacks a sampler, or holds a pickle in place of weights.
        """
        model, folder, commit = load_representation(
            repo,
            revision,
            token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            subfolder=subfolder,
            **kwargs,
        )
        pipe = cls(model, stored_sampler(folder, str(repo), commit), source=str(repo), revision=commit)
        pipe.folder = folder
        return pipe

    @property
    def model(self) -> HyperRepModel:
        """What decodes latents to networks."""
        return self._model

    @model.setter
    def model(self, model: HyperRepModel) -> None:
        check_width(model, self.sampler)
        self._model = model.eval()

    @property
    def sampler(self) -> Sampler:
        """What latents are drawn from."""
        return self._sampler

    @sampler.setter
    def sampler(self, sampler: Sampler) -> None:
        check_width(self.model, sampler)
        self._sampler = sampler

    @property
    def components(self) -> dict[str, Any]:
        """What the pipeline is made of: `HyperRepPipeline(**pipe.components)` is the same one."""
        return {"model": self.model, "sampler": self.sampler}

    @property
    def device(self) -> torch.device:
        """Where networks are decoded."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the model's weights."""
        return self.model.dtype

    def __repr__(self) -> str:
        config = self.model.config
        return (
            f"HyperRepPipeline of {self.source or 'a model in memory'}\n"
            f"  model: {self.model.num_parameters():,} parameters, latents of {config.latent_size}, networks of "
            f"{config.num_params:,}; {self.dtype} on {self.device}\n"
            f"  sampler: {self.sampler}"
        )

    def images(self, source: str) -> ImageData:
        """A data set, preprocessed as for the zoo, and its training images split as there: of `validation` are those
        that generated networks may be chosen by.

        Args:
            source (`str`): see [`~hyperrep.images.load_images`].

        Raises:
            UserError: if the representation does not say how images are preprocessed, or there are no such images.
        """
        if self.model.config.image_processor is None:
            raise UserError(f"{self.source or 'the representation'} does not say how its networks' images look.")
        fraction = (self.model.config.zoo or {}).get("validation_fraction")
        if not isinstance(fraction, float) or not 0 < fraction < 1:
            fraction = VALIDATION_FRACTION
        return load_images(source, processor_from(self.model.config.image_processor), fraction)

    def prompted(
        self,
        weights: Tensor,
        name: str = "networks in memory",
        layout: WeightLayout | None = None,
        network: Mapping[str, Any] | None = None,
    ) -> "HyperRepPipeline":
        """A pipeline that samples around a few given networks instead of the zoo: the same model, and a sampler of the
        same kind, fitted to their latents alone (few-shot sampling, SANE, arXiv 2406.09997, Table 5).

        Example:

        ```python
        >>> few = pipe.prompted(torch.stack([layout.vectorize(network.state_dict()) for network in mine]))
        >>> networks = few(num_models=50)
        ```

        Args:
            weights (`Tensor`): (networks, num_params).
            name (`str`, *optional*): what they are, for the record.
            layout ([`~hyperrep.WeightLayout`], *optional*): of the vectors; by default that of the representation. Of
                other networks, a representation that reads windows makes what it can
                ([`~hyperrep.representation.adapting.adapted`]).
            network (`Mapping`, *optional*): configuration of such other networks.

        Raises:
            UserError: if they have another shape or are not finite, the sampler needs more of them, or networks of
                another layout cannot be read.
        """
        model = self.model
        if layout is not None and layout.to_list() != model.config.layout:
            model = adapted(model, weights, layout, dict(network) if network else None, model.config.image_processor)
        try:
            latents = encode_anchors(model, weights)
        except ValueError as error:
            raise UserError(f"prompts: {error}") from error
        settings = self.sampler.settings()
        sampler = type(self.sampler)(**settings | ({"top": None} if "top" in settings else {}))
        sampler.fit(latents, None, model.latent_places)
        pipe = HyperRepPipeline(model, sampler, self.source, self.revision)
        pipe.prompts = {"networks": name, "number": len(weights), "sha256": fingerprint({"weights": weights})}
        return pipe

    def save_pretrained(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write the model to `folder` and the sampler to its `sampler` subfolder.

        Raises:
            UserError: if the folder is not empty and `overwrite` is not set, holds anything that hyperrep did not
                write, or cannot be written.
        """
        with (
            output_folder(folder, "representation", mode_of(overwrite=overwrite)) as output,
            output.staging(replace=True) as stage,
        ):
            self.model.save_pretrained(stage)
            self.sampler.save_pretrained(stage / SAMPLER_FOLDER)

    def push_to_hub(self, repo_id: str, **settings: Unpack[PushSettings]) -> str:
        """Publish model and sampler with a card; returns the repository's address.

        Card and results of the folder that the pipeline was loaded from go with it, unless the model was changed.

        Args:
            repo_id (`str`)
            settings: `private`, `token`, `revision`, `create_pr`, `commit_message`, see [`~hyperrep.hub.push_folder`].

        Raises:
            UserError: as [`save_pretrained`] and [`~hyperrep.hub.push_folder`].
        """
        settings["commit_message"] = settings.get("commit_message") or f"Upload {repo_id.split('/')[-1]} with hyperrep"
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            carry_card(self.folder, folder, repo_id)
            return push_folder(folder, repo_id, **settings)

    def to(self, *args: Any, **kwargs: Any) -> "HyperRepPipeline":
        """Move the model, as [`torch.nn.Module.to`]; sampled weights come back on the CPU."""
        self.model.to(*args, **kwargs)
        return self

    @torch.no_grad()
    def __call__(
        self,
        num_models: int = 1,
        *,
        generator: torch.Generator | None = None,
        network: Mapping[str, Any] | None = None,
    ) -> WeightGenerationOutput:
        r"""
        Generate networks.

        Args:
            num_models (`int`, *optional*, defaults to 1)
            generator (`torch.Generator`, *optional*): on the CPU; decides everything that is random. From one that was
                drawn from before, or from torch's own where none is given, a seed is drawn. The seed is recorded:
                `generator=torch.Generator().manual_seed(seed)` makes the same networks again.
            network (`Mapping`, *optional*): what the networks' configuration says instead of the representation's,
                such as the activation, where the zoo's networks differ in it.

        Raises:
            UserError: if a number is out of range, or a network came out NaN or infinite.
        """
        # 1. draw latents from the density
        seed, generator = _recorded(generator)
        latents = self.sampler.sample(num_models, generator)

        # 2. decode them to weight vectors
        weights = decode_rows(self.model, latents)
        if broken := int((~torch.isfinite(weights).all(dim=1)).sum()):
            raise UserError(f"{broken} of {num_models} networks came out NaN or infinite: is {self.source} damaged?")

        # 3. say how they were made
        config = self.model.config
        made_by = {
            "method": self.sampler.method,
            **self.sampler.settings(),
            "seed": seed,
            "num_models": num_models,
            **({"network": dict(network)} if network else {}),
            **({"prompts": self.prompts} if self.prompts else {}),
            "representation": self.source,
            "revision": self.revision,
            "hyperrep_version": __version__,
        }
        layout = WeightLayout.from_list(config.layout)
        networks = {**(config.network or {}), **_known(network or {}, config.network or {})} or None
        nearest = None
        if isinstance(self.sampler, AnchoredSampler):
            nearest = nearest_anchors(latents, self.sampler.latents, self.sampler.models)
        return WeightGenerationOutput(weights, latents, layout, networks, config.image_processor, made_by, nearest)


def nearest_anchors(latents: Tensor, anchors: Tensor, models: Tensor) -> list[dict[str, Any]]:
    """For each latent, which anchor is nearest: see [`WeightGenerationOutput`].

    Args:
        latents (`Tensor`): (rows, latent_size).
        anchors (`Tensor`): (anchors, latent_size), of checkpoints of training networks.
        models (`Tensor`): (anchors,), of which network each is a checkpoint.
    """
    # a matrix product is quicker, and takes near points for equal ones; networks that differ lie far apart
    distances, rows = torch.cdist(latents, anchors, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
    among = torch.cdist(anchors, anchors)
    usual = float(among.masked_fill(models[:, None] == models, torch.inf).amin(dim=1).median())
    found = []
    for row, distance in zip(rows.tolist(), distances.tolist()):
        relative = round(distance / usual, 6) if 0 < usual < math.inf else None
        entry = {"model_id": int(models[row]), "distance": round(distance, 6), "relative_distance": relative}
        found.append(entry)
    return found


def fit_sampler(
    representation: str | Path,
    zoo: Zoo | str | Path,
    sampler: Sampler | None = None,
    output: str | Path | None = None,
    epochs: Sequence[int] | None = None,
) -> Sampler:
    """Fit a sampler to the latents of the networks that a representation learned from, and save it with it.

    Args:
        representation (`str` or `Path`): a folder, as training leaves it; with `output`, a Hub id, too.
        zoo ([`~hyperrep.zoo.Zoo`] or `str`): the one it was trained on: loaded, or a folder or Hub id.
        sampler ([`Sampler`], *optional*): independent KDE over the best 30 % by default.
        output (`str` or `Path`, *optional*): a new folder for model and sampler; the representation stays as it is.
        epochs (`list[int]`, *optional*): of the zoo, to take latents of; by default those the representation learned
            from. Fewer make a smaller file.

    Raises:
        UserError: if it is no representation, the zoo's networks have another layout or lack the scores that the
            sampler chooses by, there is a file in the sampler's place that is not ours, or the latents are not finite.
    """
    if output is not None:
        check_output(output, "representation", "new")
    elif not Path(representation).is_dir():
        raise UserError(
            f"{str(representation)!r} is no folder here: say where the sampler goes with output (--output)."
        )
    model, folder, commit = load_representation(representation)
    zoo = zoo if isinstance(zoo, Zoo) else load_zoos(zoo)[0]  # of several, training takes that for the first, too
    if zoo.config.layout != model.config.layout:
        raise UserError(f"zoo {zoo.name} holds networks of another layout than the representation {folder}.")
    seen = Filter.of(model, zoo)
    rows = (seen if epochs is None else replace(seen, epochs=list(epochs))).rows(zoo, "train")
    latents = encode_anchors(model, rows.weights)
    sampler = sampler or KDESampler()
    scores = rows.column(sampler.settings().get("score", "validation_accuracy"))
    sampler = fit_to_known(sampler, latents, scores, model.latent_places, rows.model_id)
    if output is not None:
        HyperRepPipeline(model, sampler, str(representation), commit).save_pretrained(output)
        carry_card(folder, output, Path(output).absolute().name)
        return sampler
    with output_folder(folder, "representation", "add") as out, out.staging() as stage:
        sampler.save_pretrained(stage / SAMPLER_FOLDER)
    return sampler


def stored_sampler(folder: Path, source: str, commit: str | None) -> Sampler:
    """The sampler that lies in a representation's folder.

    Args:
        folder (`Path`), source (`str`), commit (`str`, *optional*): where it is, what the user called it, and the
            commit on the Hub if it came from there.

    Raises:
        UserError: if there is none, or it is damaged.
    """
    if commit and not (folder / SAMPLER_FOLDER).is_dir():
        raise UserError(
            f"{source!r} has no sampler, or only its model is in the cache: load the pipeline once while the Hub can "
            "be reached."
        )
    return Sampler.from_pretrained(folder / SAMPLER_FOLDER)


def _known(told: Mapping[str, Any], network: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a user says of the networks, if their configuration knows it: it would take anything."""
    if told and "model_type" in network:
        known = network_from({"model_type": network["model_type"]}, "the networks' configuration").to_dict()
        if unknown := [key for key in told if key not in known]:
            nearest = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.0)[0]
            raise UserError(f"{network['model_type']} networks have no {unknown[0]!r}; did you mean {nearest!r}?")
    return told


def check_width(model: HyperRepModel, sampler: Sampler) -> None:
    """Whether a sampler draws what a model decodes.

    Raises:
        UserError: if its latents have another width.
    """
    if sampler.latent_size != model.config.latent_size:
        raise UserError(
            f"the sampler's latents have {sampler.latent_size} entries, the model's {model.config.latent_size}."
        )


def _recorded(generator: torch.Generator | None) -> tuple[int, torch.Generator]:
    """A seed, and a generator that is fresh from it; what has been drawn from already is no longer its seed's."""
    if generator is not None and generator.device.type == "cpu":
        seed = generator.initial_seed()
        if torch.equal(generator.get_state(), seeded(seed).get_state()):
            return seed, generator
    device = "cpu" if generator is None else generator.device
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device=device))
    return seed, seeded(seed)


def seeded(seed: int) -> torch.Generator:
    """A generator on the CPU, fresh from its seed.

    Raises:
        UserError: if torch has no such seed.
    """
    if not -(2**63) <= seed < 2**64:
        raise UserError(f"seed is {seed}; it must lie between -2^63 and 2^64 - 1.")
    return torch.Generator().manual_seed(seed)
