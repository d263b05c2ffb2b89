"""Is a generated population better than training from scratch, and is it new?"""

from ..results import ResultRow, machine_name, read_results, results_table, write_results
from .finetune import evaluate_finetune
from .novelty import error_similarity, nearest_similarity
from .populations import FinetuneSettings
from .progress import Progress


__all__ = [
    "FinetuneSettings",
    "Progress",
    "ResultRow",
    "error_similarity",
    "evaluate_finetune",
    "machine_name",
    "nearest_similarity",
    "read_results",
    "results_table",
    "write_results",
]
