"""Tokens a second over the last 10 s, from a counter that only grows."""

from __future__ import annotations

import threading
from collections import deque

WINDOW_S = 10.0
RESOLUTION_S = 0.25


class Throughput:
    """Written by the engine thread, read by the event loop."""

    def __init__(self) -> None:
        self._readings: deque[tuple[float, int]] = deque()
        self._lock = threading.Lock()

    def note(self, now: float, total: int) -> None:
        """The counter stands at `total`. Cheap when called more often than the resolution."""
        readings = self._readings
        if readings and now - readings[-1][0] < RESOLUTION_S:
            return
        with self._lock:
            readings.append((now, total))
            while len(readings) > 1 and readings[1][0] <= now - WINDOW_S:
                readings.popleft()

    def tokens_per_s(self, now: float, total: int) -> float:
        """Mean rate of the last 10 s, or since the first reading when that is less."""
        with self._lock:
            before = [reading for reading in self._readings if reading[0] <= now - WINDOW_S]
            at, count = before[-1] if before else next(iter(self._readings), (now, total))
        return (total - count) / max(RESOLUTION_S, min(WINDOW_S, now - at))
