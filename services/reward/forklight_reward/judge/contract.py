"""What a judge is asked and what it may say. An abstention has no score: it never counts as 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

LOWEST_GRADE = 1
HIGHEST_GRADE = 5


def score_of(grade: float) -> float:
    """A grade, or a mean of grades, on [0, 1]."""
    return (grade - LOWEST_GRADE) / (HIGHEST_GRADE - LOWEST_GRADE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A grade from 1 (wrong, empty, evasive) to 5 (equivalent and complete); None is an abstention."""

    grade: int | None
    evidence: str
    exact: float | None = None
    """The score where it is finer than the grade, as the mean of several votes is."""

    @property
    def score(self) -> float | None:
        """The grade on [0, 1]; None on abstention."""
        if self.grade is None:
            return None
        return score_of(self.grade) if self.exact is None else self.exact


def abstain(evidence: str) -> Judgement:
    """No score, and why."""
    return Judgement(grade=None, evidence=evidence)


class JudgeEngine(Protocol):
    """Grades a final answer against a reference."""

    @property
    def version(self) -> str:
        """Name and version, for verdicts."""
        ...

    async def judge(self, *, prompt: str, reference: str, answer: str, timeout_s: float) -> Judgement:
        """One judgement. UnavailableError, DeadlineError or BusyError when there is none to be had."""
        ...
