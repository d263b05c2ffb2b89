"""Numbers of the poster (arXiv 2209.14733), to stand beside ours."""

from collections.abc import Iterator, Mapping, Sequence

from ..results import ResultRow
from ..tables import Table


Published = Mapping[tuple[str, str], Mapping[str, Mapping[int, tuple[float, float]]]]

# by protocol of the zoo and of the target, method and epoch: mean and std of test accuracy in per cent
PUBLISHED: Published = {
    ("mnist", "mnist"): {
        "B_T": {1: (20.6, 1.6), 25: (83.3, 2.6), 50: (91.1, 2.6)},
        "B_KDE30": {0: (63.2, 7.2), 1: (83.2, 1.2), 25: (93.2, 0.6)},
        "S_KDE30": {0: (68.6, 6.7), 1: (83.7, 1.3), 25: (93.0, 0.7)},
    },
    ("svhn", "svhn"): {
        "B_T": {1: (19.4, 0.6), 25: (66.7, 8.5), 50: (70.7, 8.8)},
        "B_KDE30": {0: (10.1, 3.2), 1: (67.4, 2.0), 25: (75.4, 0.9)},
        "S_KDE30": {0: (51.5, 5.9), 1: (69.9, 1.6), 25: (74.2, 1.4)},
    },
    ("cifar10", "cifar10"): {
        "B_T": {1: (27.5, 2.1), 25: (46.1, 1.3), 50: (48.7, 1.4)},
        "B_KDE30": {0: (15.5, 3.4), 1: (39.7, 0.6), 25: (48.1, 0.6)},
        "S_KDE30": {0: (26.9, 4.9), 1: (44.0, 0.5), 25: (48.6, 0.5)},
    },
    ("stl10", "stl10"): {
        "B_T": {1: (15.4, 1.8), 25: (35.0, 1.3), 50: (39.0, 1.0)},
        "B_KDE30": {0: (12.7, 3.4), 1: (26.4, 1.6), 25: (38.4, 0.9)},
        "S_KDE30": {0: (19.7, 2.1), 1: (25.9, 1.6), 25: (38.1, 1.1)},
    },
    ("svhn", "mnist"): {
        "B_T": {0: (10.0, 0.6), 1: (20.6, 1.6), 50: (91.1, 1.0)},
        "B_F": {0: (33.4, 5.4), 1: (84.4, 7.4), 50: (95.0, 0.8)},
        "S_KDE30": {0: (31.8, 5.6), 1: (86.9, 1.4), 50: (95.5, 0.4)},
    },
}
# the same of networks of other architectures, random and generated
PUBLISHED_ARCHITECTURES: Published = {
    ("svhn", "svhn"): {
        "3-conv + res-skip, random": {1: (18.9, 1.6), 5: (31.4, 17), 50: (50.6, 28)},
        "3-conv + res-skip, generated": {1: (34.5, 14), 5: (60.5, 21), 50: (68.0, 21)},
        "4-conv, random": {1: (19.2, 1.0), 5: (19.2, 0.9), 50: (55.2, 11)},
        "4-conv, generated": {1: (44.0, 4.5), 5: (57.8, 3.5), 50: (67.6, 1.9)},
        "4-conv + identity skip, random": {1: (18.9, 1.0), 5: (19.6, 1.7), 50: (56.4, 7.9)},
        "4-conv + identity skip, generated": {1: (48.0, 4.0), 5: (59.9, 2.5), 50: (66.4, 1.7)},
    }
}

# R² or accuracy in per cent from weights, their statistics and latents, of zoos of a grid of hyper-parameters
# (arXiv 2110.15288): other grids than ours
PUBLISHED_PROPERTIES: Mapping[str, Mapping[str, tuple[float | None, float, float]]] = {
    # a zoo of seeds, as arXiv 2406.09997, table 10, quotes it; weights are not in it
    "mnist": {
        "test_accuracy": (None, 97.7, 97.3),
        "epoch": (None, 98.7, 98.9),
        "generalization_gap": (None, 66.2, 66.7),
    },
    "mnist-grid": {
        "epoch": (25.8, 33.2, 50.0),
        "test_accuracy": (74.7, 81.5, 94.9),
        "generalization_gap": (23.4, 24.4, 27.4),
        "learning_rate": (29.3, 34.3, 37.1),
        "weight_decay": (12.5, 16.5, 20.1),
        "dropout": (28.5, 19.2, 35.8),
        "train_fraction": (3.8, 7.8, 15.9),
        "hidden_act": (88.6, 81.1, 88.7),
        "initializer": (94.6, 72.0, 80.6),
        "optimizer": (76.7, 65.4, 66.4),
    },
}


def beside_published(
    tables: Sequence[Table], rows: Sequence[ResultRow], published: Published = PUBLISHED
) -> list[Table]:
    """Tables with lines of what was published below those of test accuracy, where zoo and target are the poster's.

    Args:
        tables (`list[Table]`): the first is of test accuracy, with columns method, variant, n, epochs.
        rows (`list[ResultRow]`): what they were made of; their settings name the protocols.
        published (`Mapping`, *optional*): those of the main table and of transfer by default.
    """
    places = {(row.settings.get("protocol"), row.settings.get("target_protocol")) for row in rows}
    known = [published[place] for place in places if place in published]  # type: ignore[index]
    if not known:
        return list(tables)
    (title, header, lines), *others = tables
    return [(title, header, [*lines, *_lines(known[0], header)]), *others]


def _lines(known: Mapping[str, Mapping[int, tuple[float, float]]], header: Sequence[str]) -> Iterator[list[str]]:
    epochs = [int(name.removeprefix("epoch ")) for name in header[3:]]
    for method, numbers in known.items():
        cells = [f"{numbers[epoch][0]} ± {numbers[epoch][1]}" if epoch in numbers else "" for epoch in epochs]
        yield [method, "published", "", *cells]
