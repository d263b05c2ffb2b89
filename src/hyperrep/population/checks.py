"""The door to all engines: what they are given fits together, so that none reads beyond an array, stretches one number
over many networks, or trains an image with another one's label."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from ..errors import UserError
from ..networks import Network, check_architecture, input_shape, num_classes, num_params
from .population import Population


def check_epoch(
    population: Population, images: Tensor, labels: Tensor, order: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Whether a population can be trained for an epoch; see [`Engine.train_epoch`] for the arguments.

    Returns:
        `tuple[Tensor, Tensor, Tensor]`: images in the weights' precision, labels and order as int64.

    Raises:
        UserError: says what does not fit.
    """
    _, images, labels = check_evaluation(population.network, population.weights, images, labels)
    models = len(population)
    for name in ("weights", "first_moment", "second_moment"):
        tensor = getattr(population, name)
        _floats(name, tensor, population.weights.shape)
        overlaps = any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride()))
        if overlaps or tensor.requires_grad or tensor.is_inference():
            raise UserError(f"{name} cannot be changed in place, row by row: give .detach().clone().")
    if not isinstance(population.steps, int) or population.steps < 0:
        raise UserError(f"steps is {population.steps!r}; it must be a whole number, at least 0.")
    for name, largest in {"learning_rates": math.inf, "weight_decays": math.inf, "dropouts": 1.0}.items():
        values = getattr(population, name)
        if values is None:
            continue
        _floats(name, values, [models])
        if not (values.min() >= 0 and values.max() < largest):  # false for NaN, too
            raise UserError(
                f"{name} run from {values.min():g} to {values.max():g}; 0 to below {largest:g} are needed."
            )
    if population.dropout_keys is not None:
        _whole("dropout_keys", population.dropout_keys, [models], 2**32)
    order = _whole("order", order, [models, None], len(images), "there are {} images")
    if not order.shape[1]:
        raise UserError("order names no image.")
    return images, labels, order


def check_evaluation(
    network: Network, weights: Tensor, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Whether networks can be evaluated; see [`Engine.evaluate`] for the arguments.

    Returns:
        `tuple[Tensor, Tensor, Tensor]`: weights and images in one precision, labels as int64.

    Raises:
        UserError: says what does not fit.
    """
    weights, images = (tensor.detach() for tensor in check_inputs(network, weights, images))
    # how many outputs another module has, only its forward pass can tell
    classes = num_classes(network) if isinstance(network, PreTrainedConfig) else None
    return weights, images, _whole("labels", labels, [len(images)], classes, "the network has {} classes")


def check_inputs(network: Network, weights: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Whether weights (models, num_params) and images (images, ...) are those of a network.

    Returns:
        `tuple[Tensor, Tensor]`: weights and images, as float32, or float64 where the weights are.

    Raises:
        UserError: says what does not fit.
    """
    if isinstance(network, PreTrainedConfig):
        check_architecture(network)
        shape: Sequence[int | None] = [None, *input_shape(network)]
    else:
        shape = [None, *images.shape[1:]]
    weights = _floats("weights", weights, [None, num_params(network)])
    if not len(weights):
        raise UserError("there are no networks: weights have no row.")
    precision = torch.promote_types(weights.dtype, torch.float32)
    return weights.to(precision), _floats("images", images, shape).to(precision)


def check_targets(network: PreTrainedConfig, weights: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """Targets (models, images, classes).

    Raises:
        UserError: if they have another shape.
    """
    return _floats("targets", targets, [len(weights), len(images), num_classes(network)])


def _floats(name: str, values: Tensor, shape: Sequence[int | None]) -> Tensor:
    if not isinstance(values, Tensor) or values.layout != torch.strided or values.is_meta:
        kind = f"a {values.layout} tensor on {values.device}" if isinstance(values, Tensor) else type(values).__name__
        raise UserError(f"{name} are {kind}; a dense torch.Tensor with values is needed.")
    if not values.is_floating_point():
        raise UserError(f"{name} are {values.dtype}; floating-point numbers are needed.")
    _check_shape(name, values, shape)
    return values


def _whole(
    name: str, values: Tensor, shape: Sequence[int | None], end: int | None, why: str = "they must be less than {}"
) -> Tensor:
    """Whole numbers from 0 to `end` - 1."""
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise UserError(f"{name} are {values.dtype}; whole numbers are needed.")
    _check_shape(name, values, shape)
    values = values.long()
    if values.numel() and (values.min() < 0 or (end is not None and values.max() >= end)):
        raise UserError(f"{name} run from {values.min()} to {values.max()}, but {why.format(end)}.")
    return values


def _check_shape(name: str, values: Tensor, shape: Sequence[int | None]) -> None:
    if len(values.shape) != len(shape) or any(s not in (None, size) for s, size in zip(shape, values.shape)):
        needed = ", ".join("any" if size is None else str(size) for size in shape)
        raise UserError(f"{name} are {tuple(values.shape)}; ({needed}) is needed.")
