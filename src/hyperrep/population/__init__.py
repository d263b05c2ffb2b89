"""Train and evaluate many small networks at once: one interface, several engines.

A network is defined by its seed alone. Its initial weights and its image order come from it, whatever the engine, the
other networks in the population or the order of work; every engine follows the plain loop up to float rounding.
"""

from .differentiable import population_answers, population_cross_entropy, population_logits
from .engines import ENGINES, choose_engine
from .population import Engine, Evaluation, Population, Recipe, image_order
from .statistics import REFRESH_IMAGES, refresh_statistics
from .train import EpochResult, train_on, train_population


__all__ = [
    "ENGINES",
    "REFRESH_IMAGES",
    "Engine",
    "EpochResult",
    "Evaluation",
    "Population",
    "Recipe",
    "choose_engine",
    "image_order",
    "population_answers",
    "population_cross_entropy",
    "population_logits",
    "refresh_statistics",
    "train_on",
    "train_population",
]
