"""What exact rules decide is decided in this process; symbolic mathematics is the verifier's."""

from __future__ import annotations

from dataclasses import dataclass

from forklight.v1 import types_pb2
from forklight_reward import metrics
from forklight_reward.ports import Outcome, Part, Status, Tier, Verifier
from forklight_reward.verifier.format import format_score
from forklight_reward.verifier.verify import MathVerdict, decide_quickly, rules_version


@dataclass(frozen=True, slots=True, kw_only=True)
class QuickVerifier:
    """Port Verifier. The rules are the verifier's own, and guard against bombs before they look closer."""

    behind: Verifier

    async def verify(
        self, *, envelope: types_pb2.Envelope, gold: str, response: str, timeout_s: float
    ) -> Outcome:
        """At once where possible."""
        verdict = decide_quickly(gold, response, extracted=False)
        if not isinstance(verdict, MathVerdict):
            return await self.behind.verify(
                envelope=envelope, gold=gold, response=response, timeout_s=timeout_s
            )
        metrics.count_math_call(verdict.status.value, fast=True)
        return Outcome(
            status=Status(verdict.status.value),
            parts={Part.CORRECT: float(verdict.correct), Part.FORMAT: format_score(response)},
            evidence=verdict.evidence,
            worker="rules",
            worker_version=rules_version(),
            tier=Tier.INLINE,
        )
