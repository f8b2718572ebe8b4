"""Ctrl-C, SIGTERM and SIGHUP as a question to ask: the first means stop in order, the second means now."""

from __future__ import annotations

import signal
import threading
from types import FrameType

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """Counts stop signals while the block runs; the main thread asks."""

    def __init__(self) -> None:
        self.count = 0
        self._woken = threading.Event()
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopSignals:
        for number in NUMBERS:
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # whatever it was

    @property
    def requested(self) -> bool:
        """Asked to stop."""
        return self.count >= 1

    @property
    def urgent(self) -> bool:
        """Asked twice: no more waiting."""
        return self.count >= 2

    def wait(self, seconds: float) -> bool:
        """Sleep, woken by a signal; whether a stop is requested."""
        self._woken.wait(seconds)
        self._woken.clear()
        return self.requested

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        self._woken.set()
