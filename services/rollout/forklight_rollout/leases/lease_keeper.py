"""Keeps the leases of held groups alive, and gives groups up: lost ones, unwanted ones, those handed back."""

from __future__ import annotations

import asyncio
import logging

from forklight_core.errors import ForklightError, UnavailableError
from forklight_core.queues import Lease, WorkQueue
from forklight_core.retry import retry_async
from forklight_rollout import metrics
from forklight_rollout.generation.generator import Generator
from forklight_rollout.generation.groups import FinishedSample
from forklight_rollout.leases.held_groups import HeldGroup
from forklight_rollout.leases.saving import SegmentSaver
from forklight_rollout.leases.trajectory import emit_generate_span
from forklight_rollout.problems import Area, Problems

log = logging.getLogger(__name__)

RELEASE_DEADLINE_S = 3.0
HEARTBEATS_PER_LEASE = 3
LONGEST_RETRY_S = 1.0


class LeaseKeeper:
    """Works beside the engine: a long generation never costs a lease."""

    def __init__(
        self,
        queue: WorkQueue,
        saver: SegmentSaver,
        *,
        problems: Problems,
        pod: str,
        lease_s: float,
    ) -> None:
        self._queue = queue
        self._saver, self._engine, self._held = saver, saver.engine, saver.held
        self._problems = problems
        self._pod = pod
        self._beat_s = lease_s / HEARTBEATS_PER_LEASE

    async def run(self) -> None:
        """Renew every lease three times a lease time, for ever."""
        while True:
            renewed = await self._beat()
            await asyncio.sleep(self._beat_s if renewed else min(LONGEST_RETRY_S, self._beat_s))

    async def give_up(self, group: HeldGroup, reason: str) -> int:
        """Stop everything about a group; returns how many of its samples were open."""
        dropped = self._held.drop(group)
        log.info(
            "group given up",
            extra={"group_id": group.group_id, "reason": reason, "num_samples": len(dropped)},
        )
        metrics.count_dropped_group(reason)
        await self.cancel(dropped)
        self._held.notify()
        return len(dropped)

    async def cancel(self, sample_ids: set[str]) -> None:
        """Stop generating samples that nobody wants."""

        def operation(generator: Generator) -> list[FinishedSample]:
            return generator.cancel(sample_ids)

        try:
            cancelled = await self._engine.call(operation)
        except UnavailableError as error:
            log.warning("nothing to cancel", extra={"reason": str(error)})
            return
        for sample in cancelled:
            emit_generate_span(sample, pod=self._pod)
            metrics.count_sample(sample, "cancelled")

    async def hand_back(self, group: HeldGroup, reason: str) -> int:
        """Save what a group has, give it up and let another pod have it, even if the engine is gone."""
        try:
            await self._saver.save_open(group)
            return await self.give_up(group, reason)
        finally:
            await self.release(group.lease)

    async def release(self, lease: Lease) -> None:
        """Hand a lease back. When the queue is away the lease ends by itself."""
        try:
            await retry_async(lambda: self._queue.release(lease), deadline_s=RELEASE_DEADLINE_S)
        except ForklightError as error:
            log.warning("lease not released", extra={"entry_id": lease.entry_id, "reason": str(error)})

    async def _beat(self) -> bool:
        leases = self._held.leases()
        try:
            kept = set(await self._queue.heartbeat(list(leases.values())))
        except UnavailableError as error:
            self._problems.report(Area.LEASES, str(error))
            return False
        self._problems.clear(Area.LEASES)
        for group_id, lease in leases.items():
            group = self._held.find(group_id)
            if lease not in kept and group is not None and group.lease == lease:
                await self.give_up(group, "lease_lost")
        return True
