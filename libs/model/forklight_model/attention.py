"""The two attention blocks: lightning (gated linear, decaying state) and softmax (grouped queries, rotary).

A process of several computes its own heads of every token, then gathers all heads.
Legend: T packed tokens, D hidden size, H heads, G key heads, P head size.
"""

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from forklight_kernels import dense_many, gated_norm, rope_pair, split_projection
from forklight_model.attention_pass import AttentionPass
from forklight_model.config import ModelConfig
from forklight_model.parallel import ALONE, Gather


class Weight(nn.Module):
    """Holds one parameter under the published name `<module>.weight`; whoever uses it does the computing."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))


class LightningAttention(nn.Module):
    """Heads with a decaying state, one RMSNorm over all heads together, and a sigmoid output gate."""

    def __init__(self, config: ModelConfig, layer: int, gather: Gather = ALONE) -> None:
        super().__init__()
        self.config, self.layer, self.gather = config, layer, gather
        self.num_heads = gather.shard.num(config.num_attention_heads, "num_attention_heads")
        width, own_width = (n * config.head_dim for n in (config.num_attention_heads, self.num_heads))
        self.qkv_proj = Weight(3 * own_width, config.hidden_size)
        self.output_gate = Weight(own_width, config.hidden_size)
        self.norm = Weight(width)
        self.out_proj = Weight(gather.shard.num(config.hidden_size, "hidden_size"), width)
        self.slopes_H = self._own_slopes()

    def _own_slopes(self) -> Tensor:
        slopes_H = lightning_slopes(self.config, self.layer)
        return slopes_H[self.gather.shard.part(len(slopes_H), "num_attention_heads")]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow the weights to another device, but keep the slopes in fp32 whatever the weights' dtype."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.slopes_H = self._own_slopes().to(self.norm.weight.device)
        return self

    def forward(self, x_TD: Tensor, attention_pass: AttentionPass) -> Tensor:
        """Everything but the out projection, which the block fuses with its residual."""
        qkv, gate = dense_many(x_TD, self.input_weights)
        # q | k | v lie side by side inside each head, not as three blocks of heads. Mixing begins with silu.
        q, k, v = split_projection(qkv, self.num_heads)
        o_THP = attention_pass.mix_lightning(self.layer, (q, k, v), self.slopes_H)
        # The norm is over all heads together.
        o, gate = self.gather.gather_pair(o_THP.flatten(1), gate)
        return gated_norm(o, gate, self.norm.weight, self.config.rms_norm_eps)

    @property
    def input_weights(self) -> tuple[nn.Parameter, ...]:
        """Those that multiply the block's input."""
        return self.qkv_proj.weight, self.output_gate.weight

    @property
    def out_weight(self) -> Tensor:
        return self.out_proj.weight


class SoftmaxAttention(nn.Module):
    """Causal grouped-query attention with rotary positions on the first dims of each head."""

    def __init__(self, config: ModelConfig, layer: int, gather: Gather = ALONE) -> None:
        super().__init__()
        self.layer, self.head_dim, self.gather = layer, config.head_dim, gather
        self.rotary_dim, self.rope_theta = config.rotary_dim, config.rope_theta
        heads, key_heads = config.num_attention_heads, config.num_key_value_heads
        own_heads = gather.shard.num(heads, "num_attention_heads")
        own_key_heads = gather.shard.num(key_heads, "num_key_value_heads")
        self.q_proj = Weight(own_heads * config.head_dim, config.hidden_size)
        self.k_proj = Weight(own_key_heads * config.head_dim, config.hidden_size)
        self.v_proj = Weight(own_key_heads * config.head_dim, config.hidden_size)
        self.o_proj = Weight(gather.shard.num(config.hidden_size, "hidden_size"), heads * config.head_dim)

    def forward(self, x_TD: Tensor, attention_pass: AttentionPass) -> Tensor:
        """Everything but the out projection, which the block fuses with its residual."""
        q, k, v = (
            part_TN.view(len(x_TD), part_TN.shape[1] // self.head_dim, self.head_dim)
            for part_TN in dense_many(x_TD, self.input_weights)
        )
        q, k = rope_pair(q, k, attention_pass.positions_T, self.rotary_dim, self.rope_theta)
        return self.gather.gather_columns(attention_pass.mix_softmax(self.layer, (q, k, v)).flatten(1))

    @property
    def input_weights(self) -> tuple[nn.Parameter, ...]:
        """Those that multiply the block's input."""
        return self.q_proj.weight, self.k_proj.weight, self.v_proj.weight

    @property
    def out_weight(self) -> Tensor:
        return self.o_proj.weight


def lightning_slopes(config: ModelConfig, layer: int) -> Tensor:
    """Decay rate of each head: its ALiBi slope, smaller in deeper layers (all layers counted)."""
    depth = 1 - layer / max(1, config.num_hidden_layers - 1) + 1e-5
    return torch.tensor(_alibi_slopes(config.num_attention_heads), dtype=torch.float32) * depth


def _alibi_slopes(num_heads: int) -> list[float]:
    """The geometric ALiBi series; for a head count that is no power of two, filled up from the next one."""
    if math.log2(num_heads).is_integer():
        ratio = 2.0 ** -(2.0 ** -(math.log2(num_heads) - 3))
        return [ratio ** (head + 1) for head in range(num_heads)]
    lower = 2 ** math.floor(math.log2(num_heads))
    return _alibi_slopes(lower) + _alibi_slopes(2 * lower)[0::2][: num_heads - lower]
