"""Model zoos: published recipes, their resumable build, and the `datasets` folder they end in."""

from .build import ZooSettings, build_zoo
from .dataset import Zoo, ZooConfig, ZooSplit, load_zoo, zoo_images
from .protocol import PROTOCOLS, Protocol, get_protocol


__all__ = [
    "PROTOCOLS",
    "Protocol",
    "Zoo",
    "ZooConfig",
    "ZooSettings",
    "ZooSplit",
    "build_zoo",
    "get_protocol",
    "load_zoo",
    "zoo_images",
]
