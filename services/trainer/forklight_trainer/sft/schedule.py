"""The learning rate of a step, and how long the rest will take."""

from __future__ import annotations

import math
import time
from collections import deque

from forklight_core.runfile.schema import SftSection

WINDOW_STEPS = 20


def learning_rate_at(step: int, num_steps: int, sft: SftSection) -> float:
    """Linear warm-up, then a cosine down to a share of the peak; step 1 is the first."""
    warmup = max(1, round(num_steps * sft.warmup_share))
    cosine = 0.5 * (1 + math.cos(math.pi * step / num_steps))
    share = min(1.0, step / warmup) * (sft.final_share + (1 - sft.final_share) * cosine)
    return sft.learning_rate * share


class Pace:
    """Speed over the last steps."""

    def __init__(self) -> None:
        self.start_s = time.monotonic()
        self._marks: deque[tuple[float, int]] = deque([(self.start_s, 0)], maxlen=WINDOW_STEPS + 1)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.start_s

    def begin(self) -> None:
        """The first step begins now: what was prepared before is nobody's pace."""
        self._marks.clear()
        self._marks.append((time.monotonic(), 0))

    def mark(self, num_tokens: int) -> None:
        """A step of so many tokens is done."""
        self._marks.append((time.monotonic(), num_tokens))

    @property
    def tokens_per_s(self) -> float:
        tokens = sum(num_tokens for _, num_tokens in list(self._marks)[1:])
        return tokens / max(1e-9, self._window_s)

    def eta_s(self, num_steps_left: int) -> float:
        """Seconds until so many more steps are done."""
        return num_steps_left * self._window_s / max(1, len(self._marks) - 1)

    @property
    def _window_s(self) -> float:
        return self._marks[-1][0] - self._marks[0][0]
