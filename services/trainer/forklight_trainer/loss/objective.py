"""What an engine minimises over a pack. An objective is plain data: it travels to every computing process.

Contract: what a token weighs is figured over the whole step, so how packs are cut, ordered and spread over
processes does not change the sum of their losses.
Legend: T packed tokens, R response tokens among them that the policy drew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from forklight_model.logprobs import TokenStats
from forklight_trainer.batches.packing import Pack
from forklight_trainer.loss.policy_loss import LossSettings, policy_loss


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackScore:
    """What the weights say of a pack. Differentiable."""

    stats: TokenStats
    router_loss: Tensor | None
    """Load-balancing loss of the pack's tokens, without its coefficient; None when not asked for."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackOutcome:
    """What the loss of a pack was made of: on the CPU, without gradients."""

    loss: float
    """The pack's share of the step's loss, without the router's."""
    router_loss: float | None
    """Its share of the step's load-balancing loss, before the coefficient."""
    logprobs_R: Tensor
    entropy_R: Tensor
    ratio_R: Tensor
    keep_R: Tensor
    clipped_high_R: Tensor
    clipped_low_R: Tensor


class Objective(Protocol):
    """Turns what the weights say of a pack into a loss."""

    @property
    def temperature(self) -> float:
        """What the log-probs are scored at."""
        ...

    @property
    def adds_router_loss(self) -> bool:
        """Whether the engine has to gather the routers' balance."""
        ...

    def evaluate(self, pack: Pack, score: PackScore) -> tuple[Tensor, PackOutcome]:
        """The loss to differentiate, and what is reported of it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyObjective:
    """The policy loss of a step (equations 4 to 7), and the router's where it is wanted."""

    settings: LossSettings
    temperature: float
    num_fed_tokens: int
    """Tokens that the step feeds to the model: the normaliser of the router's loss."""
    router_coefficient: float | None = None
    """None: no load-balancing loss."""

    @property
    def adds_router_loss(self) -> bool:
        return self.router_coefficient is not None

    def evaluate(self, pack: Pack, score: PackScore) -> tuple[Tensor, PackOutcome]:
        logprobs_R = score.stats.logprobs_T[pack.response_index_R]
        entropy_R = score.stats.entropy_T[pack.response_index_R]
        parts = policy_loss(
            logprobs_R,
            pack.behaviour_R,
            pack.advantages_R,
            settings=self.settings,
            weights_R=pack.weights_R,
        )
        loss, router_loss = parts.loss, None
        if score.router_loss is not None and self.router_coefficient is not None:
            share = score.router_loss * (len(pack.input_ids_T) / self.num_fed_tokens)
            loss, router_loss = loss + self.router_coefficient * share, float(share.detach())
        outcome = PackOutcome(
            loss=float(parts.loss.detach()),
            router_loss=router_loss,
            logprobs_R=logprobs_R.detach(),
            entropy_R=entropy_R.detach(),
            ratio_R=parts.ratio_R,
            keep_R=parts.keep_R,
            clipped_high_R=parts.clipped_high_R,
            clipped_low_R=parts.clipped_low_R,
        )
        return loss, outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelihoodObjective:
    """Negative log-likelihood of a step's response tokens, each by what it weighs: supervised training."""

    temperature: float = 1.0
    adds_router_loss: bool = False

    def evaluate(self, pack: Pack, score: PackScore) -> tuple[Tensor, PackOutcome]:
        logprobs_R = score.stats.logprobs_T[pack.response_index_R]
        loss = -(logprobs_R * pack.weights_R.to(logprobs_R)).sum()
        everywhere_R = torch.ones(len(logprobs_R), dtype=torch.bool)
        outcome = PackOutcome(
            loss=float(loss.detach()),
            router_loss=None,
            logprobs_R=logprobs_R.detach(),
            entropy_R=score.stats.entropy_T[pack.response_index_R].detach(),
            ratio_R=everywhere_R.float(),
            keep_R=everywhere_R,
            clipped_high_R=~everywhere_R,
            clipped_low_R=~everywhere_R,
        )
        return loss, outcome
