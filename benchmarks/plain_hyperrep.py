"""A hyper-representation as one writes it first, in float32: the yardstick of benchmarks/training.py.

Neurons are embedded and put back one at a time, attention and norms are spelled out, networks are permuted one at a
time. Parameters have our model's names, so that its state loads, and both compute the same.
"""

import itertools
import math
import random

import torch
from torch import Tensor, nn

from hyperrep.representation import HyperRepConfig


class Norm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=-1, keepdim=True)
        variance = x.var(dim=-1, keepdim=True, unbiased=False)
        return (x - mean) / torch.sqrt(variance + self.eps) * self.weight + self.bias


class Attention(nn.Module):
    def __init__(self, config: HyperRepConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, nn.Linear(config.hidden_size, config.hidden_size))
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = (
            proj(x).view(batch, tokens, self.heads, width // self.heads).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(width // self.heads)
        attended = torch.matmul(self.dropout(torch.softmax(scores, dim=-1)), v)
        return self.o_proj(attended.transpose(1, 2).contiguous().view(batch, tokens, width))


class FeedForward(nn.Module):
    def __init__(self, config: HyperRepConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.dropout(torch.relu(self.fc1(x))))


class Block(nn.Module):
    def __init__(self, config: HyperRepConfig):
        super().__init__()
        self.layernorm_before = Norm(config.hidden_size, config.layer_norm_eps)
        self.attention = Attention(config)
        self.layernorm_after = Norm(config.hidden_size, config.layer_norm_eps)
        self.mlp = FeedForward(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.layernorm_before(x)))
        return x + self.dropout(self.mlp(self.layernorm_after(x)))


class Maps(nn.Module):
    """One linear map a layer of the networks."""

    def __init__(self, maps):
        super().__init__()
        self.projections = nn.ModuleList(maps)


class Encoder(nn.Module):
    def __init__(self, config: HyperRepConfig):
        super().__init__()
        self.config = config
        self.embeddings = Maps(nn.Linear(layer.token_size, config.hidden_size) for layer in config.layers)
        self.compression_token = nn.Parameter(torch.randn(1, 1, config.hidden_size))
        self.position_embeddings = nn.Embedding(1 + config.num_tokens, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.bottleneck = nn.Linear(config.hidden_size, config.latent_size)

    def forward(self, weights: Tensor) -> Tensor:
        tokens, start = [self.compression_token[:, 0].repeat(len(weights), 1)], 0
        for layer, projection in zip(self.config.layers, self.embeddings.projections):
            biases = start + layer.num_units * layer.fan_in
            for unit in range(layer.num_units):
                kernel = weights[:, start + unit * layer.fan_in : start + (unit + 1) * layer.fan_in]
                bias = weights[:, biases + unit : biases + unit + 1]
                tokens.append(projection(torch.cat([kernel, bias], dim=1)))
            start += layer.num_params
        x = torch.stack(tokens, dim=1)
        x = x + self.position_embeddings(torch.arange(x.shape[1], device=x.device))
        for block in self.layers:
            x = block(x)
        return torch.tanh(self.bottleneck(x[:, 0]))


class Decoder(nn.Module):
    def __init__(self, config: HyperRepConfig):
        super().__init__()
        self.config = config
        self.decompression = nn.Linear(config.latent_size, config.num_tokens * config.hidden_size)
        self.position_embeddings = nn.Embedding(config.num_tokens, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.outputs = Maps(nn.Linear(config.hidden_size, layer.token_size) for layer in config.layers)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.decompression(latents).view(len(latents), self.config.num_tokens, self.config.hidden_size)
        x = x + self.position_embeddings(torch.arange(x.shape[1], device=x.device))
        for block in self.layers:
            x = block(x)
        weights, start, token = x.new_zeros(len(x), self.config.num_params), 0, 0
        for layer, projection in zip(self.config.layers, self.outputs.projections):
            biases = start + layer.num_units * layer.fan_in
            for unit in range(layer.num_units):
                values = projection(x[:, token])
                weights[:, start + unit * layer.fan_in : start + (unit + 1) * layer.fan_in] = values[:, :-1]
                weights[:, biases + unit] = values[:, -1]
                token += 1
            start += layer.num_params
        return weights


class Head(nn.Module):
    def __init__(self, config: HyperRepConfig):
        super().__init__()
        widths = [config.latent_size] + [config.projection_hidden_size] * config.projection_num_layers
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.output = nn.Linear(widths[-1], config.projection_size)
        self.norm = nn.BatchNorm1d(config.projection_size)

    def forward(self, latents: Tensor) -> Tensor:
        for linear in self.hidden:
            latents = torch.relu(linear(latents))
        return self.norm(self.output(latents))


class PlainHyperRep(nn.Module):
    """The paper's kind of model: ReLU, one latent a network, biases everywhere, NT-Xent, raw weights."""

    def __init__(self, config: HyperRepConfig):
        super().__init__()
        self.config = config
        self.encoder, self.decoder, self.projection_head = Encoder(config), Decoder(config), Head(config)
        self.register_buffer("layer_mean", torch.zeros(len(config.layers)))
        self.register_buffer("layer_std", torch.ones(len(config.layers)))

    def forward(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction and loss of two views, (2 * batch, num_params), one after the other."""
        latents = self.encoder(weights)
        reconstruction = self.decoder(latents)
        error, start = torch.zeros((), device=weights.device), 0
        for layer, std in zip(self.config.layers, self.layer_std):
            difference = (reconstruction - weights)[:, start : start + layer.num_params]
            error = error + (difference**2).sum() / std**2 / weights.numel()
            start += layer.num_params
        z = nn.functional.normalize(self.projection_head(latents), dim=1)
        similarity = torch.exp(z @ z.T / self.config.temperature)
        others = similarity.sum(dim=1) - similarity.diagonal()
        partner = torch.arange(len(z), device=z.device).roll(len(z) // 2)
        contrast = -torch.log(similarity[torch.arange(len(z)), partner] / others).mean()
        gamma = self.config.contrast_weight
        return reconstruction, gamma * contrast + (1 - gamma) * error


def plain_views(networks: Tensor, layout: list, erase_prob: float, erase_scale: tuple[float, float]) -> Tensor:
    """Two views of each network, (2 * batch, num_params): permuted and erased one at a time."""
    views = []
    for network in [*networks, *networks]:
        tensors, start = {}, 0
        for name, shape in layout:
            tensors[name] = network[start : start + math.prod(shape)].reshape(shape)
            start += math.prod(shape)
        layers = [name.removesuffix(".weight") for name, _ in layout if name.endswith(".weight")]
        for layer, following in itertools.pairwise(layers):
            order = torch.randperm(len(tensors[f"{layer}.bias"]), device=network.device)
            for kind in ("weight", "bias"):
                tensors[f"{layer}.{kind}"] = tensors[f"{layer}.{kind}"][order]
            weight = tensors[f"{following}.weight"]
            blocks = weight.reshape(len(weight), len(order), -1)[:, order]  # of a flattened map whole blocks move
            tensors[f"{following}.weight"] = blocks.reshape(weight.shape)
        view = torch.cat([tensors[name].flatten() for name, _ in layout])
        if random.random() < erase_prob:
            for _ in range(10):
                length, first = int(random.uniform(*erase_scale) * len(view)), random.randrange(len(view))
                if first + length < len(view):
                    view[first : first + length] = 0
                    break
        views.append(view)
    return torch.stack(views)
