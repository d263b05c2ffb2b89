"""A zoo of five networks on forty images, for the tests of zoos; the fixtures are in conftest.py."""

from pathlib import Path

from hyperrep.images import ImageData, load_images
from hyperrep.population import choose_engine
from hyperrep.population.loop import LoopEngine
from hyperrep.zoo import Protocol, ZooSettings, build_zoo, get_protocol


MODELS, EPOCHS, MAX_IMAGES = 5, 2, 40


def digits(protocol: Protocol) -> ImageData:
    return load_images("digits", protocol.processor(), protocol.validation_fraction, max_images=MAX_IMAGES)


def settings(**changes) -> ZooSettings:
    return ZooSettings(**{"protocol": get_protocol("digits"), "models": MODELS, "epochs": EPOCHS} | changes)


def stacked_zoo(protocol: Protocol, images: ImageData, folder: Path) -> Path:
    """Twelve networks of any architecture, after none, one and two epochs, by the engine that takes any."""
    engine = choose_engine("vmap", protocol.network_config(images.classes))
    return build_zoo(ZooSettings(protocol, models=12, epochs=2), images, engine, folder)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a zoo but the plot."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".png"
    }


class Interrupting(LoopEngine):
    """Trains like the loop, and gives up in the middle of its call number `calls`."""

    def __init__(self, calls: int | None = None):
        self.calls, self.trained = calls, 0

    def train_epoch(self, population, images, labels, order):
        self.trained += 1
        if self.trained == self.calls:
            population.weights += 1  # half an epoch's work
            raise KeyboardInterrupt
        return super().train_epoch(population, images, labels, order)
