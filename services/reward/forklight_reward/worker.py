"""The front's queue door: takes scoring tasks, keeps their leases alive, scores, submits.

A sample leaves here in one of three ways: its verdict is accepted, a newer holder has it (FencedError), or
its lease is left to expire so that the queue delivers it again. The buffer settles the entry when it accepts
the verdict. A sample whose class is full goes to the end of the queue, as a new entry: nothing was tried, so
no delivery counts against it, and samples of other classes behind it come forward.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from forklight.v1 import types_pb2
from forklight_core.errors import FencedError, ForklightError, UnavailableError
from forklight_core.lifecycle import sleep_or_stop
from forklight_core.queues import Lease, Leased, WorkQueue
from forklight_core.retry import retry_async
from forklight_core.wire import parse
from forklight_reward import metrics
from forklight_reward.front.lanes import Lanes, Sorter, WorkClass
from forklight_reward.front.scorer import score_span
from forklight_reward.ports import Buffer

TAKE_WAIT_S = 0.5
QUEUE_AWAY_S = 1.0
GATHER_S = 0.02
"""Between two takes, so that what comes within it is taken, and answered, together."""

FULL_S = 0.2
"""Before the next take, with jitter, when all that came went back."""
MOST_AT_ONCE = 64

Score = Callable[[types_pb2.ScoringTask, int], Awaitable[types_pb2.Verdict]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLimits:
    """Bounds of one worker."""

    pod: str
    lease_s: float
    submit_deadline_s: float
    drain_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """Who scores, in which lines."""

    score: Score
    sorter: Sorter
    lanes: Lanes


class ScoringWorker:
    """Scores as many samples of each class at once as its line has places."""

    def __init__(self, *, queue: WorkQueue, desk: Desk, buffer: Buffer, limits: WorkerLimits) -> None:
        self._queue = queue
        self._desk = desk
        self._buffer = buffer
        self._limits = limits
        self._held: dict[Lease, asyncio.Task[None]] = {}
        self._has_room = asyncio.Event()
        self._has_room.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`, then finish what runs within drain_s and hand back the rest."""
        async with asyncio.TaskGroup() as group:
            keeper = group.create_task(self._keep_leases())
            while not stop.is_set():
                await self._take(group, stop)
            await self._drain()
            keeper.cancel()

    async def _take(self, group: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        num_free = min(self._desk.lanes.num_room, MOST_AT_ONCE)
        if num_free <= 0:
            self._has_room.clear()
            await _first_of(self._has_room, stop)
            return
        try:
            taken = await self._queue.take(self._limits.pod, wait_s=TAKE_WAIT_S, max_items=num_free)
        except UnavailableError as error:
            logger.warning("scoring queue is away", extra={"reason": str(error)})
            await sleep_or_stop(stop, QUEUE_AWAY_S)
            return
        num_kept = 0
        for leased in taken:
            num_kept += await self._place(group, leased)
        metrics.set_running(len(self._held))
        await sleep_or_stop(stop, FULL_S * random.uniform(0.5, 1.0) if taken and not num_kept else GATHER_S)

    async def _place(self, group: asyncio.TaskGroup, leased: Leased) -> bool:
        """Put a sample into the line of its class, or back into the queue when that is full."""
        try:
            parsed = parse(types_pb2.ScoringTask, leased.body)
        except ForklightError as error:
            metrics.count_dropped("refused")
            logger.error(
                "entry of the scoring queue cannot be read, it is left to the dead letters",
                extra={"entry_id": leased.lease.entry_id, "reason": str(error)},
            )
            return True
        work_class = await self._desk.sorter.sort(parsed)
        if not self._desk.lanes.has_room(work_class):
            await self._hand_back(leased, work_class)
            return False
        task = group.create_task(self._handle(parsed, leased.lease, work_class))
        self._held[leased.lease] = task
        task.add_done_callback(partial(self._forget, leased.lease))
        await asyncio.sleep(0)  # it takes its place before the next one is asked for
        return True

    async def _hand_back(self, leased: Leased, work_class: WorkClass) -> None:
        """Put at the end of the queue, then settled here: cut off between the two it is there twice, and
        the buffer takes one verdict.
        """
        try:
            await self._queue.put(leased.body)
            await self._queue.settle(leased.lease)
        except UnavailableError as error:
            logger.warning("sample not handed back, its lease will expire", extra={"reason": str(error)})
        else:
            metrics.count_handed_back(work_class.value)

    def _forget(self, lease: Lease, task: asyncio.Task[None]) -> None:
        self._held.pop(lease, None)
        self._has_room.set()
        metrics.set_running(len(self._held))

    async def _handle(self, task: types_pb2.ScoringTask, lease: Lease, work_class: WorkClass) -> None:
        """One sample, behind the door: whatever goes wrong, the others go on and the lease tells the rest."""
        try:
            async with self._desk.lanes.hold(work_class):
                with score_span(task.envelope):
                    verdict = await self._desk.score(task, lease.fence)
                    await self._submit(verdict, lease)
        except FencedError as error:
            metrics.count_dropped("fenced")
            logger.info("sample has a newer holder", extra={"entry_id": lease.entry_id, "reason": str(error)})
        except ForklightError as error:
            metrics.count_dropped("refused")
            logger.error(
                "verdict not submitted, the queue will deliver the sample again",
                extra={"entry_id": lease.entry_id, "reason": str(error), "error_type": type(error).__name__},
            )
        except Exception:
            metrics.count_dropped("failed")
            logger.exception(
                "scoring failed, the queue will deliver the sample again", extra={"entry_id": lease.entry_id}
            )

    async def _submit(self, verdict: types_pb2.Verdict, lease: Lease) -> None:
        """Offer the verdict until the buffer takes it; the lease is kept alive meanwhile."""
        await retry_async(
            lambda: self._buffer.submit_verdict(verdict, lease),
            deadline_s=self._limits.submit_deadline_s,
        )

    async def _keep_leases(self) -> None:
        """Renew every third of a lease; what is no longer ours is dropped."""
        while True:
            await asyncio.sleep(self._limits.lease_s / 3)
            leases = list(self._held)
            try:
                ours = set(await self._queue.heartbeat(leases))
            except UnavailableError as error:
                logger.warning(
                    "leases could not be renewed", extra={"reason": str(error), "num_leases": len(leases)}
                )
                continue
            for lease in leases:
                if lease not in ours and (task := self._held.get(lease)) is not None:
                    metrics.count_dropped("fenced")
                    task.cancel()

    async def _drain(self) -> None:
        deadline = time.monotonic() + self._limits.drain_s
        while self._held and time.monotonic() < deadline:
            await asyncio.wait(self._held.values(), timeout=max(0.0, deadline - time.monotonic()))
        for lease, task in list(self._held.items()):
            task.cancel()
            try:
                await self._queue.release(lease)
            except UnavailableError as error:
                logger.warning("lease not handed back, it will expire", extra={"reason": str(error)})


async def _first_of(*events: asyncio.Event) -> None:
    """Return when one of the events is set."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waiting:
            wait.cancel()
