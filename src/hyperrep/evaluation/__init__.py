"""Is a generated population better than training from scratch, and is it new?"""

from ..results import ResultRow, machine_name, read_results, results_table, write_results
from .bench import Bench
from .experiment import Experiment, experiment_class, experiment_names, setting
from .experiments.finetune import Finetune
from .novelty import error_similarity, nearest_similarity
from .progress import Progress
from .report import run_experiment


__all__ = [
    "Bench",
    "Experiment",
    "Finetune",
    "Progress",
    "ResultRow",
    "error_similarity",
    "experiment_class",
    "experiment_names",
    "machine_name",
    "nearest_similarity",
    "read_results",
    "results_table",
    "run_experiment",
    "setting",
    "write_results",
]
