"""Watches a judge at work: what length is worth to it and how much the order decides, as metrics.

Correctness comes from the exact rules, where an answer has a box and its reference is short enough to be one.
Samples that no rule can tell are left out of the slope: without correctness it would mislead.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

from forklight_reward import metrics
from forklight_reward.judge.contract import JudgeEngine, Judgement
from forklight_reward.judge.length_fit import Window, fit_length
from forklight_reward.judge.length_monitor import GROUPS_A_WINDOW, LengthMonitor, MonitorReport
from forklight_reward.judge.pairwise import Pairwise
from forklight_reward.verifier.extract import extract_answer, final_part
from forklight_reward.verifier.verify import MathStatus, MathVerdict, decide_quickly

MOST_OPEN_GROUPS = 512
MOST_REFERENCE_CHARACTERS = 64
PAIRS_EVERY = 32
TELLING = (MathStatus.OK, MathStatus.WRONG)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One judged sample."""

    score: float
    length: float
    """log2 of the characters that were judged."""
    is_correct: bool


@dataclass(slots=True, kw_only=True)
class OpenGroup:
    """A group some of whose samples were judged."""

    seen: set[str] = field(default_factory=set)
    sightings: list[Sighting] = field(default_factory=list)


def known_correctness(reference: str, response: str) -> bool | None:
    """What the exact rules say, where they can."""
    if len(reference) > MOST_REFERENCE_CHARACTERS or extract_answer(response).answer is None:
        return None
    verdict = decide_quickly(reference, response, extracted=False)
    if isinstance(verdict, MathVerdict) and verdict.status in TELLING:
        return verdict.correct
    return None


class JudgeWatch:
    """Groups become windows of 64, windows become figures. A group is closed when all of its samples came, or
    when 512 newer ones are open.
    """

    def __init__(self, engine: JudgeEngine, *, group_size: int) -> None:
        self.monitor = LengthMonitor()
        self._engine = engine
        self._group_size = group_size
        self._open: OrderedDict[str, OpenGroup] = OrderedDict()
        self._closed: list[list[Sighting]] = []
        self._num_judged = 0

    def add(
        self, *, group_id: str, sample_id: str, reference: str, response: str, judgement: Judgement
    ) -> None:
        """One sample; what is delivered again counts once."""
        metrics.count_judgement(is_abstention=judgement.score is None)
        self._num_judged += 1
        if isinstance(self._engine, Pairwise) and self._num_judged % PAIRS_EVERY == 0:
            pairs = self._engine.statistics.report()
            metrics.set_judge_pairs(pairs.inconsistency, pairs.position_bias, is_alarm=pairs.is_alarm)
        if not group_id:
            return
        group = self._open.setdefault(group_id, OpenGroup())
        if sample_id in group.seen:
            return
        group.seen.add(sample_id)
        is_correct = known_correctness(reference, response)
        metrics.count_watched(is_matched=is_correct is not None)
        if judgement.score is not None and is_correct is not None:
            length = math.log2(max(1, len(final_part(response).strip())))
            group.sightings.append(Sighting(score=judgement.score, length=length, is_correct=is_correct))
        if len(group.seen) >= self._group_size:
            self._close(group_id)
        elif len(self._open) > MOST_OPEN_GROUPS:
            self._close(next(iter(self._open)))

    def _close(self, group_id: str) -> None:
        group = self._open.pop(group_id)
        if len(group.sightings) > 1:
            self._closed.append(group.sightings)
        if len(self._closed) >= GROUPS_A_WINDOW:
            self._report(self.monitor.add_window(fit_length(window_of(self._closed))))
            self._closed = []

    def _report(self, report: MonitorReport) -> None:
        slope = None if report.fit is None else report.fit.beta
        metrics.set_judge_length(slope, report.cusum, is_alarm=report.is_alarm)
        if report.is_alarm:
            logger.warning(
                "judge pays for length",
                extra={"judge": self._engine.version, "slope": slope, "cusum": report.cusum},
            )


def window_of(groups: list[list[Sighting]]) -> Window:
    """The columns of closed groups."""
    rows = [(number, each) for number, sightings in enumerate(groups) for each in sightings]
    return Window(
        scores_N=np.array([each.score for _, each in rows], dtype=np.float64),
        lengths_N=np.array([each.length for _, each in rows], dtype=np.float64),
        correct_N=np.array([each.is_correct for _, each in rows], dtype=np.float64),
        groups_N=np.array([number for number, _ in rows], dtype=np.int64),
    )
