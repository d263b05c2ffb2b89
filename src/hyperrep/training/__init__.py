"""Training of a hyper-representation: settings, the Accelerate loop, checkpoints and evaluation."""

from .config import TrainingConfig, parse_overrides
from .evaluation import evaluate_reconstruction
from .loop import train


__all__ = ["TrainingConfig", "evaluate_reconstruction", "parse_overrides", "train"]
