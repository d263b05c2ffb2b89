"""Populations to the lanes of the C++ kernels, and back."""

import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ...networks import SmallCNNConfig
from ..population import OPTIMIZERS, Evaluation, Population
from .compile import NativeUnavailable, load_library


ACTIVATION_CODES = {"tanh": 0, "relu": 1, "gelu": 2, "sigmoid": 3}
LARGEST_POOL = 16  # a winner's place in its window fits a byte
LARGEST_CLASSES = 256  # a predicted class fits a byte
IMAGES_PER_CALL = 2_000  # how long Ctrl-C may have to wait: a fraction of a second


class NativeEngine:
    """Trains and evaluates small CNNs with one network in each vector lane, a group of lanes at a time.

    A network's arithmetic does not depend on its neighbours, its group or the number of threads.

    Args:
        threads (`int`, *optional*): groups worked on at once; by default one a core this process may use.

    Raises:
        NativeUnavailable: if the kernels cannot be compiled here.
    """

    name = "native"

    def __init__(self, threads: int | None = None):
        self.library = load_library()
        self.lanes: int = self.library.hyperrep_lanes()
        self.threads = threads or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else [1])

    @classmethod
    def for_network(cls, network: SmallCNNConfig) -> "NativeEngine":
        """An engine for networks of this architecture.

        Raises:
            NativeUnavailable: if the kernels cannot be compiled here, or do not cover the architecture.
        """
        if network.hidden_act not in ACTIVATION_CODES:
            raise NativeUnavailable(f"activation {network.hidden_act!r} is not one of {', '.join(ACTIVATION_CODES)}")
        if max(network.pool_sizes, default=1) > LARGEST_POOL or network.num_classes > LARGEST_CLASSES:
            raise NativeUnavailable(
                f"pools over {LARGEST_POOL} or more than {LARGEST_CLASSES} classes are not covered"
            )
        return cls()

    def train_epoch(self, population: Population, images: Tensor, labels: Tensor, order: Tensor) -> Evaluation:
        recipe, count = population.recipe, order.shape[1]
        description, pixels = _describe(population.network), _floats(images)
        classes, order_array = _array(labels, np.int64), _array(order, np.int64)
        learning_rates, weight_decays = (
            _floats(population.per_model(name)) for name in ("learning_rate", "weight_decay")
        )
        loss, correct = np.zeros(len(population)), np.zeros(len(population), np.int64)
        states = (population.weights, population.first_moment, population.second_moment)
        # whole batches a call, so that only the epoch's last batch can be a partial one
        per_call = max(1, IMAGES_PER_CALL // recipe.batch_size) * recipe.batch_size

        def train(group: np.ndarray, stop: threading.Event) -> Callable[[], None]:
            lanes = self._pad(group)
            packed = [_pack(_floats(state)[lanes]) for state in states]
            lane_order = np.ascontiguousarray(order_array[lanes])
            lane_loss, lane_correct = np.zeros(self.lanes), np.zeros(self.lanes, np.int64)
            lane_rates, lane_decays = learning_rates[lanes], weight_decays[lanes]
            for start in range(0, count, per_call):
                if stop.is_set():
                    break
                self.library.hyperrep_train(
                    _pointer(description),
                    *(_pointer(state) for state in packed),
                    OPTIMIZERS.index(recipe.optimizer),
                    _pointer(lane_rates),
                    _pointer(lane_decays),
                    ctypes.c_float(recipe.momentum),
                    ctypes.c_int64(population.steps + start // recipe.batch_size),
                    _pointer(pixels),
                    _pointer(classes),
                    ctypes.c_void_p(lane_order.ctypes.data + 8 * start),
                    ctypes.c_int64(count),
                    ctypes.c_int64(min(per_call, count - start)),
                    ctypes.c_int64(recipe.batch_size),
                    _pointer(lane_loss),
                    _pointer(lane_correct),
                )

            def write() -> None:
                for state, values in zip(states, packed, strict=True):
                    state[torch.from_numpy(group)] = torch.from_numpy(values.T[: len(group)].copy()).to(state.device)
                loss[group], correct[group] = lane_loss[: len(group)], lane_correct[: len(group)]

            return write

        for write in self._run(train, len(population)):
            write()
        population.steps += -(-count // recipe.batch_size)
        return Evaluation(torch.from_numpy(loss / count).float(), torch.from_numpy(correct / count).float())

    def evaluate(
        self, network: SmallCNNConfig, weights: Tensor, images: Tensor, labels: Tensor, predictions: bool = False
    ) -> Evaluation:
        losses, accuracies, classes = [], [], []
        for chunk in weights.split(self.lanes * self.threads):
            logits = self.logits(network, chunk, images)
            targets = labels.expand(len(chunk), -1)
            losses.append(torch.nn.functional.cross_entropy(logits.mT, targets, reduction="none").mean(1))
            classes.append(logits.argmax(-1).to(torch.uint8))
            accuracies.append((classes[-1] == targets).float().mean(1))
        return Evaluation(torch.cat(losses), torch.cat(accuracies), torch.cat(classes) if predictions else None)

    def logits(self, network: SmallCNNConfig, weights: Tensor, images: Tensor) -> Tensor:
        """Outputs (models, images, classes) of weight vectors (models, num_params) on the same images."""
        description, pixels, source = _describe(network), _floats(images), _floats(weights)
        result = np.empty((len(weights), len(images), network.num_classes), np.float32)

        def evaluate(group: np.ndarray, stop: threading.Event) -> None:
            packed = _pack(source[self._pad(group)])
            for start in range(0, len(images), IMAGES_PER_CALL):
                if stop.is_set():
                    return
                part = pixels[start : start + IMAGES_PER_CALL]
                outputs = np.empty((self.lanes, len(part), network.num_classes), np.float32)
                self.library.hyperrep_logits(
                    _pointer(description),
                    _pointer(packed),
                    _pointer(part),
                    ctypes.c_int64(len(part)),
                    _pointer(outputs),
                )
                result[group, start : start + len(part)] = outputs[: len(group)]

        self._run(evaluate, len(weights))
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
        description, pixels, source, wanted = _describe(network), _floats(images), _floats(weights), _floats(targets)
        loss, gradient = np.empty(len(weights)), np.empty_like(source)

        def differentiate(group: np.ndarray, stop: threading.Event) -> None:
            lanes = self._pad(group)
            packed, lane_targets = _pack(source[lanes]), np.ascontiguousarray(wanted[lanes])
            lane_loss, lane_gradient = np.empty(self.lanes), np.empty_like(packed)
            self.library.hyperrep_loss_gradient(
                _pointer(description),
                _pointer(packed),
                _pointer(pixels),
                _pointer(lane_targets),
                ctypes.c_int64(len(images)),
                _pointer(lane_loss),
                _pointer(lane_gradient),
            )
            loss[group], gradient[group] = lane_loss[: len(group)], lane_gradient.T[: len(group)]

        self._run(differentiate, len(weights))
        return torch.from_numpy(loss).float(), torch.from_numpy(gradient)

    def _pad(self, group: np.ndarray) -> np.ndarray:
        """A full group of lanes: the last network again where models run out."""
        return np.concatenate([group, np.full(self.lanes - len(group), group[-1])])

    def _run(self, work: Callable, models: int) -> list:
        """Work on groups of lanes in threads; ctypes lets go of Python's lock. Ctrl-C stops all of them."""
        groups = [np.arange(i, min(i + self.lanes, models)) for i in range(0, models, self.lanes)]
        stop = threading.Event()
        with ThreadPoolExecutor(self.threads) as pool:
            futures = [pool.submit(work, group, stop) for group in groups]
            try:
                return [future.result() for future in futures]
            except BaseException:
                stop.set()
                raise


def _describe(network: SmallCNNConfig) -> np.ndarray:
    """The architecture as the kernels read it, see `Network` in network.h."""
    channels, sizes, widths = (
        [network.num_channels, *network.conv_channels],
        network.feature_sizes,
        network.linear_sizes,
    )
    numbers = [len(network.conv_channels)]
    for i, (kernel, pool) in enumerate(zip(network.conv_kernel_sizes, network.pool_sizes, strict=True)):
        numbers += [channels[i], sizes[i], channels[i + 1], kernel, pool]
    numbers.append(len(widths) - 1)
    for i in range(len(widths) - 1):
        numbers += [widths[i], widths[i + 1]]
    return np.array([*numbers, ACTIVATION_CODES[network.hidden_act]], np.int32)


def _array(tensor: Tensor, dtype: type) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype)


def _floats(tensor: Tensor) -> np.ndarray:
    return _array(tensor, np.float32)


def _pack(rows: np.ndarray) -> np.ndarray:
    """(lanes, num_params) to (num_params, lanes)."""
    return np.ascontiguousarray(rows.T)


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


__all__ = ["NativeEngine", "NativeUnavailable"]
