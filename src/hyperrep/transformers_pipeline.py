"""`transformers.pipeline("weight-generation", model=...)`: a thin adapter to [`HyperRepPipeline`]."""

from typing import Any

import torch
from transformers import AutoModel, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .errors import UserError
from .hub import resolve_folder
from .pipeline import HyperRepPipeline, WeightGenerationOutput, stored_sampler
from .representation import HyperRepModel


TASK = "weight-generation"


class WeightGenerationPipeline(Pipeline):
    """`pipeline("weight-generation", model="org/hyperrep-svhn")(50)`: 50 networks, a [`WeightGenerationOutput`].

    Call arguments: `generator` (`torch.Generator`, *optional*).
    """

    _load_tokenizer: Any = False
    _load_image_processor: Any = False
    _load_feature_extractor: Any = False
    _load_video_processor: Any = False
    _load_processor: Any = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if not isinstance(self.model, HyperRepModel):
            raise UserError(f"task {TASK} needs a hyper-representation, not a {type(self.model).__name__}.")
        source = str(self.model.config.name_or_path)
        if not source:
            raise UserError(f"task {TASK} takes the folder or Hub id of a representation, where its sampler lies.")
        folder, commit = resolve_folder(source)
        self.generate = HyperRepPipeline(self.model, stored_sampler(folder, source, commit), source, commit)

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Model and sampler, as [`HyperRepPipeline.save_pretrained`]."""
        self.generate.save_pretrained(save_directory, **kwargs)

    def _sanitize_parameters(self, generator: torch.Generator | None = None):  # type: ignore[override]
        return {}, {} if generator is None else {"generator": generator}, {}

    def preprocess(self, num_models: int, **kwargs: Any) -> dict[str, int]:  # type: ignore[override]
        return {"num_models": num_models}

    def _forward(self, inputs: dict[str, int], generator: torch.Generator | None = None) -> dict[str, Any]:  # type: ignore[override]
        return {"networks": self.generate(inputs["num_models"], generator=generator)}

    def postprocess(self, outputs: dict[str, Any], **kwargs: Any) -> WeightGenerationOutput:  # type: ignore[override]
        return outputs["networks"]


def register() -> None:
    """Make the task known to transformers; doing so again does no harm."""
    PIPELINE_REGISTRY.register_pipeline(
        TASK, pipeline_class=WeightGenerationPipeline, pt_model=AutoModel, type="multimodal"
    )
