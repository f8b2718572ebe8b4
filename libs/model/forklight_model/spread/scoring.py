"""Log-probabilities and router balance of a pack that several processes score together.

Gradients are of own tokens: every process computes the same loss from the whole pack's statistics, its
backward pass reaches its own slice, and the parameters' gradients are added up over the processes.
Legend: n processes, T tokens of the pack, S tokens of a slice, E experts.
"""

import torch
from torch import Tensor

from forklight_kernels.gradient import Context
from forklight_model.logprobs import TokenStats
from forklight_model.model import HybridModel
from forklight_model.routing import ExpertUsage, Routing
from forklight_model.spread.pack_slice import PackSlice
from forklight_model.spread.peers import Peers
from forklight_model.spread.sequence import SequencePass


def slice_logprobs(
    model: HybridModel,
    part: PackSlice,
    attention_pass: SequencePass,
    temperature: float = 1.0,
    routing: Routing | None = None,
) -> TokenStats:
    """Of the tokens `part.scored_places_S`, one after each own place; 0 where that is no token to score.

    The slice's first token is the last one of the process before.
    """
    hidden_SD = model.run_stack(part.input_ids_S, attention_pass, routing)
    logprobs_S, entropy_S = model.token_stats(hidden_SD, part.targets_S, temperature)
    return TokenStats(
        logprobs_T=logprobs_S.masked_fill(~part.is_scored_S, 0.0),
        entropy_T=entropy_S.masked_fill(~part.is_scored_S, 0.0),
    )


def whole_stats(stats: TokenStats, part: PackSlice, peers: Peers) -> TokenStats:
    """What `token_logprobs` gives of the whole pack [T], in every process; the gradient is of own tokens."""
    own_2S = torch.stack((stats.logprobs_T, stats.entropy_T))
    collected_n2S: Tensor = _Collect.apply(own_2S, peers)  # type: ignore[no-untyped-call]
    logprobs, entropy = (each.flatten().roll(1)[: part.num_tokens] for each in collected_n2S.unbind(1))
    return TokenStats(logprobs_T=logprobs, entropy_T=entropy)


def whole_usage(usage: ExpertUsage, peers: Peers) -> ExpertUsage:
    """Of all processes' tokens, the same in each; the gradient is of own tokens.

    Its `balancing_loss` is then the one of a process that saw all of them.
    """
    own = torch.cat((usage.counts_E.double(), usage.mass_E.detach().double()))
    sums = peers.collect(torch.cat((own, own.new_tensor([usage.num_tokens])))).sum(dim=0)
    num_experts = len(usage.mass_E)
    mass_E = sums[num_experts:-1].to(usage.mass_E.dtype)
    return ExpertUsage(
        counts_E=sums[:num_experts].to(usage.counts_E.dtype),
        mass_E=mass_E + (usage.mass_E - usage.mass_E.detach()),
        num_tokens=int(sums[-1]),
    )


class _CollectContext(Context):
    rank: int


class _Collect(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _CollectContext, own: Tensor, peers: Peers) -> Tensor:
        ctx.rank = peers.rank
        return peers.collect(own)

    @staticmethod
    def backward(ctx: _CollectContext, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0][ctx.rank], None
