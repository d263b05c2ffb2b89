"""Hyper-representations: learn from a population of neural networks, and sample new ones.

images -> population -> zoo -> hyper-representation -> sampler -> pipeline -> evaluation -> card

Importing the package registers its models with transformers' Auto classes and `pipeline("weight-generation")`.
"""

from . import transformers_pipeline as _transformers_pipeline
from .errors import UserError
from .networks import SmallCNNConfig, SmallCNNForImageClassification, SmallCNNImageProcessor
from .pipeline import HyperRepPipeline
from .representation import HyperRepConfig, HyperRepModel
from .samplers import KDESampler, UniformSampler
from .version import __version__
from .weights import WeightLayout
from .zoo import Zoo, load_zoo, load_zoos, write_zoo


_transformers_pipeline.register()

__all__ = [
    "HyperRepConfig",
    "HyperRepModel",
    "HyperRepPipeline",
    "KDESampler",
    "SmallCNNConfig",
    "SmallCNNForImageClassification",
    "SmallCNNImageProcessor",
    "UniformSampler",
    "UserError",
    "WeightLayout",
    "Zoo",
    "__version__",
    "load_zoo",
    "load_zoos",
    "write_zoo",
]
