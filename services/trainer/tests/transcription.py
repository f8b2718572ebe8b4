"""The published objectives in plain float64, written from the papers and sharing no code with what they test.

A loss is built token by token from log-probs that autograd watches, then summed as its paper sums it. Only
what the policy drew is in a `Response`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One response: the trainer's log-probs of its drawn tokens, rollout's of the same, its advantage."""

    logprobs: Tensor
    behaviour: Tensor
    advantage: float


TokenLoss = Callable[[Tensor, Tensor, float], Tensor]
"""Log-probs, rollout's log-probs and the advantage, to the loss of each token."""


def advantages(rewards: Sequence[float]) -> list[float]:
    """MiniMax-M1, equation 2: (R - mean) / std, of the group's own population."""
    mean = sum(rewards) / len(rewards)
    deviation = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / len(rewards))
    return [(reward - mean) / deviation for reward in rewards]


def cispo(eps_high: float) -> TokenLoss:
    """Equations 4 and 5 without a lower bound: -sg(min(r, 1 + eps_high)) A log pi."""

    def loss(logprobs: Tensor, behaviour: Tensor, advantage: float) -> Tensor:
        ratio = torch.exp(logprobs - behaviour).detach()
        return -torch.clamp(ratio, max=1.0 + eps_high) * advantage * logprobs

    return loss


def masked(eps_high: float, low: float, high: float) -> TokenLoss:
    """Equations 6 and 7: the same, times M."""

    def loss(logprobs: Tensor, behaviour: Tensor, advantage: float) -> Tensor:
        ratio = torch.exp(logprobs - behaviour).detach()
        dropped = ratio > 1.0 + high if advantage > 0 else ratio < 1.0 - low
        kept = torch.zeros_like(ratio) if advantage == 0 else 1.0 - dropped.double()
        return kept * cispo(eps_high)(logprobs, behaviour, advantage)

    return loss


def clipped(low: float, high: float) -> TokenLoss:
    """PPO's objective as GRPO (low = high) and DAPO use it: -min(r A, clip(r, 1 - low, 1 + high) A)."""

    def loss(logprobs: Tensor, behaviour: Tensor, advantage: float) -> Tensor:
        ratio = torch.exp(logprobs - behaviour)
        bounded = torch.clamp(ratio, 1.0 - low, 1.0 + high)
        return -torch.minimum(ratio * advantage, bounded * advantage)

    return loss


def with_kl(token_loss: TokenLoss, coefficient: float) -> TokenLoss:
    """Plus the estimate q/p - log(q/p) - 1 of KL(p || q) that GRPO adds; q is rollout's policy here."""

    def loss(logprobs: Tensor, behaviour: Tensor, advantage: float) -> Tensor:
        quotient = torch.exp(behaviour - logprobs)
        return token_loss(logprobs, behaviour, advantage) + coefficient * (
            quotient - torch.log(quotient) - 1.0
        )

    return loss


def over_tokens(responses: Sequence[Response], token_loss: TokenLoss) -> Tensor:
    """DAPO and equation 4: the sum over all tokens, divided by how many there are."""
    total, num_tokens = torch.zeros((), dtype=torch.float64), 0
    for each in responses:
        total = total + token_loss(each.logprobs, each.behaviour, each.advantage).sum()
        num_tokens += len(each.logprobs)
    return total / num_tokens


def over_samples(responses: Sequence[Response], token_loss: TokenLoss) -> Tensor:
    """GRPO: the mean over responses of the mean over their tokens. A response without any does not count."""
    means = [
        token_loss(each.logprobs, each.behaviour, each.advantage).sum() / len(each.logprobs)
        for each in responses
        if len(each.logprobs)
    ]
    return torch.stack(means).sum() / len(means)


def combined(responses: Sequence[Response], token_loss: TokenLoss, share: float) -> Tensor:
    """This much of the one and the rest of the other."""
    return share * over_tokens(responses, token_loss) + (1.0 - share) * over_samples(responses, token_loss)


def adamw(
    weights: Sequence[float], gradients: Sequence[Sequence[float]], *, rate: float, eps: float
) -> list[float]:
    """Weights after these gradients, one row a step: AdamW with betas 0.9 and 0.95 and no decay."""
    found = list(weights)
    first, second = [0.0] * len(found), [0.0] * len(found)
    for step, row in enumerate(gradients, start=1):
        for place, gradient in enumerate(row):
            first[place] = 0.9 * first[place] + 0.1 * gradient
            second[place] = 0.95 * second[place] + 0.05 * gradient * gradient
            mean = first[place] / (1.0 - 0.9**step)
            spread = math.sqrt(second[place] / (1.0 - 0.95**step))
            found[place] -= rate * mean / (spread + eps)
    return found
