"""Populations to the lanes of the C++ kernels, and back."""

import ctypes
import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import UserError
from ...networks import Network, SmallCNNConfig, check_architecture
from ...networks.skips import skips_of
from ..checks import check_epoch, check_evaluation, check_inputs, check_targets
from ..description import describe, small_cnn
from ..dropout import dropout_thresholds
from ..population import OPTIMIZERS, Evaluation, Population
from .compile import NativeUnavailable, load_library


LARGEST_POOL = 16  # a winner's place in its window fits a byte
SLICES = 16  # of a group's work, so that threads finish together whatever the number of groups,
SMALLEST_SLICE = 500  # unless they had fewer images than this


class NativeEngine:
    """Trains and evaluates small CNNs with one network in each vector lane, a group of lanes at a time.

    A network's arithmetic does not depend on its neighbours, its group or the number of threads.

    Args:
        threads (`int`, *optional*): groups worked on at once; by default one a core this process may use, shared
            with the other processes of a launch.

    Raises:
        NativeUnavailable: if the kernels cannot be compiled here.
        UserError: if `threads` is less than 1.
    """

    name = "native"

    def __init__(self, threads: int | None = None):
        if threads is not None and threads < 1:
            raise UserError(f"threads are {threads}; there must be at least 1.")
        self.library = load_library()
        self.lanes: int = self.library.hyperrep_lanes()
        self.threads = threads or max(1, _cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        self.models_at_once = self.lanes * max(2, self.threads)

    @classmethod
    def for_network(cls, network: Network) -> "NativeEngine":
        """An engine for networks of this architecture.

        Raises:
            NativeUnavailable: if the kernels cannot be compiled here, or do not cover the architecture.
            UserError: if there can be no such network.
        """
        if isinstance(network, SmallCNNConfig):
            check_architecture(network)
        try:
            _small_cnn(network)
        except UserError as error:
            raise NativeUnavailable(str(error)) from error
        return cls()

    def train_epoch(self, population: Population, images: Tensor, labels: Tensor, order: Tensor) -> Evaluation:
        images, labels, order = check_epoch(population, images, labels, order)
        network = _small_cnn(population.network)
        recipe, (models, count), description = population.recipe, order.shape, _describe(network)
        pixels, classes, sequence = _floats(images), _array(labels, np.int64), _array(order, np.int64)
        rates, decays = (_floats(population.per_model(name)) for name in ("learning_rate", "weight_decay"))
        dropout = _dropout(population)
        tensors = (population.weights, population.first_moment, population.second_moment)
        # copies, so that Ctrl-C leaves the population as it was
        states = [_floats(tensor).copy() for tensor in tensors]
        loss, correct = np.zeros(models), np.zeros(models, np.int64)

        def train(first_model: int, size: int, stop: np.ndarray) -> Iterator[None]:
            for begin, end in _slices(count, recipe.batch_size):
                _call(
                    self.library.hyperrep_train,
                    *(description, first_model, size, *states),
                    *(OPTIMIZERS.index(recipe.optimizer), rates, decays, float(recipe.momentum), *dropout),
                    *(population.steps + begin // recipe.batch_size, recipe.batch_size),
                    *(pixels, classes, sequence, count, begin, end, loss, correct, stop),
                )
                yield

        self._run(train, models)
        for tensor, state in zip(tensors, states, strict=True):
            tensor.copy_(torch.from_numpy(state))
        population.steps += -(-count // recipe.batch_size)
        return Evaluation(torch.from_numpy(loss / count).float(), torch.from_numpy(correct / count).float())

    def evaluate(
        self, network: Network, weights: Tensor, images: Tensor, labels: Tensor, predictions: bool = False
    ) -> Evaluation:
        weights, images, labels = check_evaluation(network, weights, images, labels)
        network = _small_cnn(network)
        description, source, pixels = _describe(network), _floats(weights), _floats(images)
        classes, count = _array(labels, np.int64), len(images)
        loss, correct = np.zeros(len(source)), np.zeros(len(source), np.int64)
        predicted = np.empty((len(source), count), np.int32) if predictions else None

        def evaluate(first_model: int, size: int, stop: np.ndarray) -> Iterator[None]:
            for begin, end in _slices(count):
                _call(
                    self.library.hyperrep_evaluate,
                    *(description, first_model, size, source),
                    *(pixels, classes, begin, end, loss, correct, predicted, count, stop),
                )
                yield

        self._run(evaluate, len(source))
        return Evaluation(
            torch.from_numpy(loss / count).float(),
            torch.from_numpy(correct / count).float(),
            torch.from_numpy(predicted) if predicted is not None else None,
        )

    def logits(self, network: Network, weights: Tensor, images: Tensor) -> Tensor:
        """Outputs (models, images, classes) of weight vectors (models, num_params) on the same images."""
        weights, images = check_inputs(network, weights, images)
        network = _small_cnn(network)
        description, source, pixels = _describe(network), _floats(weights), _floats(images)
        count = len(images)
        result = np.empty((len(source), count, network.num_classes), np.float32)

        def evaluate(first_model: int, size: int, stop: np.ndarray) -> Iterator[None]:
            for begin, end in _slices(count):
                _call(
                    self.library.hyperrep_logits,
                    *(description, first_model, size, source, pixels, begin, end, result, count, stop),
                )
                yield

        self._run(evaluate, len(source))
        return torch.from_numpy(result)

    def loss_and_gradient(
        self, network: SmallCNNConfig, weights: Tensor, images: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of each model with its targets, and the gradient by its weights.

        Args:
            network ([`SmallCNNConfig`])
            weights (`Tensor`): (models, num_params).
            images (`Tensor`): (images, channels, height, width), the same for all models.
            targets (`Tensor`): (models, images, classes), probabilities that sum to one.

        Returns:
            `tuple[Tensor, Tensor]`: (models,) and (models, num_params).
        """
        weights, images = check_inputs(network, weights, images)
        network = _small_cnn(network)
        description, source, pixels = _describe(network), _floats(weights), _floats(images)
        wanted = _floats(check_targets(network, weights, images, targets))
        loss, gradient = np.empty(len(source)), np.empty_like(source)

        def differentiate(first_model: int, size: int, stop: np.ndarray) -> Iterator[None]:
            _call(
                self.library.hyperrep_loss_gradient,
                *(description, first_model, size, source, pixels, wanted, len(images), loss, gradient, stop),
            )
            yield

        self._run(differentiate, len(source))
        return torch.from_numpy(loss).float(), torch.from_numpy(gradient)

    def _run(self, work, models: int) -> None:
        """Run `work(first_model, size, stop)` for every group of lanes, a slice at a time, in threads.

        ctypes lets go of Python's lock during a slice. On an error, or Ctrl-C, `stop` turns one and every thread
        returns after its current batch.
        """
        stop = np.zeros(1, np.int32)
        waiting = deque(work(i, min(self.lanes, models - i), stop) for i in range(0, models, self.lanes))
        turn = threading.Lock()

        def take_turns() -> None:
            while not stop[0]:
                with turn:
                    if not waiting:
                        return  # whoever still holds a group goes on with it
                    group = waiting.popleft()
                if next(group, "finished") != "finished":
                    waiting.append(group)

        with ThreadPoolExecutor(self.threads) as pool:
            try:
                for thread in [pool.submit(take_turns) for _ in range(min(self.threads, len(waiting)))]:
                    thread.result()
            finally:
                stop[0] = 1


def _small_cnn(network: Network) -> SmallCNNConfig:
    """The network, if the kernels cover it.

    Raises:
        UserError: says why not.
    """
    if reason := small_cnn(network):
        raise UserError(f"the native engine cannot train this network: {reason}")
    assert isinstance(network, SmallCNNConfig)
    if max([1, *network.pool_sizes, *(skip.window for skip in skips_of(network))]) > LARGEST_POOL:
        raise UserError(f"pools over {LARGEST_POOL} are not covered; take vmap")
    return network


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _slices(count: int, batch_size: int = 1) -> Iterator[tuple[int, int]]:
    """Begin and end of parts of 0 ... count - 1, in whole batches: only the very last may be partial."""
    step = -(-max(count // SLICES, SMALLEST_SLICE) // batch_size) * batch_size
    for begin in range(0, count, step):
        yield begin, min(begin + step, count)


def _describe(network: SmallCNNConfig) -> np.ndarray:
    """The architecture as the kernels read it, see `Network` in network.h."""
    layers, activation = describe(network)
    numbers = [*layers, activation, len(network.skips)]
    for skip in skips_of(network):
        numbers += [skip.source, skip.target, skip.kind == "conv"]
        numbers += [skip.stride, skip.window, skip.offset, skip.target_size]
    return np.array(numbers, np.int32)


def _dropout(population: Population) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Key, threshold and scale of each model as the kernels read them, see dropout.h."""
    dropout = population.dropout()
    if dropout is None:
        return None, None, None
    keys, rates = dropout
    return _array(keys, np.uint32), _array(dropout_thresholds(rates), np.uint32), _floats(1 / (1 - rates))


def _array(tensor: Tensor, dtype: type) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype)


def _floats(tensor: Tensor) -> np.ndarray:
    return _array(tensor, np.float32)


def _call(function: Any, *arguments: Any) -> int:
    """Call a kernel: arrays go as pointers, whole numbers as int64_t, others as float, None as the null pointer."""
    return function(*map(_to_c, arguments))


def _to_c(value: np.ndarray | float | None) -> ctypes.c_void_p | ctypes.c_int64 | ctypes.c_float:
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    if value is None:
        return ctypes.c_void_p(None)
    return ctypes.c_float(value) if isinstance(value, float) else ctypes.c_int64(value)


__all__ = ["NativeEngine", "NativeUnavailable"]
