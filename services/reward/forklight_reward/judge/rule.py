"""A deterministic judge by token overlap.

For tests and for wiring a run without a model: it understands nothing.
"""

from __future__ import annotations

import re
from collections import Counter

from forklight_reward.judge.contract import HIGHEST_GRADE, LOWEST_GRADE, Judgement

# Least overlap for the grades 4, 3 and 2.
THRESHOLDS = ((0.8, 4), (0.5, 3), (0.2, 2))
_TOKEN = re.compile(r"\w+")


def overlap(reference: str, answer: str) -> float:
    """F1 of the tokens of two texts, from 0 to 1."""
    wanted, given = Counter(_TOKEN.findall(reference.casefold())), Counter(_TOKEN.findall(answer.casefold()))
    shared = sum((wanted & given).values())
    if not shared:
        return 0.0
    return 2 * shared / (sum(wanted.values()) + sum(given.values()))


class RuleJudge:
    """Grade 5 for the same tokens in the same order, else a grade by overlap. For tests only."""

    @property
    def version(self) -> str:
        """Name and version, for verdicts."""
        return "rule-judge/1"

    async def judge(self, *, prompt: str, reference: str, answer: str, timeout_s: float) -> Judgement:
        """A grade; an abstention when there is nothing to compare with."""
        if not reference.strip():
            return Judgement(grade=None, evidence="the reference is empty")
        if _TOKEN.findall(reference.casefold()) == _TOKEN.findall(answer.casefold()):
            return Judgement(grade=HIGHEST_GRADE, evidence="the same words as the reference")
        share = overlap(reference, answer)
        grade = next((grade for least, grade in THRESHOLDS if share >= least), LOWEST_GRADE)
        return Judgement(grade=grade, evidence=f"word overlap with the reference {share:.2f}")
