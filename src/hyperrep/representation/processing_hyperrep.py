"""Between networks and what a hyper-representation reads: what a tokenizer is to text.

weights (batch, num_params) -> units in canonical order -> standardised -> neuron tokens, layer by layer, and back
"""

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from .alignment import align
from .configuration_hyperrep import HyperRepConfig
from .windows import cut, joined, places_of


MIN_LAYER_STD = 1e-4  # floor of sigma_l, as in the NeurIPS 2022 code
MIN_VARIANCE = 0.01  # for a running variance that cannot be, as a share of its mean in the zoo


class HyperRepProcessor(nn.Module):
    r"""
    Weight vectors to neuron tokens and back. What it has learned of the zoo is part of the model's checkpoint, and
    stays float32 in a model of another type.

    Example:

    ```python
    >>> processor = model.processor
    >>> tokens = processor(processor.align(weights))  # one tensor a layer: (batch, num_units, token_size)
    >>> weights = processor.decode(tokens)            # (batch, num_params)
    ```

    Args:
        config ([`HyperRepConfig`])

    Attributes:
        layer_mean, layer_std (`Tensor`): (num_parts,), mu_l and sigma_l of the poster's loss: of each layer's weights
            and biases, and of what else its units have ([`HyperRepConfig.parts`]).
        reference (`Tensor`, *optional*): (num_params,), the network that others are aligned to; `None` in a model that
            was not trained on aligned networks.
        layer_sizes (`list[int]`): lengths of their slices.
    """

    layer_mean: Tensor
    layer_std: Tensor
    reference: Tensor | None

    def __init__(self, config: HyperRepConfig):
        super().__init__()
        self.config, self.layers = config, config.layers
        self.layer_sizes = [size for _, size in config.parts]
        self.num_params = sum(self.layer_sizes)
        self.is_variance = [name.endswith("running_var") for name, _ in config.parts]
        self.register_buffer("layer_mean", torch.zeros(len(self.layer_sizes), dtype=torch.float32))
        self.register_buffer("layer_std", torch.ones(len(self.layer_sizes), dtype=torch.float32))
        reference = torch.zeros(self.num_params, dtype=torch.float32) if config.aligned else None
        self.register_buffer("reference", reference)
        self.graph: Any = None  # of the network's symmetries, found when it is asked for
        self._entries: Tensor | None = None  # of each token of one width
        self._coordinates: Tensor | None = None

    @torch.no_grad()
    def fit(self, weights: Tensor, reference: Tensor | None = None) -> "HyperRepProcessor":
        """Learn mu_l and sigma_l of every layer: one mean and one standard deviation over all of its entries, weights
        and bias together, and others for what else its units have. The order of units does not matter to them.

        Args:
            weights (`Tensor`): (checkpoints, num_params), the training split.
            reference (`Tensor`, *optional*): (num_params,), the network that others will be aligned to.

        Raises:
            ValueError: if the weights have another shape, or the model is not one of aligned networks.
        """
        check_width("weights", weights, self.num_params)
        for i, values in enumerate(weights.float().split(self.layer_sizes, dim=1)):
            self.layer_mean[i] = values.mean()
            self.layer_std[i] = values.std().clamp_min(MIN_LAYER_STD)
        if reference is not None:
            if self.reference is None:
                raise ValueError("a model that aligns no networks has no reference; set aligned in its configuration.")
            self.reference.copy_(reference)
        return self

    def align(self, weights: Tensor) -> Tensor:
        """Weights (batch, num_params) with hidden units in the order that the model was trained to see, and with their
        signs where it was trained so: close to the reference network, if there is one. Gradients flow through.

        Raises:
            ValueError: if the weights have another shape, or are to be aligned and not finite.
        """
        check_width("weights", weights, self.num_params)
        if self.reference is None:
            return weights
        if self.config.symmetries == "chain":
            return align(weights, self.reference, self.config.layout)
        try:  # this file may travel without the package, and so do all that it needs otherwise
            canonical = importlib.import_module("hyperrep.representation.canonical")
        except ImportError as error:
            raise ImportError("networks are aligned by tracing them here: pip install hyperrep") from error
        if self.graph is None:
            self.graph = canonical.graph_of(self.config.network or {}, signs=self.config.symmetries == "signs")
        return canonical.canonical(weights, self.reference, self.config.layout, self.graph)

    def forward(self, weights: Tensor) -> list[Tensor]:
        """Neuron tokens, one tensor a layer: (batch, num_units, token_size). A token is one output unit: its incoming
        weights, its bias, and what else it has, standardised if the configuration says so. Where all tokens have one
        width, units are cut into these, and there is one tensor (batch, num_tokens, token_size).

        Args:
            weights (`Tensor`): (batch, num_params), aligned already.

        Raises:
            ValueError: if the weights have another shape.
        """
        check_width("weights", weights, self.num_params)
        parts = list(weights.split(self.layer_sizes, dim=1))
        if self.config.standardize_weights:
            means, deviations = self._statistics(weights.device)
            wide = torch.promote_types(weights.dtype, torch.float32)
            parts = [(part.to(wide) - means[i]) / deviations[i] for i, part in enumerate(parts)]
        return self._tokens(parts)

    def _tokens(self, parts: list[Tensor]) -> list[Tensor]:
        """Slices of the weight vector, one a part, (batch, length), as tokens."""
        tokens, start = [], 0
        for layer in self.layers:
            matrix, *others = parts[start : start + len(layer.parts)]
            end = layer.num_units * layer.fan_in
            columns = [matrix[:, :end].unflatten(1, (layer.num_units, layer.fan_in))]
            columns += [column[:, :, None] for column in ([matrix[:, end:]] if layer.has_bias else []) + others]
            tokens.append(torch.cat(columns, dim=2) if len(columns) > 1 else columns[0])
            start += len(layer.parts)
        width = self.config.token_size
        return tokens if width is None else [cut(tokens, width)]

    def windows(self, weights: Tensor, rows: Tensor, starts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Windows of the tokens that [`forward`] makes, without making the others.

        Args:
            weights (`Tensor`): (networks, num_params), aligned already.
            rows (`Tensor`): (batch,), int64, of which network each window is.
            starts (`Tensor`): (batch,), int64, its first token.

        Returns:
            `tuple[Tensor, Tensor, Tensor]`: tokens (batch, window, token_size); their places (batch, window, 3); and
            their shares in the loss (batch, window, token_size): equal for all numbers of the network, 0 where a token
            is filled up, and such that over all windows each network's sum to 1.
        """
        if self._entries is None:
            places = torch.arange(1, self.num_params + 1, dtype=torch.int32)
            self._entries = self._tokens(list(places[None].split(self.layer_sizes, dim=1)))[0][0] - 1
        length = min(self.config.window, len(self._entries))
        index = starts.cpu()[:, None] + torch.arange(length)
        entries = self._entries[index].long().to(weights.device)
        held = entries >= 0
        part = torch.searchsorted(torch.tensor(self.layer_sizes).cumsum(0).to(weights.device), entries, right=True)
        means, deviations = self.layer_mean.to(weights.device), self.layer_std.to(weights.device)
        values = weights[rows[:, None, None], entries.clamp_min(0)].float()
        tokens = ((values - means[part]) / deviations[part]).masked_fill(~held, 0.0)
        return tokens, self.coordinates[index], held * (len(self._entries) / length / self.num_params)

    @property
    def token_places(self) -> Tensor:
        """(num_tokens, 2), int64: the layer of each token, and its own number; both from 0."""
        return self.coordinates[:, [1, 0]]

    @property
    def coordinates(self) -> Tensor:
        """(num_tokens, 3), int64, on the CPU: see [`~hyperrep.representation.windows.places_of`]."""
        if self._coordinates is None:
            self._coordinates = places_of(self.config)
        return self._coordinates

    @property
    def places(self) -> Tensor:
        """(num_params, 2), int64: of which part of a layer, as they are normalised, and of which neuron, from 0, each
        weight is."""
        counts = [layer.num_units for layer in self.layers]
        units = torch.arange(sum(counts)).split(counts)
        tokens = [part[None, :, None].expand(1, -1, layer.token_size) for part, layer in zip(units, self.layers)]
        sizes = torch.tensor(self.layer_sizes)
        of_part = torch.arange(len(sizes)).repeat_interleave(sizes)
        return torch.stack([of_part, torch.cat(self._cut(tokens), dim=1)[0]], dim=1)

    def decode(self, tokens: list[Tensor]) -> Tensor:
        """Weights (batch, num_params), float32, of neuron tokens: what [`forward`] did, undone; to the bit where
        tokens are float64, as those of float64 weights are. Running variances that are not positive become a
        hundredth of their mean in the zoo; gradients pass as if they did not."""
        if self.config.token_size is not None:
            tokens = joined(tokens[0], [(layer.num_units, layer.token_size) for layer in self.layers])
        parts = [part.to(torch.promote_types(part.dtype, torch.float32)) for part in self._cut(tokens)]
        means, deviations = self._statistics(tokens[0].device)
        if self.config.standardize_weights:
            parts = [part * deviations[i] + means[i] for i, part in enumerate(parts)]
        for i in (i for i, is_variance in enumerate(self.is_variance) if is_variance):
            given = parts[i].detach()
            parts[i] = parts[i] + torch.where(given > 0, 0.0, MIN_VARIANCE * means[i] - given)
        return torch.cat(parts, dim=1).float()

    def _cut(self, tokens: list[Tensor]) -> list[Tensor]:
        """What neuron tokens hold, in slices of the weight vector, one a part, (batch, length)."""
        parts = []
        for units, layer in zip(tokens, self.layers, strict=True):
            matrix = units[:, :, : layer.fan_in].flatten(1)
            if layer.has_bias:
                matrix = torch.cat([matrix, units[:, :, layer.fan_in]], dim=1)
            first = layer.fan_in + layer.has_bias
            parts += [matrix, *(units[:, :, first + i] for i in range(len(layer.others)))]
        return parts

    def _statistics(self, device: torch.device) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Mean and standard deviation of each part. The parts of a model may lie on several devices."""
        means, deviations = (statistic.to(device).unbind() for statistic in (self.layer_mean, self.layer_std))
        return means, deviations


def check_width(what: str, rows: Tensor, width: int) -> None:
    """Whether rows are a tensor (batch, width).

    Raises:
        TypeError, ValueError: if they are not.
    """
    if not isinstance(rows, Tensor):
        raise TypeError(f"{what} are a {type(rows).__name__}; a torch.Tensor is needed: torch.as_tensor({what}).")
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(f"{what} have shape {list(rows.shape)}; this model reads (batch, {width}).")


__all__ = ["HyperRepProcessor"]
