"""Watches a judge at work: groups become windows of 64 for the length monitor, votes become figures.

Correctness comes from the exact rules, where an answer has a box and its reference is short enough to be one.
Samples that no rule can tell are left out of the slope: without correctness it would mislead.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from forklight_reward import metrics
from forklight_reward.judge.contract import JudgeEngine, Judgement
from forklight_reward.judge.length_fit import Floats, Window
from forklight_reward.judge.length_monitor import GROUPS_A_WINDOW
from forklight_reward.judge.pairwise import Pairwise
from forklight_reward.verifier.extract import extract_answer
from forklight_reward.verifier.verify import MathStatus, MathVerdict, decide_quickly

MOST_OPEN_GROUPS = 512
MOST_REFERENCE_CHARACTERS = 64
PAIRS_EVERY = 32
JUDGEMENTS_REMEMBERED = 512
OLDEST_OPEN = 2
"""Policy versions behind the newest: samples of a group that come later went to other judges."""
TELLING = (MathStatus.OK, MathStatus.WRONG)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One sample that was judged."""

    group_id: str
    sample_id: str
    version: int
    """Policy version its group was opened at."""
    reference: str
    response: str
    judgement: Judgement
    length: float
    """log2 of the characters that were judged."""
    offset: float = 0.0
    """Taken off the score before it was given out."""
    calibration: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One judged sample whose correctness is known."""

    score: float
    served: float
    length: float
    is_correct: bool


@dataclass(slots=True, kw_only=True)
class SeenGroup:
    """A group some of whose samples were judged, all under one calibration."""

    version: int
    calibration: int
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
    """Hands windows of closed groups on. A group is closed when all of its samples came, when 512 newer ones
    are open, or when the policy is two versions on.
    """

    def __init__(self, on_window: Callable[[Sequence[SeenGroup]], None], *, group_size: int) -> None:
        self._on_window = on_window
        self._group_size = group_size
        self._open: OrderedDict[str, SeenGroup] = OrderedDict()
        self._closed: list[SeenGroup] = []
        self._outcomes: deque[bool] = deque(maxlen=JUDGEMENTS_REMEMBERED)
        self._newest = 0

    @property
    def abstain_share(self) -> float:
        """Of the last 512 judgements."""
        return sum(self._outcomes) / len(self._outcomes) if self._outcomes else 0.0

    def count(self, engine: JudgeEngine, judgement: Judgement) -> None:
        """One judgement, whoever it was for."""
        metrics.count_judgement(is_abstention=judgement.score is None)
        self._outcomes.append(judgement.score is None)
        metrics.set_judge_abstain_share(self.abstain_share)
        if isinstance(engine, Pairwise) and engine.statistics.num_added % PAIRS_EVERY == 0:
            pairs = engine.statistics.report()
            metrics.set_judge_pairs(pairs.inconsistency, pairs.position_bias, is_alarm=pairs.is_alarm)

    def add(self, sample: Seen) -> None:
        """One sample of a group; what is delivered again counts once."""
        if not sample.group_id:
            return
        group = self._open.get(sample.group_id)
        if group is None:
            group = SeenGroup(version=sample.version, calibration=sample.calibration)
            self._open[sample.group_id] = group
        if sample.sample_id in group.seen:
            return
        group.seen.add(sample.sample_id)
        is_correct = known_correctness(sample.reference, sample.response)
        metrics.count_watched(is_matched=is_correct is not None)
        score = sample.judgement.score
        if score is not None and is_correct is not None:
            served = score - sample.offset
            group.sightings.append(
                Sighting(score=score, served=served, length=sample.length, is_correct=is_correct)
            )
        if len(group.seen) >= self._group_size:
            self._close(sample.group_id)
        elif len(self._open) > MOST_OPEN_GROUPS:
            self._close(next(iter(self._open)))
        if sample.version > self._newest:
            self._newest = sample.version
            self._close_old()

    def _close_old(self) -> None:
        for group_id, group in list(self._open.items()):
            if group.version < self._newest - OLDEST_OPEN:
                self._close(group_id)

    def _close(self, group_id: str) -> None:
        group = self._open.pop(group_id)
        if len(group.sightings) > 1:
            self._closed.append(group)
        if len(self._closed) >= GROUPS_A_WINDOW:
            closed, self._closed = self._closed, []
            self._on_window(closed)


def length_of(text: str) -> float:
    """log2 of its characters; of nothing, of one."""
    return math.log2(max(1, len(text)))


def window_of(groups: Sequence[SeenGroup], calibration: int) -> tuple[Window, Floats]:
    """The columns of closed groups as the judge scored them, and the scores as given out under one
    calibration, NaN where it was another.
    """
    rows = [(number, group, each) for number, group in enumerate(groups) for each in group.sightings]
    window = Window(
        scores_N=np.array([each.score for _, _, each in rows], dtype=np.float64),
        lengths_N=np.array([each.length for _, _, each in rows], dtype=np.float64),
        correct_N=np.array([each.is_correct for _, _, each in rows], dtype=np.float64),
        groups_N=np.array([number for number, _, _ in rows], dtype=np.int64),
    )
    served = [each.served if group.calibration == calibration else np.nan for _, group, each in rows]
    return window, np.array(served, dtype=np.float64)
