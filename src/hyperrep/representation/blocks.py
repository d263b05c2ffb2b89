"""The transformer blocks of a hyper-representation: encoder and decoder are made of the same."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_hyperrep import HyperRepConfig


def quick_dropout(states: Tensor, probability: float, training: bool) -> Tensor:
    """Dropout of a tensor of any shape. In bf16 on the CPU the probability is rounded to 1/32768: drawing a float an
    entry, as PyTorch does there, takes longer than the matrix product before it."""
    threshold = round(probability * 2**15)  # of 15 random bits an entry
    quick = training and states.dtype == torch.bfloat16 and states.device.type == "cpu"
    if not quick or not 0 < threshold < 2**15:
        return nn.functional.dropout(states, probability, training)
    words = torch.empty((states.numel() + 3) // 4, dtype=torch.int64).random_()
    bits = words.view(torch.int16)[: states.numel()].view(states.shape).bitwise_and_(2**15 - 1)
    keep = bits.neg_().add_(threshold - 1).bitwise_right_shift_(15)  # all ones where bits >= threshold, else zero
    scale = torch.tensor(1 / (1 - threshold / 2**15), dtype=torch.bfloat16)
    return states * keep.bitwise_and_(scale.view(torch.int16)).view(torch.bfloat16)


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    """Attention written out; all tensors (batch, heads, tokens, head_dim)."""
    scores = (query * scaling) @ key.transpose(2, 3)
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = scores.softmax(dim=-1).to(query.dtype)  # float32 inside, whatever the type
    probabilities = quick_dropout(probabilities, dropout, module.training)
    return (probabilities @ value).transpose(1, 2).contiguous(), probabilities


class HyperRepAttention(nn.Module):
    def __init__(self, config: HyperRepConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor, num_queries: int | None = None, **kwargs) -> tuple[Tensor, Tensor | None]:
        """Attend from the first `num_queries` tokens, by default all, to all of (batch, tokens, hidden_size)."""
        queries = hidden_states[:, :num_queries]
        query, key, value = (
            projection(states).unflatten(2, (-1, self.head_dim)).transpose(1, 2)  # (batch, heads, tokens, head_dim)
            for projection, states in (
                (self.q_proj, queries),
                (self.k_proj, hidden_states),
                (self.v_proj, hidden_states),
            )
        )
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        if query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.requires_grad:
            attention = eager_attention_forward  # of so few tokens three times faster, dropout included
        attended, probabilities = attention(
            self,
            query,
            key,
            value,
            None,
            dropout=self.config.attention_probs_dropout_prob if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(attended.reshape(queries.shape)), probabilities


class HyperRepMLP(nn.Module):
    def __init__(self, config: HyperRepConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = config.hidden_dropout_prob
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        hidden_states = self.activation(self.fc1(hidden_states))
        return self.fc2(quick_dropout(hidden_states, self.dropout, self.training))


class HyperRepLayer(GradientCheckpointingLayer):
    """A pre-norm transformer block; encoder and decoder are made of the same."""

    def __init__(self, config: HyperRepConfig):
        super().__init__()
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = HyperRepAttention(config)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = HyperRepMLP(config)
        self.dropout = config.hidden_dropout_prob

    def forward(self, hidden_states: Tensor, num_queries: int | None = None, **kwargs) -> Tensor:
        """(batch, tokens, hidden_size) to the same; with `num_queries`, to the first so many tokens only."""
        normed = self.layernorm_before(hidden_states).to(hidden_states.dtype)  # float32 on a GPU under autocast
        attended, _ = self.attention(normed, num_queries, **kwargs)
        hidden_states = hidden_states[:, :num_queries] + quick_dropout(attended, self.dropout, self.training)

        normed = self.layernorm_after(hidden_states).to(hidden_states.dtype)
        return hidden_states + quick_dropout(self.mlp(normed), self.dropout, self.training)


__all__ = ["HyperRepAttention", "HyperRepLayer", "HyperRepMLP"]
