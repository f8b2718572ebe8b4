"""The maths verifier: extract, exact fast path, guard, math-verify in a killable pool."""

from __future__ import annotations

import atexit
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from importlib.metadata import version

from forklight_reward.verifier.compare import Comparison, compare_exact
from forklight_reward.verifier.extract import extract_answer, looks_like_response
from forklight_reward.verifier.guard import find_danger, find_restatement
from forklight_reward.verifier.math_process import Word
from forklight_reward.verifier.pool import MathPool

RULES_VERSION = "2"
WAIT_S = 20.0


class MathStatus(StrEnum):
    """How a verdict on an answer came about.

    None of them is a failure of the machinery: that is an exception.
    """

    OK = "ok"
    WRONG = "wrong"
    LIMIT = "limit"
    UNVERIFIABLE = "unverifiable"


@dataclass(frozen=True, slots=True, kw_only=True)
class MathVerdict:
    """What the rules say of one answer."""

    correct: bool
    status: MathStatus
    answer: str
    evidence: str


@lru_cache(maxsize=1)
def rules_version() -> str:
    """Name and version of the rules, for verdicts."""
    return f"math-rules/{RULES_VERSION} math-verify/{version('math-verify')}"


@lru_cache(maxsize=1)
def default_pool() -> MathPool:
    """One worker process, started by the first pair that the fast path leaves open, ended with this
    process.
    """
    pool = MathPool()
    atexit.register(pool.close)
    return pool


def _verdict(status: MathStatus, answer: str, evidence: str) -> MathVerdict:
    return MathVerdict(correct=status is MathStatus.OK, status=status, answer=answer, evidence=evidence)


def decide_quickly(gold: str, answer: str, extracted: bool) -> MathVerdict | Comparison:
    """A verdict without math-verify where one is possible, else the pair to hand to it."""
    if not extracted:
        extraction = extract_answer(answer)
        if extraction.answer is None:
            return _verdict(MathStatus.WRONG, "", extraction.reason)
        answer = extraction.answer
    comparison = compare_exact(gold, answer)
    if comparison.equal is not None:
        status = MathStatus.OK if comparison.equal else MathStatus.WRONG
        return _verdict(
            status, answer, f"{comparison.how}: {comparison.gold[:200]} | {comparison.answer[:200]}"
        )
    if restated := find_restatement(comparison.gold, comparison.answer):
        return _verdict(
            MathStatus.UNVERIFIABLE,
            answer,
            f"the answer still holds {restated}, which the reference has evaluated",
        )
    if danger := find_danger(comparison.answer):
        return _verdict(MathStatus.UNVERIFIABLE, answer, f"not evaluated: {danger}")
    return comparison


def decide_slowly(comparison: Comparison, answer: str, pool: MathPool, wait_s: float) -> MathVerdict:
    """The verdict of math-verify. Raises BusyError or UnavailableError when the pool cannot serve."""
    pair = f"{comparison.gold[:200]} | {comparison.answer[:200]}"
    word = pool.compare(comparison.gold, comparison.answer, wait_s=wait_s)
    if word is Word.LIMIT:
        return _verdict(MathStatus.LIMIT, answer, f"killed at the time or memory limit: {pair}")
    if word is Word.UNREADABLE:
        return _verdict(MathStatus.UNVERIFIABLE, answer, f"not readable as mathematics: {pair}")
    return _verdict(MathStatus.OK if word is Word.EQUAL else MathStatus.WRONG, answer, f"math-verify: {pair}")


def verify_math(
    gold: str,
    answer: str,
    extracted: bool | None = None,
    *,
    pool: MathPool | None = None,
    wait_s: float = WAIT_S,
) -> MathVerdict:
    """Whether an answer equals the reference.

    `extracted`: the answer is bare; None: look whether it is a response.
    """
    if extracted is None:
        extracted = not looks_like_response(answer)
    decision = decide_quickly(gold, answer, extracted)
    if isinstance(decision, MathVerdict):
        return decision
    bare = answer if extracted else extract_answer(answer).answer or ""
    return decide_slowly(decision, bare, pool or default_pool(), wait_s)
