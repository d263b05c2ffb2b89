"""From stored values to a configuration or an image processor, by the names that transformers' Auto classes know. Code
that comes with the values is never run: `auto_map` is left out."""

from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, PreTrainedConfig
from transformers.image_processing_utils import BaseImageProcessor
from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name

from ..errors import UserError
from ..files.reading import wording
from .configuration_small_cnn import SmallCNNConfig
from .image_processing_small_cnn import SmallCNNImageProcessor


DEFAULT_MODEL_TYPE = SmallCNNConfig.model_type
MAX_LABELS = 1_000_000


def network_from(values: Mapping[str, Any], where: str = "network") -> PreTrainedConfig:
    """The configuration of networks that transformers can classify images with.

    Args:
        values (`Mapping`): its arguments and `model_type`.
        where (`str`, *optional*): where they come from, for the message.

    Raises:
        UserError: if `model_type` is not registered, or the configuration refuses its arguments.
    """
    kind, labels = values.get("model_type"), values.get("num_labels", 0)
    found = CONFIG_MAPPING[kind] if isinstance(kind, str) and kind in CONFIG_MAPPING else None
    if found is None or found not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise UserError(
            f"{where} has model_type {kind!r}, for which no image classification is registered with transformers; "
            "import the module that registers it."
        )
    if not isinstance(labels, int) or labels > MAX_LABELS:  # transformers makes a dictionary of them
        raise UserError(f"{where} has num_labels {labels!r}; it is a whole number up to {MAX_LABELS:,}.")
    arguments = {name: value for name, value in values.items() if name not in ("model_type", "auto_map")}
    try:
        return found.from_dict(arguments)
    except Exception as error:  # each configuration checks its arguments in its own way
        raise UserError(f"{where}: {wording(error)}") from error


def processor_from(values: Mapping[str, Any], where: str = "image_processor") -> BaseImageProcessor:
    """The image processor of these settings, by `image_processor_type`; that of the small CNNs where there is none.

    Raises:
        UserError: if the type is not registered, or it refuses its settings.
    """
    kind = values.get("image_processor_type", SmallCNNImageProcessor.__name__)
    try:
        found = get_image_processor_class_from_name(str(kind))
        if isinstance(found, type) and issubclass(found, BaseImageProcessor):
            return found.from_dict({name: value for name, value in values.items() if name != "auto_map"})
    except Exception as error:  # as above
        raise UserError(f"{where}: {wording(error)}") from error
    raise UserError(f"{where} has image_processor_type {kind!r}, which is not registered with transformers.")
