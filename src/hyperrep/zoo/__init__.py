"""Model zoos: published recipes, their resumable build, and the `datasets` folder they end in."""

from .build import build_zoo
from .config import ZooConfig
from .dataset import Zoo, load_zoo, load_zoos, write_zoo_card, zoo_images
from .importing import import_zoo
from .own import write_zoo
from .protocol import PROTOCOLS, Protocol, get_protocol
from .settings import ZooSettings
from .several import import_zoos
from .split import ZooSplit


__all__ = [
    "PROTOCOLS",
    "Protocol",
    "Zoo",
    "ZooConfig",
    "ZooSettings",
    "ZooSplit",
    "build_zoo",
    "get_protocol",
    "import_zoo",
    "import_zoos",
    "load_zoo",
    "load_zoos",
    "write_zoo",
    "write_zoo_card",
    "zoo_images",
]
