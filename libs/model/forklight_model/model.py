"""The hybrid mixture-of-experts language model, its modules named as the published checkpoint names them.

Legend: T packed tokens of all sequences, D hidden size, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.utils.checkpoint import checkpoint

from forklight_core.errors import ConfigError, InvalidInputError
from forklight_kernels import (
    Residual,
    dense,
    head_logits,
    join_weights,
    logit_stats,
    rms_norm,
    token_stats,
)
from forklight_kernels.recompute import Contexts, Result, twice_run
from forklight_model.attention import LightningAttention, SoftmaxAttention, Weight
from forklight_model.attention_pass import AttentionPass, PackedPass
from forklight_model.config import ModelConfig
from forklight_model.moe import SparseMoe
from forklight_model.parallel import ALONE, Gather, gather_for, own_columns
from forklight_model.policy import Policy
from forklight_model.routing import Routing
from forklight_model.shard import WHOLE, Shard, check_cut
from forklight_model.spread.experts import LOCAL_EXPERTS, ExpertPlaces

GATHERED_LOGITS_TOKENS = 256
"""Scoring with a model in parts gathers the logits of so many tokens at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recomputation:
    """Keep block inputs only, and run a block again when its gradient is due: memory for time.

    Softmax attention's output is always kept: one hidden state for a pass over all pairs of tokens.
    """

    keeps_experts: bool = False
    """Keep the experts' gate and up as well: about a third of a block's arithmetic is then not repeated."""
    num_whole_layers: int = 0
    """The last so many layers keep everything. Their gradients come first, while there are few of them."""


class HybridBlock(nn.Module):
    """Attention, then experts, each as x = norm(x); x = alpha * x + beta * f(x)."""

    def __init__(
        self,
        config: ModelConfig,
        layer: int,
        gather: Gather = ALONE,
        places: ExpertPlaces = LOCAL_EXPERTS,
    ) -> None:
        super().__init__()
        self.gather = gather
        self.self_attn: LightningAttention | SoftmaxAttention
        if config.is_lightning(layer):
            self.self_attn = LightningAttention(config, layer, gather)
            self.alpha, self.beta = (
                config.layernorm_linear_attention_alpha,
                config.layernorm_linear_attention_beta,
            )
        else:
            self.self_attn = SoftmaxAttention(config, layer, gather)
            self.alpha, self.beta = (
                config.layernorm_full_attention_alpha,
                config.layernorm_full_attention_beta,
            )
        self.moe_alpha, self.moe_beta = config.layernorm_mlp_alpha, config.layernorm_mlp_beta
        self.eps, self.has_postnorm = config.rms_norm_eps, config.postnorm
        self.block_sparse_moe = SparseMoe(config, layer, gather, places)
        self.input_layernorm = Weight(config.hidden_size)
        self.post_attention_layernorm = Weight(config.hidden_size)

    def forward(self, x_TD: Tensor, attention_pass: AttentionPass, routing: Routing | None) -> Tensor:
        normed_TD = rms_norm(x_TD, self.input_layernorm.weight, self.eps)
        residual = self._residual(x_TD, normed_TD, self.alpha, self.beta)
        # The out projection ends in the residual sum, and so do the experts.
        mixed_TW = self.self_attn(normed_TD, attention_pass)
        x_TD = self.gather.gather_columns(dense(mixed_TW, self.self_attn.out_weight, residual))
        normed_TD = rms_norm(x_TD, self.post_attention_layernorm.weight, self.eps)
        residual = self._residual(x_TD, normed_TD, self.moe_alpha, self.moe_beta)
        return self.gather.gather_columns(self.block_sparse_moe(normed_TD, residual, routing))

    def _residual(self, x_TD: Tensor, normed_TD: Tensor, alpha: float, beta: float) -> Residual:
        """Of the columns that this process computes."""
        joined_TD = own_columns(normed_TD if self.has_postnorm else x_TD, self.gather.shard)
        return Residual(x_TD=joined_TD, alpha=alpha, beta=beta)


class HybridStack(nn.Module):
    """Embedding, blocks and the final norm: everything below the head."""

    def __init__(
        self, config: ModelConfig, gather: Gather = ALONE, places: ExpertPlaces = LOCAL_EXPERTS
    ) -> None:
        super().__init__()
        own_width = gather.shard.num(config.hidden_size, "hidden_size")
        self.embed_tokens = Weight(config.vocab_size, own_width)
        blocks = (HybridBlock(config, layer, gather, places) for layer in range(config.num_hidden_layers))
        self.layers = nn.ModuleList(blocks)
        self.norm = Weight(config.hidden_size)


