"""The padding probe: the same answer, longer without content. What it gains is caused by length alone."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from forklight_reward.judge.chat import together
from forklight_reward.judge.contract import JudgeEngine
from forklight_reward.judge.prompt import Question

FACTORS = (2, 4)
MEAN_DOUBLINGS = statistics.fmean(math.log2(factor) for factor in FACTORS)
"""By which the paddings of an answer lengthen it."""
ONE_SIDED_95 = 1.645
AT_ONCE = 8
FILLERS = (
    "To put it once more in other words, this is what was asked for.",
    "It should be noted that all of the above is to be read together.",
    "As was said before, the answer is the one that is given here.",
    "Taking everything into account, nothing else needs to be added.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddingReport:
    """What padding gains."""

    gain: float
    lower95: float
    """Where the gain surely is above, in 95 of 100."""
    num_pairs: int


def pad(answer: str, factor: int) -> str:
    """The answer, then sentences that say nothing, until it is `factor` times as long."""
    parts, length, number = [answer], len(answer), 0
    while length < factor * len(answer):
        filler = FILLERS[number % len(FILLERS)]
        parts.append(filler)
        length += len(filler) + 1
        number += 1
    return " ".join(parts)


Row = tuple[float | None, ...]
"""Scores of one answer: as it is, then padded by each factor."""


async def probe_padding(
    engine: JudgeEngine, frozen: Sequence[Question], *, timeout_s: float
) -> PaddingReport | None:
    """Judge frozen answers as they are and padded 2 and 4 times; None when nothing could be compared."""
    return report_padding(await score_padded(engine, frozen, timeout_s=timeout_s))


async def score_padded(
    engine: JudgeEngine, frozen: Sequence[Question], *, timeout_s: float, at_once: int = AT_ONCE
) -> list[Row]:
    """The scores of each answer; None where the judge would not say."""
    deadline, slots = time.monotonic() + timeout_s, asyncio.Semaphore(at_once)

    async def score(question: Question, factor: int) -> float | None:
        async with slots:
            judgement = await engine.judge(
                prompt=question.task,
                reference=question.reference,
                answer=pad(question.candidate, factor),
                timeout_s=deadline - time.monotonic(),
            )
        return judgement.score

    factors = (1, *FACTORS)
    scores = await together(*(score(question, factor) for question in frozen for factor in factors))
    return [tuple(scores[start : start + len(factors)]) for start in range(0, len(scores), len(factors))]


def report_padding(rows: Sequence[Row]) -> PaddingReport | None:
    """The gain. The mean over an answer's paddings: they hang together, so an answer counts once."""
    gains = [
        statistics.fmean(each - plain for each in padded if each is not None)
        for plain, *padded in rows
        if plain is not None and any(each is not None for each in padded)
    ]
    if len(gains) < 2:
        return None
    gain, error = statistics.fmean(gains), statistics.stdev(gains) / math.sqrt(len(gains))
    return PaddingReport(gain=gain, lower95=gain - ONE_SIDED_95 * error, num_pairs=len(gains))
