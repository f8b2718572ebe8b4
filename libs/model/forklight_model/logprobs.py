"""Log-probabilities of given tokens under the model: what the trainer differentiates and scoring reports.

Legend: T packed tokens of all sequences.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from forklight_model.policy import Policy
from forklight_model.routing import Routing


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStats:
    """What the model thought of each token before seeing it, fp32."""

    logprobs_T: Tensor
    """log p(token | the tokens before it in its own sequence); 0 for a sequence's first token."""
    entropy_T: Tensor
    """Entropy of that same distribution; 0 for a sequence's first token."""


def token_logprobs(
    model: Policy,
    input_ids_T: Tensor,
    cu_seqlens: Tensor,
    temperature: float = 1.0,
    routing: Routing | None = None,
) -> TokenStats:
    """Score every token of packed sequences at a temperature. Differentiable in the model's parameters."""
    hidden_TD = model.forward_hidden(input_ids_T, cu_seqlens, routing)
    logprobs_T, entropy_T = model.token_stats(hidden_TD, input_ids_T.roll(-1), temperature)
    # Place i of the head speaks about token i + 1: shift right, and nothing speaks about a first token.
    # (One place more than there are tokens: an empty sequence may come last.)
    is_first_T = input_ids_T.new_zeros(len(input_ids_T) + 1, dtype=torch.bool)
    is_first_T = is_first_T.index_fill(0, cu_seqlens.to(torch.int64), True)[:-1]
    return TokenStats(
        logprobs_T=logprobs_T.roll(1).masked_fill(is_first_T, 0.0),
        entropy_T=entropy_T.roll(1).masked_fill(is_first_T, 0.0),
    )
