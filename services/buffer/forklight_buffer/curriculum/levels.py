"""The level of each task: up when it passes more than half of its level's groups, down when hardly any."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from forklight_core.runfile.sections.curriculum import LevelsSection


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelChange:
    """A task rose or fell, and the evidence that moved it."""

    task: str
    before: int
    after: int
    average: float
    num_groups: int
    number: int
    """Of the last piece of evidence: the same change has the same number whenever it is found again."""
    step: int


class Ladder:
    """Levels of one task that have prompts, and where it stands."""

    def __init__(self, task: str, levels: Iterable[int], section: LevelsSection) -> None:
        self.task = task
        self._levels = sorted(set(levels))
        self._section = section
        self._place = max(0, sum(level <= section.start for level in self._levels) - 1)
        self.average = 0.0
        self._num_groups = 0

    @property
    def level(self) -> int:
        """Where it stands."""
        return self._levels[self._place]

    @property
    def drawn(self) -> frozenset[int]:
        """Levels that prompts are drawn of: its own, and those just below."""
        return frozenset(self._levels[max(0, self._place - self._section.keep_below) : self._place + 1])

    def see(self, level: int, pass_rate: float, *, number: int, step: int) -> LevelChange | None:
        """A group has finished; only those of its own level say anything of it."""
        if level != self.level:
            return None
        kept = self._section.smoothing if self._num_groups else 0.0
        self.average = kept * self.average + (1.0 - kept) * pass_rate
        self._num_groups += 1
        move = self._move()
        if not move:
            return None
        change = LevelChange(
            task=self.task,
            before=level,
            after=self._levels[self._place + move],
            average=self.average,
            num_groups=self._num_groups,
            number=number,
            step=step,
        )
        self._place += move
        self.average, self._num_groups = 0.0, 0
        return change

    def _move(self) -> int:
        if self._num_groups < self._section.min_groups:
            return 0
        if self.average > self._section.raise_above:
            return 1 if self._place + 1 < len(self._levels) else 0
        return -1 if self.average < self._section.lower_below and self._place else 0
