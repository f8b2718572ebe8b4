"""The module that DeepSpeed wraps: tokens in, log-probs and entropies out.

ZeRO-3 gathers the weights of a module for its forward pass and again for its backward pass. Our blocks read
weights of their parts directly, so a whole block is one such module (a leaf). Embedding, final norm and head
belong to the outermost module, where DeepSpeed notices the weight that is read.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from forklight_model.logprobs import TokenStats, token_logprobs
from forklight_model.model import HybridBlock, HybridModel
from forklight_model.routing import Routing

LEAVES: tuple[type[nn.Module], ...] = (HybridBlock,)


class Scorer(nn.Module):
    """A policy as one forward pass."""

    def __init__(self, policy: HybridModel) -> None:
        super().__init__()
        self.policy = policy

    def forward(
        self, input_ids_T: Tensor, cu_seqlens: Tensor, temperature: float, routing: Routing | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        stats: TokenStats = token_logprobs(self.policy, input_ids_T, cu_seqlens, temperature, routing)
        balance: Tensor | None = None
        if routing is not None and torch.is_grad_enabled():
            balance = routing.load_balancing_loss()
        return stats.logprobs_T, stats.entropy_T, balance
