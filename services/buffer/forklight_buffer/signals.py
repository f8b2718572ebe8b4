"""Wakes whoever waits for something to move, inside this process."""

from __future__ import annotations

import asyncio


class Signal:
    """Counts notifications, so that one between looking and waiting is not missed."""

    def __init__(self) -> None:
        self._count = 0
        self._event = asyncio.Event()

    def mark(self) -> int:
        """Take this before looking."""
        return self._count

    def notify(self) -> None:
        """Something moved."""
        self._count += 1
        self._event.set()
        self._event = asyncio.Event()

    async def wait_past(self, mark: int, timeout_s: float) -> None:
        """Return when something moved since the mark, or after the time."""
        if self._count > mark or timeout_s <= 0:
            return
        try:
            await asyncio.wait_for(self._event.wait(), timeout_s)
        except TimeoutError:
            return
