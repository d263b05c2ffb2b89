"""Training of a hyper-representation: settings, the Accelerate loop, checkpoints and evaluation."""

from .config import TrainingConfig, parse_overrides
from .loop import train
from .measures import evaluate_reconstruction


__all__ = ["TrainingConfig", "evaluate_reconstruction", "parse_overrides", "train"]
