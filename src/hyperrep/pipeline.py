"""The pipeline: a representation and a sampler in, new networks out."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel

from .errors import UserError
from .files.reading import wording
from .hub import push_folder
from .representation import HyperRepModel
from .representation.batched import decode_rows
from .representation.loading import load_representation
from .samplers import SAMPLER_FOLDER, Sampler, load_sampler
from .version import __version__
from .weights import WeightLayout


@dataclass
class WeightGenerationOutput:
    """Newly generated networks.

    Attributes:
        weights (`Tensor`): (num_models, num_params), in the order of `layout`.
        latents (`Tensor`): (num_models, latent_size), what they were decoded from.
        layout ([`WeightLayout`])
        network (`dict`, *optional*), image_processor (`dict`, *optional*): configuration of the networks and of their
            preprocessing.
        made_by (`dict`): sampler settings, seed and source, as `index.json` records them.
    """

    weights: Tensor
    latents: Tensor
    layout: WeightLayout
    network: dict[str, Any] | None = None
    image_processor: dict[str, Any] | None = None
    made_by: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.weights)

    def state_dict(self, index: int) -> dict[str, Tensor]:
        """Tensors of one network."""
        return {name: tensor.clone() for name, tensor in self.layout.unvectorize(self.weights[index]).items()}

    def model(self, index: int) -> PreTrainedModel:
        """One network as a Hugging Face model, ready to use.

        Raises:
            UserError: if it is not known which network that is, or which activation it has.
        """
        if self.network is None:
            raise UserError("the representation does not say which network its weights belong to (config.network).")
        arguments = {key: value for key, value in self.network.items() if key != "model_type"}
        try:
            config = AutoConfig.for_model(self.network["model_type"], **arguments)
        except (StrictDataclassError, ValueError, TypeError) as error:
            raise UserError(f"the networks' configuration: {wording(error)}") from error
        if "hidden_act" not in arguments and "hidden_act" in config.to_dict():
            raise UserError(
                "the networks of the zoo differ in hidden_act, so that weights do not say which is theirs; tell it: "
                'pipe(..., network={"hidden_act": "relu"}), or --network hidden_act=relu.'
            )
        model = AutoModelForImageClassification.from_config(config)
        model.load_state_dict(self.state_dict(index))
        return model.eval()

    def save_pretrained(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write each network to `model-00000`, `model-00001`, ...: folders with `config.json`, `model.safetensors` and
        `preprocessor_config.json`, and beside them `index.json`, which says how they were made.

        Raises:
            UserError: if the folder exists, is not empty and `overwrite` is not set, or is a file.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; name a folder.")
        if folder.exists() and any(folder.iterdir()):
            if not overwrite:
                raise UserError(f"{folder} exists; replace it with overwrite, or choose another folder.")
            if not (folder / "index.json").exists():
                raise UserError(f"{folder} does not hold generated networks; it is not overwritten.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            complete = Path(temporary, "networks")
            complete.mkdir()  # temporary folders are private, this one is not
            names = [f"model-{i:05d}" for i in range(len(self))]
            for i, name in enumerate(names):
                self.model(i).save_pretrained(complete / name)
                if self.image_processor is not None:
                    path = complete / name / "preprocessor_config.json"
                    path.write_text(json.dumps(self.image_processor, indent=2) + "\n")
            index = {**self.made_by, "models": names}
            (complete / "index.json").write_text(json.dumps(index, indent=2) + "\n")
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(complete, folder)


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
        width = sampler.anchors.shape[1]
        if width != model.config.latent_size:
            raise UserError(f"the sampler's latents have {width} entries, the model's {model.config.latent_size}.")
        self.model = model.eval()
        self.sampler = sampler
        self.source = source
        self.revision = revision
        self.folder: Path | None = None  # that they were loaded from, with its card and results

    @classmethod
    def from_pretrained(
        cls, repo: str | Path, revision: str | None = None, token: str | None = None
    ) -> "HyperRepPipeline":
        """Load model and sampler from a local folder or the Hub.

        Raises:
            UserError: if there is no such repository, or it lacks a sampler, or holds a pickle in place of weights.
        """
        model, folder, commit = load_representation(repo, revision, token)
        sampler = load_sampler(folder / SAMPLER_FOLDER)
        pipe = cls(model, sampler, source=str(repo), revision=commit)
        pipe.folder = folder
        return pipe

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model to `folder` and the sampler to its `sampler` subfolder."""
        self.model.save_pretrained(folder)
        self.sampler.save_pretrained(Path(folder, SAMPLER_FOLDER))

    def push_to_hub(self, repo_id: str, private: bool | None = None, token: str | None = None) -> str:
        """Publish model and sampler with a card; returns the repository's address.

        Card and results of the folder that the pipeline was loaded from go with it, unless the model was changed.
        """
        from .cards import carry_card

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            carry_card(self.folder, folder, repo_id)
            return push_folder(folder, repo_id, private=private, token=token)

    def to(self, device: torch.device | str) -> "HyperRepPipeline":
        """Move the model; sampled weights come back on the CPU."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def __call__(
        self,
        num_models: int = 1,
        *,
        generator: torch.Generator | None = None,
        batch_size: int = 256,
        network: Mapping[str, Any] | None = None,
    ) -> WeightGenerationOutput:
        r"""
        Generate networks.

        Args:
            num_models (`int`, *optional*, defaults to 1)
            generator (`torch.Generator`, *optional*): on the CPU; decides everything that is random.
            batch_size (`int`, *optional*, defaults to 256): latents decoded at once.
            network (`Mapping`, *optional*): what the networks' configuration says instead of the representation's,
                such as the activation, where the zoo's networks differ in it.
        """
        # 1. draw latents from the density
        seed = generator.initial_seed() if generator is not None else None
        latents = self.sampler.sample(num_models, generator)

        # 2. decode them to weight vectors
        weights = decode_rows(self.model, latents, batch_size)

        # 3. say how they were made
        config = self.model.config
        made_by = {
            "method": self.sampler.method,
            **self.sampler.settings(),
            "seed": seed,
            "representation": self.source,
            "revision": self.revision,
            "hyperrep_version": __version__,
        }
        layout = WeightLayout.from_list(config.layout)
        networks = {**(config.network or {}), **(network or {})} or None
        return WeightGenerationOutput(weights, latents, layout, networks, config.image_processor, made_by)
