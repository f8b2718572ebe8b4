"""Which calibration a group is judged under: that of the policy version it was opened at."""

from __future__ import annotations

import asyncio
import time

from forklight_reward.judge.recalibration import Calibration, Level
from forklight_reward.judge.store import MOST_PINS, CalibrationStore

LOOK_AGAIN_S = 1.0
"""While a version is switched off: a person may allow it again."""


class CalibrationKeeper:
    """What this process has read of the store."""

    def __init__(self, store: CalibrationStore) -> None:
        self._store = store
        self._known: dict[int, Calibration] = {}
        self._one_at_a_time = asyncio.Lock()
        self._looked_at = 0.0
        self.newest: int | None = None
        """The policy version that was seen for the first time last."""
        self.num_switches = 0
        """Policy versions seen for the first time."""

    async def of_version(self, version: int) -> Calibration:
        """UnavailableError or DataLossError when the store cannot be read: then nothing is judged."""
        known = self._known.get(version)
        if known is None or self._may_be_over(known):
            async with self._one_at_a_time:
                known = self._known.get(version)
                if known is None or self._may_be_over(known):
                    known = await self._read(version)
        return known

    async def newest_of_all(self) -> Calibration:
        """For what belongs to no group."""
        if self.newest is not None:
            return await self.of_version(self.newest)
        return (await asyncio.to_thread(self._store.read)).current

    async def _read(self, version: int) -> Calibration:
        calibration = await asyncio.to_thread(self._store.pin, version)
        self._looked_at = time.monotonic()
        if version not in self._known:
            self.newest = version
            self.num_switches += 1
        self._known[version] = calibration
        while len(self._known) > MOST_PINS:
            del self._known[next(iter(self._known))]
        return calibration

    def _may_be_over(self, calibration: Calibration) -> bool:
        return calibration.level is Level.OFF and time.monotonic() - self._looked_at > LOOK_AGAIN_S