class HybridModel(Policy):
    """MiniMax-M1's architecture at any size. `state_dict()` has the published parameter names.

    One process of several holds its `shard` of every layer, without gradients, and gets the rest of every row
    through `gather`; its state dict has this part of each tensor, and its results are the whole model's.
    In training a process may hold some `experts` whole; its state dict then names those alone.
    """

    config: ModelConfig

    def __init__(
        self,
        config: ModelConfig,
        is_initialized: bool = True,
        *,
        shard: Shard = WHOLE,
        gather: Gather | None = None,
        experts: ExpertPlaces = LOCAL_EXPERTS,
    ) -> None:
        super().__init__()
        check_cut(config, shard)
        self.config, self.shard, self.gather = config, shard, gather_for(shard, gather)
        self.experts = experts
        if not shard.is_whole and not experts.shard.is_whole:
            raise ConfigError("a model is cut into parts of layers or its experts are spread, not both")
        self.recomputation: Recomputation | None = None
        """What the backward pass computes again; None keeps every activation."""
        self.model = HybridStack(config, self.gather, experts)
        self.lm_head = Weight(shard.num(config.vocab_size, "vocab_size"), config.hidden_size)
        self._shapes = {name: tuple(weight.shape) for name, weight in self.named_parameters()}
        if not shard.is_whole:
            self.requires_grad_(False)
        if is_initialized:
            self.initialize()

    @torch.no_grad()
    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Fresh weights: matrices normal with the config's range, norms one.

        Of spread experts every process draws all and keeps its own: they are those of one process.
        """
        if not self.shard.is_whole:
            raise InvalidInputError(
                "parts of one model cannot be drawn apart: pass is_initialized=False and load weights"
            )
        for parameter in self.parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
            elif parameter.dim() == 3 and not self.experts.shard.is_whole:
                own = self.experts.shard.part(self.config.num_local_experts, "num_local_experts")
                whole = parameter.new_empty(self.config.num_local_experts, *parameter.shape[1:])
                parameter.copy_(whole.normal_(0.0, self.config.initializer_range, generator=generator)[own])
            else:
                parameter.normal_(0.0, self.config.initializer_range, generator=generator)

    @property
    def is_whole(self) -> bool:
        return self.shard.is_whole and self.experts.shard.is_whole

    @property
    def names_elsewhere(self) -> frozenset[str]:
        """Published tensors of experts that other processes hold."""
        num_experts = self.config.num_local_experts
        own = range(num_experts)[self.experts.shard.part(num_experts, "num_local_experts")]
        return frozenset(
            f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{matrix}.weight"
            for layer in range(self.config.num_hidden_layers)
            for expert in range(num_experts)
            if expert not in own
            for matrix in ("w1", "w2", "w3")
        )

    def whole_place(self, name: str) -> tuple[tuple[int, ...], int]:
        """Of a parameter by its name here: its shape in a whole model, and where in that, flat, its first
        element is. Every process has all of it, but for experts' stacks. For a model whose layers are whole.
        """
        shape, shard = self._shapes[name], self.experts.shard
        if len(shape) != 3:
            return shape, 0
        return (shape[0] * shard.size, *shape[1:]), shard.rank * prod(shape)

    def join_weights(self) -> None:
        """Lay weights that multiply the same input side by side: one product then. For generation only."""
        for module in self.modules():
            if isinstance(module, LightningAttention | SoftmaxAttention):
                join_weights(module.input_weights)

    def forward_hidden(
        self, input_ids_T: Tensor, cu_seqlens: Tensor, routing: Routing | None = None
    ) -> Tensor:
        """Hidden states after the final norm, [T, D], of sequences packed one after another."""
        return self.run_stack(input_ids_T, PackedPass.over(cu_seqlens), routing)

    def run_stack(
        self, input_ids_T: Tensor, attention_pass: AttentionPass, routing: Routing | None
    ) -> Tensor:
        """As forward_hidden, for any way of mixing tokens (training, prefill, decode)."""
        x_TD = self.gather.gather_columns(embedding(input_ids_T, self.model.embed_tokens.weight))
        for layer, block in enumerate(self.model.layers):
            contexts = self._twice_run(layer) if torch.is_grad_enabled() else None
            if contexts is None:
                x_TD = block(x_TD, attention_pass, routing)
            else:
                x_TD = checkpoint(
                    block, x_TD, attention_pass, routing, use_reentrant=False, context_fn=contexts
                )
        return rms_norm(x_TD, self.model.norm.weight, self.config.rms_norm_eps)

    def _twice_run(self, layer: int) -> Callable[[], Contexts] | None:
        """The contexts of a recomputed layer's two runs; None for one that keeps its activations."""
        how = self.recomputation
        if how is None or layer >= self.config.num_hidden_layers - how.num_whole_layers:
            return None
        keeps = {Result.ATTENTION, Result.SPLITS} | ({Result.EXPERTS} if how.keeps_experts else set())
        return partial(twice_run, frozenset(keeps))

    def logits(self, hidden_TD: Tensor, out_TV: Tensor | None = None) -> Tensor:
        """fp32 logits [T, V] (fp64 for an fp64 model), without a gradient: training has `token_stats`.

        They go into `out_TV`, dense and fp32, where that is given.
        """
        if self.shard.is_whole:
            return head_logits(hidden_TD, self.lm_head.weight, out_TV)
        logits_TV = self.gather.gather_columns(head_logits(hidden_TD, self.lm_head.weight))
        return logits_TV if out_TV is None else out_TV.copy_(logits_TV)

    def token_stats(
        self, hidden_TD: Tensor, targets_T: Tensor, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies [T] of these tokens, fp32. Only a whole model's have a gradient."""
        if self.shard.is_whole:
            return token_stats(hidden_TD, self.lm_head.weight, targets_T, temperature)
        pieces = [
            slice(start, start + GATHERED_LOGITS_TOKENS)
            for start in range(0, max(1, len(hidden_TD)), GATHERED_LOGITS_TOKENS)
        ]
        stats = [logit_stats(self.logits(hidden_TD[at]), targets_T[at], temperature) for at in pieces]
        logprobs, entropies = zip(*stats, strict=True)
        return torch.cat(logprobs), torch.cat(entropies)
