"""Which checkpoints stay. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """As the run file has it."""

    keep_last: int
    keep_every_steps: int = 0
    """0: nothing is kept for ever."""

    def choose(self, steps: Sequence[int], *, needed: Collection[int] = ()) -> set[int]:
        """Of ascending steps, those to keep; of those up to each `needed` one, the newest."""
        kept = set(steps[-self.keep_last :])
        if self.keep_every_steps:
            firsts: dict[int, int] = {}
            for step in steps:
                firsts.setdefault(step // self.keep_every_steps, step)
            kept |= {step for period, step in firsts.items() if period}
        for wanted in needed:
            kept |= {max(found) for found in [[step for step in steps if step <= wanted]] if found}
        return kept
