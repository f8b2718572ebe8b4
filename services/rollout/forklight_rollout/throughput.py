"""Tokens a second over the last 10 s, from a counter that only grows."""

from __future__ import annotations

import threading
from collections import deque

WINDOW_S = 10.0
RESOLUTION_S = 0.25


class Throughput:
    """Written by the engine thread, read by the event loop."""

    def __init__(self) -> None:
        self._readings: deque[tuple[float, int]] = deque([(-WINDOW_S, 0)])
        self._lock = threading.Lock()

    def note(self, now: float, total: int) -> None:
        """The counter stands at `total`. Cheap when called more often than the resolution."""
        with self._lock:
            if now - self._readings[-1][0] < RESOLUTION_S:
                return
            self._readings.append((now, total))
            while self._readings[0][0] < now - WINDOW_S - RESOLUTION_S:
                self._readings.popleft()

    def tokens_per_s(self, now: float, total: int) -> float:
        """Mean rate of the last 10 s."""
        with self._lock:
            before = [count for at, count in self._readings if at <= now - WINDOW_S]
            oldest = before[-1] if before else (self._readings[0][1] if self._readings else 0)
        return max(0.0, (total - oldest) / WINDOW_S)
