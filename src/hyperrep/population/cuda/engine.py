"""Populations to the blocks of a GPU, and back."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...errors import UserError
from ...networks import Network, SmallCNNConfig, check_architecture
from ..checks import check_epoch, check_evaluation, check_inputs
from ..description import describe, small_cnn
from ..dropout import dropout_thresholds
from ..population import ADAM_BETAS, OPTIMIZERS, Evaluation, Population
from .compile import Constants, CudaUnavailable, Kernels
from .memory import LARGEST_CAPACITY, fitting, shared_bytes


THREADS = 512  # of a block, one block a multiprocessor
LAUNCHES = 16  # of an epoch: Ctrl-C is heard between two
BLOCKS_PER_PROCESSOR = 8  # keep a GPU busy; the last ones then leave little of it idle


class CudaEngine:
    """Trains and evaluates small CNNs on a GPU, each in a block of its own that keeps it in shared memory.

    A network's arithmetic does not depend on its neighbours.

    Args:
        device (`str`, *optional*, defaults to `"cuda"`)

    Raises:
        CudaUnavailable: if there is no NVIDIA GPU.
    """

    name = "cuda"

    def __init__(self, device: str | torch.device = "cuda"):
        if not torch.cuda.is_available() or torch.version.hip:
            raise CudaUnavailable("there is no NVIDIA GPU that PyTorch can use")
        self.device = torch.device(device)
        properties: Any = torch.cuda.get_device_properties(self.device)
        self.processors: int = properties.multi_processor_count
        self.shared_memory: int = properties.shared_memory_per_block_optin
        self.threads = THREADS
        self.models_at_once = BLOCKS_PER_PROCESSOR * self.processors
        self._loaded: dict[Constants, Callable[..., None]] = {}

    @classmethod
    def for_network(cls, network: Network) -> "CudaEngine":
        """An engine for networks of this architecture, whose kernels are compiled.

        Raises:
            CudaUnavailable: if there is no GPU, or the kernels do not cover the architecture.
            UserError: if there can be no such network.
        """
        if isinstance(network, SmallCNNConfig):
            check_architecture(network)
        engine = cls()
        try:
            constants = engine._constants(network, LARGEST_CAPACITY)
        except UserError as error:
            raise CudaUnavailable(str(error)) from error
        engine._kernels(constants)
        return engine

    def train_epoch(self, population: Population, images: Tensor, labels: Tensor, order: Tensor) -> Evaluation:
        images, labels, order = check_epoch(population, images, labels, order)
        recipe, (models, count) = population.recipe, order.shape
        constants = self._constants(population.network, recipe.batch_size)
        kernels = self._kernels(constants)
        tensors = (population.weights, population.first_moment, population.second_moment)
        # copies, so that Ctrl-C leaves the population as it was
        states = [self._floats(tensor).clone() for tensor in tensors]
        rates, decays = (self._floats(population.per_model(name)) for name in ("learning_rate", "weight_decay"))
        drops, keys, thresholds, scales = self._dropout(population)
        pixels, classes, sequence = self._floats(images), self._whole(labels), self._whole(order)
        loss = torch.zeros(models, dtype=torch.float64, device=self.device)
        correct = torch.zeros(models, dtype=torch.int32, device=self.device)
        batches = -(-count // recipe.batch_size)
        at_once = -(-batches // LAUNCHES)
        for first in range(0, batches, at_once):
            steps = min(at_once, batches - first)
            corrections = self._floats(_corrections(population.steps + first + 1, steps))
            begin, end = first * recipe.batch_size, min((first + steps) * recipe.batch_size, count)
            kernels(
                "hyperrep_train",
                (models, 1),
                *(*states, OPTIMIZERS.index(recipe.optimizer), rates, decays, corrections, float(recipe.momentum)),
                *(drops, keys, thresholds, scales, pixels, classes, sequence, count, begin, end),
                *(recipe.batch_size, steps, loss, correct),
            )
            correct.sum().item()  # wait, so that Ctrl-C is heard
        for tensor, state in zip(tensors, states, strict=True):
            tensor.copy_(state)
        population.steps += batches
        return Evaluation((loss / count).float().cpu(), (correct / count).float().cpu())

    def evaluate(
        self, network: Network, weights: Tensor, images: Tensor, labels: Tensor, predictions: bool = False
    ) -> Evaluation:
        weights, images, labels = check_evaluation(network, weights, images, labels)
        loss, correct, predicted, _ = self._test(network, weights, images, labels, logits=False)
        return Evaluation(
            (loss / len(images)).float().cpu(),
            (correct / len(images)).float().cpu(),
            predicted.cpu() if predictions else None,
        )

    def logits(self, network: Network, weights: Tensor, images: Tensor) -> Tensor:
        """Outputs (models, images, classes) of weight vectors (models, num_params) on the same images."""
        weights, images = check_inputs(network, weights, images)
        labels = torch.zeros(len(images), dtype=torch.int64)
        return self._test(network, weights, images, labels, logits=True)[-1].cpu()

    def _test(
        self, network: Network, weights: Tensor, images: Tensor, labels: Tensor, logits: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Loss and hits, summed over images, (models,), classes (models, images) and, if asked for, logits."""
        models, count = len(weights), len(images)
        constants = self._constants(network, LARGEST_CAPACITY)
        slices = max(1, min(-(-count // constants.capacity), -(-self.models_at_once // models)))
        outputs = constants.shape[-1] if logits else 0
        loss = torch.empty(models, slices, dtype=torch.float64, device=self.device)
        correct = torch.empty(models, slices, dtype=torch.int32, device=self.device)
        predicted = torch.empty(models, count, dtype=torch.int32, device=self.device)
        kept = torch.empty(models, count, outputs, device=self.device)
        self._kernels(constants)(
            "hyperrep_test",
            (models, slices),
            *(self._floats(weights), self._floats(images), self._whole(labels), count, slices),
            *(loss, correct, predicted, kept, int(logits)),
        )
        return loss.sum(1), correct.sum(1), predicted, kept

    def _constants(self, network: Network, images: int) -> Constants:
        """What the kernels are compiled for that have `images` images to work on at once.

        Raises:
            UserError: says what is not covered.
        """
        if reason := small_cnn(network):
            raise UserError(f"the CUDA engine cannot train this network: {reason}")
        assert isinstance(network, SmallCNNConfig)
        if network.skips:
            raise UserError("the CUDA engine does not cover skips; take vmap")
        shape, activation = describe(network)
        constants = fitting(tuple(shape), activation, self.threads, images, self.shared_memory)
        if constants is None:
            raise UserError("a network and one image do not fit the shared memory of a GPU's block; take vmap")
        return constants

    def _kernels(self, constants: Constants) -> Callable[..., None]:
        if constants not in self._loaded:
            self._loaded[constants] = Kernels(constants, shared_bytes(constants), self.device)
        return self._loaded[constants]

    def _dropout(self, population: Population) -> tuple[int, Tensor, Tensor, Tensor]:
        dropout = population.dropout()
        if dropout is None:
            none = torch.zeros(1, device=self.device)
            return 0, none, none, none
        keys, rates = dropout
        # 32 bits without a sign, in int64
        keys, thresholds = (values.to(torch.uint32).to(self.device) for values in (keys, dropout_thresholds(rates)))
        return 1, keys, thresholds, self._floats(1 / (1 - rates))

    def _floats(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self.device, torch.float32).contiguous()

    def _whole(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(torch.int32).to(self.device).contiguous()


def _corrections(first_step: int, steps: int) -> Tensor:
    """Of Adam's two moments at consecutive steps, (2, steps): 1 / (1 - beta1^t), 1 / sqrt(1 - beta2^t)."""
    step = torch.arange(first_step, first_step + steps, dtype=torch.float64)
    beta1, beta2 = ADAM_BETAS
    return torch.stack([1 / (1 - beta1**step), (1 - beta2**step) ** -0.5])
