"""The small networks whose weights we learn, as ordinary Hugging Face image-classification models."""

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

from .auto import DEFAULT_MODEL_TYPE, network_from, processor_from
from .configuration_small_cnn import SmallCNNConfig
from .image_processing_small_cnn import SmallCNNImageProcessor
from .modeling_small_cnn import SmallCNNForImageClassification
from .modules import (
    Network,
    check_architecture,
    dropout_rate,
    example_images,
    has_layout,
    hidden_units,
    input_shape,
    layout_of,
    learn_statistics,
    logits_of,
    new_module,
    num_classes,
    num_params,
)
from .seeds import initial_weights


# exist_ok: a notebook that reloads the package registers a second time.
AutoConfig.register(SmallCNNConfig.model_type, SmallCNNConfig, exist_ok=True)
AutoModelForImageClassification.register(SmallCNNConfig, SmallCNNForImageClassification, exist_ok=True)
AutoImageProcessor.register(
    SmallCNNConfig, image_processor_classes={"torchvision": SmallCNNImageProcessor}, exist_ok=True
)

__all__ = [
    "DEFAULT_MODEL_TYPE",
    "Network",
    "SmallCNNConfig",
    "SmallCNNForImageClassification",
    "SmallCNNImageProcessor",
    "check_architecture",
    "dropout_rate",
    "example_images",
    "has_layout",
    "hidden_units",
    "initial_weights",
    "input_shape",
    "layout_of",
    "learn_statistics",
    "logits_of",
    "network_from",
    "new_module",
    "num_classes",
    "num_params",
    "processor_from",
]
