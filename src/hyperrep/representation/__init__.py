"""The hyper-representation: configuration, model and losses, as a `transformers` model."""

from transformers import AutoConfig, AutoModel

from .configuration_hyperrep import HyperRepConfig
from .losses import nt_xent, positive_loss, r_squared, reconstruction_loss
from .modeling_hyperrep import HyperRepModel, HyperRepOutput, HyperRepPreTrainedModel
from .processing_hyperrep import HyperRepProcessor


# exist_ok: a notebook that reloads the package registers a second time.
AutoConfig.register(HyperRepConfig.model_type, HyperRepConfig, exist_ok=True)
AutoModel.register(HyperRepConfig, HyperRepModel, exist_ok=True)

__all__ = [
    "HyperRepConfig",
    "HyperRepModel",
    "HyperRepOutput",
    "HyperRepPreTrainedModel",
    "HyperRepProcessor",
    "nt_xent",
    "positive_loss",
    "r_squared",
    "reconstruction_loss",
]
