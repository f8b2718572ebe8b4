"""What a judge is asked and what it may say. An abstention has no score: it never counts as 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

LOWEST_GRADE = 1
HIGHEST_GRADE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A grade from 1 (wrong, empty, evasive) to 5 (equivalent and complete); None is an abstention."""

    grade: int | None
    evidence: str

    @property
    def score(self) -> float | None:
        """The grade on [0, 1]; None on abstention."""
        if self.grade is None:
            return None
        return (self.grade - LOWEST_GRADE) / (HIGHEST_GRADE - LOWEST_GRADE)


class JudgeEngine(Protocol):
    """Grades a final answer against a reference."""

    @property
    def version(self) -> str:
        """Name and version, for verdicts."""
        ...

    async def judge(self, *, prompt: str, reference: str, answer: str, timeout_s: float) -> Judgement:
        """One judgement. UnavailableError or DeadlineError when there is none to be had."""
        ...
