"""Model zoos: published recipes, their resumable build, and the `datasets` folder they end in."""

from .build import build_zoo
from .dataset import Zoo, ZooConfig, ZooSplit, load_zoo, zoo_images
from .protocol import PROTOCOLS, Protocol, get_protocol
from .settings import ZooSettings


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
