"""Networks in the order, and with the signs, of a reference, whatever their architecture: by the graph of weight space
of the network itself, where [`~hyperrep.representation.alignment`] knows chains of layers alone."""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..networks import example_images, network_from
from ..networks.modules import fresh_module
from ..weights import WeightGraph, WeightLayout
from ..weights.matching import Matching


_lock = threading.Lock()


def graph_of(network: Mapping[str, Any], signs: bool) -> WeightGraph:
    """Symmetries of networks of a configuration.

    Raises:
        UserError: if there can be none, it does not say what images it takes, or it cannot be traced.
    """
    with _lock, torch.device("cpu"):  # torch.export is not made for threads
        graph = _traced(json.dumps(network, sort_keys=True))
    return graph if signs else replace(graph, signs=torch.zeros_like(graph.signs))


@lru_cache(maxsize=8)  # a training checks its networks, and then aligns them
def _traced(network: str) -> WeightGraph:
    config = network_from(json.loads(network))
    return WeightGraph.of(fresh_module(config, seed=0), example_images(config))


def canonical(weights: Tensor, reference: Tensor, layout: Sequence[Sequence], graph: WeightGraph) -> Tensor:
    """Each network with the order and signs of its units that bring it closest to the reference, by coordinate descent
    from inputs and outputs inwards ([`~hyperrep.weights.match`] without its start from units as they come): so the
    result does not depend on the order and signs that units came in. Functions stay as they are.

    Args:
        weights (`Tensor`): (networks, num_params), on any device; gradients flow through.
        reference (`Tensor`): (num_params,).
        layout (`list`): names and shapes of their tensors.
        graph ([`WeightGraph`]): of their architecture.

    Returns:
        `Tensor`: (networks, num_params), new.

    Raises:
        ValueError: if a weight is NaN or infinite.
    """
    finite = torch.isfinite(weights.detach()).all(dim=1)
    if not finite.all():
        raise ValueError(
            f"{int((~finite).sum())} of {len(weights)} networks hold NaN or infinite weights: they cannot be aligned. "
            "Leave them out."
        )
    order = WeightLayout.from_list(layout)
    matching = Matching(graph, order.unvectorize(reference))
    rows = []
    for vector in weights:
        tensors = order.unvectorize(vector)
        for symmetry in matching.closest(tensors):
            tensors = graph.apply(tensors, symmetry)
        rows.append(order.vectorize(tensors))
    return torch.stack(rows) if rows else weights.clone()


__all__ = ["canonical", "graph_of"]
