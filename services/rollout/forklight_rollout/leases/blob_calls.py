"""The blob store with patience: a full or absent one is waited out for as long as the group is ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from forklight_core.blobs import BlobRef, BlobStore
from forklight_core.errors import BusyError, DeadlineError, UnavailableError
from forklight_core.retry import backoff_delays
from forklight_rollout.leases.held_groups import HeldGroup
from forklight_rollout.problems import Area, Problems

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobCalls:
    """FencedError once the group was given up; what waits to be put is safe in memory until then."""

    store: BlobStore
    problems: Problems

    async def put(self, build: Callable[[], bytes], group: HeldGroup) -> BlobRef:
        """Store bytes, which are made for each try, away from the event loop."""
        return await self._call(lambda: self.store.put(build()), group)

    async def get(self, blob_id: str, group: HeldGroup) -> bytes:
        """Read bytes; NotFoundError and DataLossError are answers, and not waited out."""
        return await self._call(lambda: self.store.get(blob_id), group)

    async def _call(self, call: Callable[[], Result], group: HeldGroup) -> Result:
        for delay in backoff_delays():
            group.require_held()
            try:
                result = await asyncio.to_thread(call)
            except (BusyError, UnavailableError, DeadlineError) as error:
                self.problems.report(Area.BLOBS, str(error))
            else:
                self.problems.clear(Area.BLOBS)
                return result
            await asyncio.sleep(delay)
        raise AssertionError("backoff_delays never ends")
