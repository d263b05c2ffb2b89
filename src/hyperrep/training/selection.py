"""The best checkpoint of a run by a metric of the validation split, and when to stop for want of a better one."""

import math
from typing import Any

from .config import TrainingConfig


class ModelSelection:
    """Compares evaluations. What it knows is kept in the run's state, which checkpoints store: a resumed run decides
    as one that was left alone.

    Args:
        config ([`TrainingConfig`]): `metric_for_best_model`, `load_best_model_at_end`, `early_stopping_patience`.
        state (`dict`): of the run; gets `best` (step and value) and `evaluations_since_best`.
    """

    def __init__(self, config: TrainingConfig, state: dict[str, Any]):
        self.config, self.state = config, state
        self.state.setdefault("best", None)
        self.state.setdefault("evaluations_since_best", 0)

    @property
    def best_step(self) -> int | None:
        """Step of the best evaluation so far, if the model is to be taken from there."""
        best = self.state["best"]
        return best["step"] if best and self.config.load_best_model_at_end else None

    def update(self, step: int, evaluation: dict[str, Any]) -> bool:
        """Enter the evaluation of the validation split after `step`; whether it is the best so far.

        A metric that is missing or not finite is never best.
        """
        value, best = metric(evaluation, self.config.metric_for_best_model), self.state["best"]
        sign = 1 if self.config.greater_is_better else -1
        if math.isfinite(value) and (best is None or sign * value > sign * best["value"]):
            self.state |= {"best": {"step": step, "value": value}, "evaluations_since_best": 0}
            return True
        self.state["evaluations_since_best"] += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether `early_stopping_patience` evaluations in a row brought nothing better."""
        patience = self.config.early_stopping_patience
        return patience is not None and self.state["evaluations_since_best"] >= patience


def metric(evaluation: dict[str, Any], name: str) -> float:
    """One number of an evaluation; NaN where it has none."""
    if name == "accuracy":
        return evaluation["accuracy"]["reconstruction"]["mean"]
    return evaluation.get(name, math.nan)


__all__ = ["ModelSelection", "metric"]
