"""Networks in words, for cards: from the values of their configuration, whether or not it is known here."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from .auto import DEFAULT_MODEL_TYPE
from .initialization import INITIAL_BIAS


def describe(values: Mapping[str, Any]) -> tuple[str, str]:
    """What the networks of a configuration are, and how their weights start."""

    def part(name: str) -> str:
        return plain(values.get(name))

    if values.get("model_type") == DEFAULT_MODEL_TYPE:
        return (
            f"convolutions {part('conv_channels')} with kernels {part('conv_kernel_sizes')}, max-pools "
            f"{part('pool_sizes')}, hidden layers {part('hidden_sizes')}, activation {part('hidden_act')}",
            f"{part('initializer')}, biases {INITIAL_BIAS}",
        )
    common = PreTrainedConfig().to_dict().keys() | {"model_type", "auto_map"}
    own = ", ".join(f"{name} {part(name)}" for name in values if name not in common)
    return f"{part('model_type')}: {own or 'by its defaults'}", "as its model initialises itself"


def plain(value: Any) -> str:
    """A list of numbers without its brackets."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
