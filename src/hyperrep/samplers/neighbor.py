"""Neighbourhoods of a map of the latents (paper, S_Neigh)."""

import importlib.util
from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import UserError
from .anchored import AnchoredSampler
from .base import Shapes, settings_class


MAP_SIZE, MAP_NEIGHBORS = 3, 15  # dimensions of the map and neighbours in UMAP's graph, as in the paper's code
MAPS = ("umap", "pca")
NO_UMAP = "method neighbor needs umap-learn: pip install 'hyperrep[umap]', or set map to 'pca' (--set map=pca)."


@settings_class
class NeighborSampler(AnchoredSampler):
    r"""
    Points of a low-dimensional map of the latents, taken back by averaging the latents around them.

    A point is drawn evenly from the cube from the least to the greatest coordinate of the map (paper, section 3.2; its
    code does the same). The latents of its nearest neighbours on the map are averaged, weighted by how near they are:
    by the membership of UMAP, `1 / (1 + a d^(2b))` with its `a` and `b`, or by `1 / (1 + (d / d_k)^2)` on a map of
    principal components. UMAP's own inverse starts from such an average, too, and goes on by gradient descent, for
    which it would have to be stored whole, as a pickle. Here the map is stored, and nothing is fitted at loading.

    Args:
        map (`str`, *optional*, defaults to `"umap"`): `umap` with the settings of the paper's code (15 neighbours,
            min_dist 0.01, 3 dimensions), for which `umap-learn` is needed (`pip install "hyperrep[umap]"`), or `pca`.
        neighbors (`int`, *optional*, defaults to 15): latents that are averaged.
        seed (`int`, *optional*, defaults to 42): of UMAP.
        top, worst, score: see [`AnchoredSampler`].
    """

    method: ClassVar[str] = "neighbor"
    label: ClassVar[str] = "Neigh"
    tabled: ClassVar[bool] = False
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"top": None}, {"top": 0.3})
    state_shapes: ClassVar[Shapes] = {
        **AnchoredSampler.state_shapes,
        "map": (None, MAP_SIZE),
        "curve": (2,),
    }

    map: str = "umap"
    neighbors: int = 15
    seed: int = 42
    top: float | int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.map not in MAPS:
            raise UserError(f"map {self.map!r} is unknown; choose from {', '.join(MAPS)}.")
        if not 1 <= self.neighbors <= 10_000:
            raise UserError(f"neighbors is {self.neighbors}; it must lie between 1 and 10,000.")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed is {self.seed}; it must be from 0 to {2**32 - 1:,}.")

    def check_installed(self) -> None:
        if self.map == "umap" and importlib.util.find_spec("umap") is None:
            raise UserError(NO_UMAP)

    def _learned(self) -> dict[str, Tensor]:
        anchors = self.anchors
        if len(anchors) < MAP_SIZE + 2:
            raise UserError(f"{len(anchors)} latents make no map of {MAP_SIZE} dimensions; {MAP_SIZE + 2} are needed.")
        if self.map == "umap":
            umap = _umap(self.seed, len(anchors))
            mapped = torch.from_numpy(umap.fit_transform(anchors.numpy()))
            curve = torch.tensor([umap._a, umap._b])
        else:
            from sklearn.decomposition import PCA

            mapped = torch.from_numpy(PCA(MAP_SIZE, svd_solver="full").fit_transform(anchors.double().numpy()))
            curve = torch.zeros(2)
        return {"map": mapped.float().contiguous(), "curve": curve.float()}

    def check_state(self) -> None:
        super().check_state()
        if len(self.fitted()["map"]) != len(self.anchors):
            raise UserError(f"the map has {len(self.fitted()['map'])} points; there are {len(self.anchors)} latents.")

    def drawn_from(self) -> dict[str, Tensor]:
        return {"anchors": self.anchors, "map": self.fitted()["map"]}

    def _sample(self, num_samples: int, generator: torch.Generator | None) -> Tensor:
        mapped, (a, b) = self.fitted()["map"], self.fitted()["curve"]
        low, high = mapped.min(), mapped.max()
        points = low + (high - low) * torch.rand(num_samples, MAP_SIZE, generator=generator)
        distances, nearest = torch.cdist(points, mapped).topk(min(self.neighbors, len(mapped)), largest=False)
        if self.map == "umap":
            weights = 1 / (1 + a * distances ** (2 * b))
        else:
            weights = 1 / (1 + (distances / distances[:, -1:].clamp_min(1e-12)).square())
        weights = weights / weights.sum(dim=1, keepdim=True)
        return (weights[:, :, None] * self.anchors[nearest]).sum(dim=1)


def _umap(seed: int, rows: int):
    try:
        from umap import UMAP
    except ImportError as error:
        raise UserError(NO_UMAP) from error
    return UMAP(
        n_neighbors=min(MAP_NEIGHBORS, rows - 1), min_dist=0.01, n_components=MAP_SIZE, random_state=seed, n_jobs=1
    )
