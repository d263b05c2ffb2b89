"""The small networks whose weights we learn, as ordinary Hugging Face image-classification models."""

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

from .configuration_small_cnn import SmallCNNConfig
from .image_processing_small_cnn import SmallCNNImageProcessor
from .modeling_small_cnn import SmallCNNForImageClassification
from .seeds import initial_weights


# exist_ok: a notebook that reloads the package registers a second time.
AutoConfig.register(SmallCNNConfig.model_type, SmallCNNConfig, exist_ok=True)
AutoModelForImageClassification.register(SmallCNNConfig, SmallCNNForImageClassification, exist_ok=True)
AutoImageProcessor.register(
    SmallCNNConfig, image_processor_classes={"torchvision": SmallCNNImageProcessor}, exist_ok=True
)

__all__ = ["SmallCNNConfig", "SmallCNNForImageClassification", "SmallCNNImageProcessor", "initial_weights"]
