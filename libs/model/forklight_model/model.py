"""The hybrid mixture-of-experts language model, its modules named as the published checkpoint names them.

Legend: T packed tokens of all sequences, D hidden size, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.utils.checkpoint import checkpoint

from forklight_kernels import Residual, dense, head_logits, rms_norm
from forklight_kernels.recompute import Contexts, Result, twice_run
from forklight_model.attention import LightningAttention, SoftmaxAttention, Weight
from forklight_model.attention_pass import AttentionPass, PackedPass
from forklight_model.config import ModelConfig
from forklight_model.moe import SparseMoe
from forklight_model.routing import Routing


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

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.self_attn: LightningAttention | SoftmaxAttention
        if config.is_lightning(layer):
            self.self_attn = LightningAttention(config, layer)
            self.alpha, self.beta = (
                config.layernorm_linear_attention_alpha,
                config.layernorm_linear_attention_beta,
            )
        else:
            self.self_attn = SoftmaxAttention(config, layer)
            self.alpha, self.beta = (
                config.layernorm_full_attention_alpha,
                config.layernorm_full_attention_beta,
            )
        self.moe_alpha, self.moe_beta = config.layernorm_mlp_alpha, config.layernorm_mlp_beta
        self.eps, self.has_postnorm = config.rms_norm_eps, config.postnorm
        self.block_sparse_moe = SparseMoe(config, layer)
        self.input_layernorm = Weight(config.hidden_size)
        self.post_attention_layernorm = Weight(config.hidden_size)

    def forward(self, x_TD: Tensor, attention_pass: AttentionPass, routing: Routing | None) -> Tensor:
        normed_TD = rms_norm(x_TD, self.input_layernorm.weight, self.eps)
        residual = Residual(x_TD=normed_TD if self.has_postnorm else x_TD, alpha=self.alpha, beta=self.beta)
        # The out projection ends in the residual sum, and so do the experts.
        mixed_TW = self.self_attn(normed_TD, attention_pass)
        x_TD = dense(mixed_TW, self.self_attn.out_weight, residual)
        normed_TD = rms_norm(x_TD, self.post_attention_layernorm.weight, self.eps)
        residual = Residual(
            x_TD=normed_TD if self.has_postnorm else x_TD, alpha=self.moe_alpha, beta=self.moe_beta
        )
        out_TD: Tensor = self.block_sparse_moe(normed_TD, residual, routing)
        return out_TD


class HybridStack(nn.Module):
    """Embedding, blocks and the final norm: everything below the head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = Weight(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(HybridBlock(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = Weight(config.hidden_size)


class HybridModel(nn.Module):
    """MiniMax-M1's architecture at any size. `state_dict()` has the published parameter names."""

    def __init__(self, config: ModelConfig, is_initialized: bool = True) -> None:
        super().__init__()
        self.config = config
        self.recomputation: Recomputation | None = None
        """What the backward pass computes again; None keeps every activation."""
        self.model = HybridStack(config)
        self.lm_head = Weight(config.vocab_size, config.hidden_size)
        if is_initialized:
            self.initialize()

    @torch.no_grad()
    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Fresh weights: matrices normal with the config's range, norms one."""
        for parameter in self.parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, self.config.initializer_range, generator=generator)

    def forward_hidden(
        self, input_ids_T: Tensor, cu_seqlens: Tensor, routing: Routing | None = None
    ) -> Tensor:
        """Hidden states after the final norm, [T, D], of sequences packed one after another."""
        return self.run_stack(input_ids_T, PackedPass.over(cu_seqlens), routing)

    def run_stack(
        self, input_ids_T: Tensor, attention_pass: AttentionPass, routing: Routing | None
    ) -> Tensor:
        """As forward_hidden, for any way of mixing tokens (training, prefill, decode)."""
        x_TD = embedding(input_ids_T, self.model.embed_tokens.weight)
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
        keeps = {Result.ATTENTION, Result.EXPERTS} if how.keeps_experts else {Result.ATTENTION}
        return partial(twice_run, frozenset(keeps))

    def logits(self, hidden_TD: Tensor) -> Tensor:
        """fp32 logits [T, V] (fp64 for an fp64 model), without a gradient: training has `token_stats`."""
        return head_logits(hidden_TD, self.lm_head.weight)
