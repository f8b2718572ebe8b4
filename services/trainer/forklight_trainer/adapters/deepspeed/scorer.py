"""The module that DeepSpeed wraps: tokens in, log-probs, entropies and the routers' balance out.

ZeRO-3 gathers the weights of a module for its forward pass and again for its backward pass. Our blocks read
weights of their parts directly, so a whole block is one such module (a leaf). Embedding, final norm and head
belong to the outermost module, where DeepSpeed notices the weight that is read.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from forklight_model.logprobs import TokenStats, token_logprobs
from forklight_model.model import HybridBlock, HybridModel
from forklight_model.routing import RecordedRouting, Routing
from forklight_model.spread.pack_slice import PackSlice
from forklight_model.spread.scoring import slice_logprobs, whole_stats, whole_usage
from forklight_model.spread.sequence import SequencePass
from forklight_trainer.adapters.deepspeed.library import expert_sign
from forklight_trainer.adapters.deepspeed.spread import Spread

LEAVES: tuple[type[nn.Module], ...] = (HybridBlock,)


class Scorer(nn.Module):
    """A policy as one forward pass over a pack. With shared tokens each process computes its slice, and all
    know the statistics of the whole; gradients are of own tokens."""

    def __init__(self, policy: HybridModel, spread: Spread) -> None:
        super().__init__()
        self.policy = policy
        self._spread = spread
        if spread.expert_group and spread.layout.zero_stage < 3:
            self.sign = expert_sign(policy.config.num_local_experts)

    def forward(
        self,
        input_ids_T: Tensor,
        cu_seqlens: Tensor,
        temperature: float,
        replayed: RecordedRouting | None,
        with_balance: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        if self._spread.sequence is not None:
            return self._score_slice(
                PackSlice.of(input_ids_T, cu_seqlens, self._spread.sequence.shard),
                temperature,
                replayed,
                with_balance=with_balance,
            )
        routing = _routing(replayed, is_needed=with_balance)
        stats = token_logprobs(self.policy, input_ids_T, cu_seqlens, temperature, routing)
        balance = routing.load_balancing_loss() if routing is not None and with_balance else None
        return _outputs(stats, balance)

    def _score_slice(
        self, part: PackSlice, temperature: float, replayed: RecordedRouting | None, *, with_balance: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        peers = self._spread.sequence
        assert peers is not None
        own = None if replayed is None else part.slice_routing(replayed)
        routing = _routing(own, is_needed=with_balance)
        attention_pass = SequencePass.over(part, peers, self._spread.lightning)
        stats = slice_logprobs(self.policy, part, attention_pass, temperature, routing)
        balance: Tensor | None = None
        if routing is not None and with_balance:
            balance = whole_usage(routing.usage(part.num_own), peers).balancing_loss()
        return _outputs(whole_stats(stats, part, peers), balance)


def _routing(replayed: RecordedRouting | None, *, is_needed: bool) -> Routing | None:
    return Routing(replayed) if is_needed or replayed is not None else None


def _outputs(stats: TokenStats, balance: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    keeps = balance if torch.is_grad_enabled() else None
    return stats.logprobs_T, stats.entropy_T, keeps
