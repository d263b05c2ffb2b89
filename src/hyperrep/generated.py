"""Newly generated networks: as models, as folders, on the Hub."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Template
from typing import Any, Unpack, overload

from huggingface_hub import ModelCardData
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForImageClassification, PreTrainedModel

from .errors import UserError
from .files import mode_of, output_folder, signed_card
from .hub import PushSettings, push_folder
from .images import ImageSplit
from .networks import has_layout, network_from
from .population import REFRESH_IMAGES, choose_engine, refresh_statistics
from .tables import markdown_table
from .weights import WeightLayout


_CARD = Template("""
# $title

Nobody trained $what weights were drawn from a hyper-representation, a model of a population of trained
networks (Schürholt et al., *Hyper-Representations as Generative Models*, NeurIPS 2022, arXiv:2209.14733).

$load

$table
""")

_LOAD = """```bash
pip install hyperrep
```

```python
import hyperrep  # makes the architecture known to transformers
from transformers import AutoImageProcessor, AutoModelForImageClassification

network = AutoModelForImageClassification.from_pretrained("{place}")
processor = AutoImageProcessor.from_pretrained("{place}")
```"""

# what the networks are, the zoo does not say; whoever trained the others has their module
_LOAD_TENSORS = """```python
from safetensors.torch import load_file

module.load_state_dict(load_file("{place}/model.safetensors"), strict=False)  # module: of the zoo's architecture
```"""


@dataclass(eq=False, repr=False)
class WeightGenerationOutput:
    """Newly generated networks. `networks[3]` is one as a model, `networks[:10]` the first ten as a
    `WeightGenerationOutput`; iterating gives models.

    Attributes:
        weights (`Tensor`): (num_models, num_params), in the order of `layout`.
        latents (`Tensor`): (num_models, latent_size), what they were decoded from.
        layout ([`WeightLayout`])
        network (`dict`, *optional*), image_processor (`dict`, *optional*): configuration of the networks and of their
            preprocessing.
        made_by (`dict`): sampler settings, seed and source, as `index.json` records them.
        nearest (`list[dict]`, *optional*): for each network, the training network whose latent is nearest to its own:
            its `model_id` in the zoo, `distance` (Euclidean), and `relative_distance`, over the median distance of
            training networks from the nearest other one: near 0, it is a copy. `None` where the sampler keeps no
            latents.
    """

    weights: Tensor
    latents: Tensor
    layout: WeightLayout
    network: dict[str, Any] | None = None
    image_processor: dict[str, Any] | None = None
    made_by: dict[str, Any] = field(default_factory=dict)
    nearest: list[dict[str, Any]] | None = None

    def __len__(self) -> int:
        return len(self.weights)

    @overload
    def __getitem__(self, index: int) -> PreTrainedModel: ...
    @overload
    def __getitem__(self, index: slice) -> "WeightGenerationOutput": ...
    def __getitem__(self, index: int | slice) -> "PreTrainedModel | WeightGenerationOutput":
        if not isinstance(index, slice):
            return self.model(index)
        return self._rows(list(range(len(self))[index]))

    def _rows(self, rows: list[int]) -> "WeightGenerationOutput":
        drawn = self.made_by.get("selected", range(len(self)))
        # which of those that were drawn: the seed alone would give them all
        made_by = {**self.made_by, "selected": [drawn[row] for row in rows]}
        nearest = None if self.nearest is None else [self.nearest[row] for row in rows]
        return replace(self, weights=self.weights[rows], latents=self.latents[rows], made_by=made_by, nearest=nearest)

    def __iter__(self) -> Iterator[PreTrainedModel]:
        return (self.model(index) for index in range(len(self)))

    def __repr__(self) -> str:
        kind = (self.network or {}).get("model_type", "unnamed")
        made_by = "".join(f"  {name}: {value}\n" for name, value in self.made_by.items() if name != "selected")
        return f"{len(self)} {kind} networks of {self.layout.described}\n{made_by}".rstrip()

    def state_dict(self, index: int) -> dict[str, Tensor]:
        """Tensors of one network."""
        return {name: tensor.clone() for name, tensor in self.layout.unvectorize(self.weights[index]).items()}

    def model(self, index: int) -> PreTrainedModel:
        """One network as a Hugging Face model, ready to use.

        Raises:
            UserError: if it is not known which network that is, which activation it has, or how its weights fit it.
        """
        if self.network is None:
            raise UserError("the representation does not say which network its weights belong to (config.network).")
        if "model_type" not in self.network:
            raise UserError("the networks' configuration lacks 'model_type'.")
        config = network_from(self.network, "the networks' configuration")
        if "hidden_act" not in self.network and "hidden_act" in config.to_dict():
            raise UserError(
                "the networks of the zoo differ in hidden_act, so that weights do not say which is theirs; tell it: "
                'pipe(..., network={"hidden_act": "relu"}), or --network hidden_act=relu.'
            )
        if not has_layout(config, self.layout):
            raise UserError("the networks' configuration has another layout than their weights.")
        model = AutoModelForImageClassification.from_config(config)
        model.load_state_dict(self.state_dict(index), strict=False)  # other buffers are the module's own
        return model.eval()

    def save_pretrained(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write each network to `model-00000`, `model-00001`, ...: folders with `config.json`, `model.safetensors`,
        `preprocessor_config.json` and a card, and beside them `index.json`, which says how they were made. Where the
        zoo does not say what its networks are, there are tensors alone, by the names that the zoo has for them.

        Raises:
            UserError: if the folder is not empty and `overwrite` is not set, holds anything that hyperrep did not
                write, or cannot be written.
        """
        with output_folder(folder, "networks", mode_of(overwrite=overwrite)) as output:
            names = [f"model-{i:05d}" for i in range(len(self))]
            with output.staging(replace=True) as stage:
                for i, name in enumerate(names):
                    if self.network is None:
                        (stage / name).mkdir()
                        save_file(self.state_dict(i), stage / name / "model.safetensors", metadata={"format": "pt"})
                    elif i == 0:
                        model = self.model(i)  # one for all: to build one takes longer than to write it
                        model.save_pretrained(stage / name)
                    else:  # what transformers writes, without asking it a thousand times
                        model.load_state_dict(self.state_dict(i), strict=False)
                        (stage / name).mkdir()
                        shutil.copyfile(stage / names[0] / "config.json", stage / name / "config.json")
                        save_file(model.state_dict(), stage / name / "model.safetensors", metadata={"format": "pt"})
                    if self.image_processor is not None:
                        path = stage / name / "preprocessor_config.json"
                        path.write_text(json.dumps(self.image_processor, indent=2) + "\n")
                    (stage / name / "README.md").write_text(self._card(i), encoding="utf-8")
                index = {**self.made_by, "models": names, "nearest": self.nearest}
                (stage / "README.md").write_text(self._card(None), encoding="utf-8")
                (stage / "index.json").write_text(json.dumps(index, indent=2) + "\n")

    def push_to_hub(self, repo_id: str, **settings: Unpack[PushSettings]) -> str:
        """Publish them in one repository, a folder each, with `index.json` and a card; returns its address. The first
        is loaded with `AutoModelForImageClassification.from_pretrained(repo_id, subfolder="model-00000")`.

        Args:
            repo_id (`str`)
            settings: `private`, `token`, `revision`, `create_pr`, `commit_message`, see [`~hyperrep.hub.push_folder`].

        Raises:
            UserError: as [`save_pretrained`] and [`~hyperrep.hub.push_folder`].
        """
        settings["commit_message"] = settings.get("commit_message") or f"Upload {len(self)} networks with hyperrep"
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push_folder(folder, repo_id, **settings)

    def best(
        self, count: int, images: ImageSplit, name: str = "images", engine: str = "auto"
    ) -> "WeightGenerationOutput":
        """The networks that classify images best, and how many there were to choose from (`made_by["best_of"]`).

        Args:
            count (`int`): how many to keep.
            images ([`ImageSplit`]): to choose by; what they are tested on later must be others.
            name (`str`, *optional*): what they are, for the record.
            engine (`str`, *optional*): see [`~hyperrep.population.choose_engine`].

        Raises:
            UserError: if there are fewer, or it is not known which networks they are.
        """
        if not 1 <= count <= len(self):
            raise UserError(f"count is {count}; there are {len(self)} networks to choose from.")
        config = self.model(0).config
        measured = choose_engine(engine, config).evaluate(config, self.weights, images.pixels, images.labels)
        order = measured.accuracy.argsort(descending=True, stable=True)[:count].sort().values
        chosen = self._rows(order.tolist())
        chosen.made_by["best_of"] = {
            "drawn": len(self),
            "kept": count,
            "by": f"accuracy on {len(images):,} of {name}",
            "accuracy_of_all": round(measured.accuracy.mean().item(), 6),
            "accuracy_of_kept": round(measured.accuracy[order].mean().item(), 6),
        }
        return chosen

    def refresh_statistics(self, images: ImageSplit, name: str = "images") -> "WeightGenerationOutput":
        """The same networks, their batch norms with the statistics of images instead of those that were generated
        ([`~hyperrep.population.refresh_statistics`]), and how many images these were (`made_by["statistics"]`).

        Args:
            images ([`ImageSplit`]): such as networks are trained on; labels do not matter.
            name (`str`, *optional*): what they are, for the record.

        Raises:
            UserError: if it is not known which networks they are, or these have no running statistics.
        """
        config = self.model(0).config
        if not len(self.layout.statistics):
            raise UserError(f"{config.model_type} networks such as these keep no statistics of images; leave it out.")
        pixels = images.pixels[:REFRESH_IMAGES]
        made_by = {**self.made_by, "statistics": f"of {len(pixels):,} of {name}"}
        return replace(self, weights=refresh_statistics(config, self.weights, pixels), made_by=made_by)

    def _card(self, index: int | None) -> str:
        """How a network, or all of them, were made, and how they are loaded."""
        source = str(self.made_by.get("representation"))
        data = ModelCardData(
            library_name="transformers" if self.network is not None else "hyperrep",
            pipeline_tag="image-classification",
            tags=["hyperrep", "weight-generation"],
            base_model=source if self.made_by.get("revision") else None,  # else a folder of this machine
        )
        made_by = {name: value for name, value in self.made_by.items() if name != "selected"}
        if index is not None:
            made_by = {"number": self.made_by.get("selected", range(len(self)))[index], **made_by}
            if self.nearest is not None:
                made_by |= {f"nearest training network: {name}": value for name, value in self.nearest[index].items()}
        title, what = (
            ("A generated network", "this network: its")
            if index is not None
            else (f"{len(self)} generated networks", "these networks: their")
        )
        load = _LOAD_TENSORS if self.network is None else _LOAD
        load = load.format(place="model-00000" if index is None else ".")
        table = markdown_table(["made with", ""], [[name, str(value)] for name, value in made_by.items()])
        text = _CARD.substitute(title=title, what=what, load=load, table=table)
        return signed_card(data, text)
