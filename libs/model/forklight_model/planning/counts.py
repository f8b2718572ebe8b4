"""Parameters by part and arithmetic a token, from a model's shape.

Legend: D hidden size, W heads x head size, I expert width, K experts a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from forklight_model.config import ModelConfig
from forklight_model.sizes import num_active_parameters, num_parameters

BF16_BYTES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Parameters by what happens to them."""

    total: int
    experts: int
    dense: int
    """All but the experts: attention, routers, norms, embedding, head."""
    head: int
    active_experts: int
    """Experts that a token passes through."""
    active_dense: int
    """Products of a token in the blocks, without experts; the embedding is a look-up."""
    largest_layer_dense: int
    layer_experts: int


@cache
def count_parameters(config: ModelConfig) -> Counts:
    """From `num_parameters` and `num_active_parameters`; parts are differences of them."""
    total, head = num_parameters(config), config.vocab_size * config.hidden_size
    # What num_active_parameters leaves out beside rows of the embedding are the experts that are not chosen.
    unchosen = total - num_active_parameters(config) - (config.vocab_size - 1) * config.hidden_size
    chosen, num_experts = config.num_experts_per_tok, config.num_local_experts
    per_slot = 3 * config.hidden_size * config.intermediate_size * config.num_hidden_layers
    experts = unchosen + chosen * per_slot
    assert experts == num_experts * per_slot
    dense = total - experts
    return Counts(
        total=total,
        experts=experts,
        dense=dense,
        head=head,
        active_experts=chosen * per_slot,
        active_dense=dense - 2 * head - config.hidden_size,
        largest_layer_dense=_largest_layer(config),
        layer_experts=experts // config.num_hidden_layers,
    )


def _largest_layer(config: ModelConfig) -> int:
    width = config.num_attention_heads * config.head_dim
    return (5 * width + config.num_local_experts + 2) * config.hidden_size + width


def head_width(config: ModelConfig) -> int:
    """W: what attention works on."""
    return config.num_attention_heads * config.head_dim


def key_bytes_per_token(config: ModelConfig) -> int:
    """Keys and values of all softmax layers, bf16."""
    width = config.num_key_value_heads * config.head_dim
    return len(config.softmax_layers) * 2 * width * BF16_BYTES


def attention_flops(config: ModelConfig, context: float) -> float:
    """Softmax attention's two products of one token with so many keys, all layers, forward."""
    return 4.0 * head_width(config) * context * len(config.softmax_layers)


def forward_flops(config: ModelConfig, context: float) -> float:
    """One token through the whole model: what utilisation is measured by. Lightning attention is left out:
    it is bound by bytes, and 1 % of the arithmetic."""
    counts = count_parameters(config)
    return 2.0 * (counts.active_dense + counts.active_experts + counts.head) + attention_flops(
        config, context
    )
