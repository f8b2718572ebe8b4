"""The queue door: takes groups while there is room, hands finished samples over, drains.

    tasks --take--> Intake --> engine thread --deliver--> finished --N at a time--> Submission
               ^                                             |                      (blobs, buffer)
               '----- only while both have room <------------'
    beside it: LeaseKeeper (heartbeat)
    engine thread --call_out--> calls --N at a time--> ToolDesk --resume--> engine thread

Nothing piles up: every sample in the engine or behind it belongs to a held lease, and a lease is only taken
while both are below their limits. Broad `except` is here and nowhere else: a task or sample that fails costs
its group's lease, never the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass

from forklight_core.errors import FencedError, ForklightError, InvalidInputError, UnavailableError
from forklight_core.lifecycle import sleep_or_stop
from forklight_core.queues import Lease, Leased
from forklight_rollout import metrics
from forklight_rollout.generation.groups import FinishedSample
from forklight_rollout.leases.held_groups import HeldGroup
from forklight_rollout.leases.intake import Intake
from forklight_rollout.leases.saving import SegmentSaver
from forklight_rollout.leases.submission import Submission
from forklight_rollout.ports import SubmitOutcome
from forklight_rollout.problems import Area
from forklight_rollout.tools.desk import ToolDesk
from forklight_rollout.tools.ports import ToolCall

log = logging.getLogger(__name__)

TAKE_WAIT_S = 1.0
RETRY_WAIT_S = 0.5
LAST_SUBMITS_S = 10.0
SAVE_SHARE = 0.25
"""Of the time for a drain: kept for saving what could not be finished."""
REFUSAL_PAUSE_S = 1.0
"""A task that failed is handed back only after this, so that it does not spin between pods."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLimits:
    """How much a worker takes on, and how long it may take to let go."""

    drain_s: float
    num_submitters: int = 64
    max_unsubmitted: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainOutcome:
    """What a drain achieved, in samples."""

    num_finished: int
    num_released: int


class Worker:
    """Runs in the event loop; the engine thread generates."""

    def __init__(
        self,
        intake: Intake,
        submission: Submission,
        saver: SegmentSaver,
        limits: WorkerLimits,
        desk: ToolDesk | None = None,
    ) -> None:
        self.num_submitted = 0
        self.saver = saver
        self._intake, self._submission, self._limits = intake, submission, limits
        self._engine, self.held, self._keeper = intake.engine, intake.held, submission.keeper
        self._problems = intake.buffer.problems
        # Unbounded in form only: `_has_room` bounds what can ever be in it.
        self._finished: asyncio.Queue[FinishedSample] = asyncio.Queue()
        # As many as samples are open.
        self._calls: asyncio.Queue[ToolCall] = asyncio.Queue()
        self._desk = desk
        self._leaving: set[str] = set()
        self._draining = asyncio.Event()
        self._is_aside = False
        self._taking = asyncio.Lock()
        self._takes_ended = asyncio.Event()
        self._releases: set[asyncio.Task[None]] = set()
        self._drain: asyncio.Task[DrainOutcome] | None = None

    @property
    def is_draining(self) -> bool:
        return self._draining.is_set()

    @property
    def num_unsubmitted(self) -> int:
        return self.held.num_unsubmitted

    async def run(self, stop: asyncio.Event) -> None:
        """Work until told to stop, then drain. A failure ends it, after every lease was handed back."""
        self._engine.start(deliver=self._deliver, call_out=self._call_out if self._desk else None)
        try:
            async with asyncio.TaskGroup() as tasks:
                endless = [tasks.create_task(self._keeper.run()), tasks.create_task(self._watch_engine())]
                endless.append(tasks.create_task(self.saver.run()))
                endless += [tasks.create_task(self._submit_all()) for _ in range(self._limits.num_submitters)]
                if self._desk is not None:
                    num_calls = self._desk.toolbox.num_calls
                    endless += [tasks.create_task(self._answer_all(self._desk)) for _ in range(num_calls)]
                tasks.create_task(self._take_all())
                await stop.wait()
                await self.drain(self._limits.drain_s)
                for task in endless:
                    task.cancel()
        except (BaseExceptionGroup, asyncio.CancelledError):
            await self.let_go()
            raise

    async def stand_aside(self) -> None:
        """Take nothing more, submit what has ended, hand the rest back; until `resume`."""
        self._is_aside = True
        self.held.notify()
        async with self._taking:
            pass  # a take under way would take what is handed back
        await self._wait_submitted()
        # A group without samples is being received; whoever receives it hands it back.
        await self._hand_back([group for group in self.held.all() if group.open_samples], "out_of_service")

    def resume(self) -> None:
        """Take work again."""
        self._is_aside = False
        self.held.notify()

    async def let_go(self) -> None:
        """Hand every lease back without asking the engine for anything: it has failed."""
        self._is_aside = True
        for group in self.held.all():
            self.held.drop(group)
            metrics.count_dropped_group("pod_failed")
            await self._keeper.release(group.lease)

    async def _watch_engine(self) -> None:
        """When the engine fails, what has ended before is still submitted; then the failure ends the pod."""
        try:
            await self._engine.wait_ended()
        except Exception as error:
            log.exception("engine failed")
            self._is_aside = True
            self._problems.report(Area.ENGINE, f"{type(error).__name__}: {error}; the pod ends")
            await self._wait_submitted()
            raise

    async def _wait_submitted(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_SUBMITS_S):
                await self.held.wait_for(lambda: self.held.num_unsubmitted == 0)

    async def drain(self, deadline_s: float) -> DrainOutcome:
        """Stop taking, finish what runs within the deadline, hand the rest back. Asked again, the same."""
        if self._drain is None:
            self._drain = asyncio.create_task(self._drain_within(deadline_s))
        return await asyncio.shield(self._drain)

    async def _drain_within(self, deadline_s: float) -> DrainOutcome:
        log.info("draining", extra={"deadline_s": deadline_s, "num_groups": len(self.held)})
        end = asyncio.get_running_loop().time() + deadline_s
        before = self.num_submitted
        self._draining.set()
        self.held.notify()
        num_released = 0
        try:
            async with asyncio.timeout_at(end - deadline_s * SAVE_SHARE):
                await self._takes_ended.wait()
                unstarted = await self._engine.call(lambda generator: generator.unstarted_groups())
                num_released += await self._hand_back(self.held.find_all(unstarted), "drained")
                await self.held.wait_for(lambda: len(self.held) == 0)
        except TimeoutError:
            num_released += await self._hand_back(self.held.all(), "drained")
        await asyncio.gather(*self._releases)
        outcome = DrainOutcome(num_finished=self.num_submitted - before, num_released=num_released)
        log.info(
            "drained", extra={"num_finished": outcome.num_finished, "num_released": outcome.num_released}
        )
        return outcome

    async def _hand_back(self, groups: list[HeldGroup], reason: str) -> int:
        return sum(await asyncio.gather(*(self._keeper.hand_back(group, reason) for group in groups)))

    async def _take_all(self) -> None:
        """Take entries until draining; never cut off in the middle: an entry taken is an entry dealt with."""
        while await self._wait_for_room():
            taken = await self._take()
            # Together, so that the engine gets all of them between the same two steps.
            await asyncio.gather(*(self._receive(leased) for leased in taken))
            if self._is_aside:
                leases = [leased.lease for leased in taken]
                late = [group for group in self.held.all() if group.lease in leases]
                await self._hand_back(late, "out_of_service")
        self._takes_ended.set()

    async def _wait_for_room(self) -> bool:
        """True when another group may come; False when draining."""
        await self.held.wait_for(lambda: self.is_draining or (self._has_room() and not self._is_aside))
        return not self.is_draining

    def _has_room(self) -> bool:
        """One group beyond what the engine decodes together: enough to refill it, the rest is for others."""
        is_engine_open = self.held.num_in_engine <= self._engine.limits.num_sequences
        return is_engine_open and self.held.num_unsubmitted < self._limits.max_unsubmitted

    def _num_wanted(self) -> int:
        """Groups that fill the engine, and one beyond, if they are as large as the last one was."""
        free = max(0, self._engine.limits.num_sequences - self.held.num_in_engine)
        return 1 + (free // self.held.last_size if self.held.last_size else 0)

    async def _take(self) -> list[Leased]:
        pod = self._submission.provenance.pod
        try:
            async with self._taking:
                leased = await self._intake.queue.take(pod, wait_s=TAKE_WAIT_S, max_items=self._num_wanted())
        except UnavailableError as error:
            self._problems.report(Area.QUEUE, str(error))
            await asyncio.sleep(RETRY_WAIT_S)
            return []
        self._problems.clear(Area.QUEUE)
        return leased

    async def _receive(self, leased: Leased) -> None:
        """Start on an entry; one that cannot be generated is handed back and becomes a dead letter."""
        if self.is_draining or self._is_aside:
            return await self._keeper.release(leased.lease)
        try:
            await self._intake.receive(leased)
        except FencedError as error:
            log.info("task was taken over", extra={"entry_id": leased.lease.entry_id, "reason": str(error)})
            await self._give_up(leased.lease, "fenced")
        except ForklightError as error:
            log.error("task refused", extra={"entry_id": leased.lease.entry_id, "reason": str(error)})
            await self._refuse(leased.lease, "invalid" if isinstance(error, InvalidInputError) else "failed")
        except Exception:
            log.exception("task failed", extra={"entry_id": leased.lease.entry_id})
            await self._refuse(leased.lease, "failed")

    async def _refuse(self, lease: Lease, reason: str) -> None:
        await self._give_up(lease, reason)
        self._release_later(lease)

    async def _give_up(self, lease: Lease, reason: str) -> None:
        for group in self.held.all():
            if group.lease == lease:
                await self._keeper.give_up(group, reason)

    def _release_later(self, lease: Lease) -> None:
        async def release() -> None:
            await sleep_or_stop(self._draining, REFUSAL_PAUSE_S)
            await self._keeper.release(lease)

        task = asyncio.create_task(release())
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    def _deliver(self, finished: list[FinishedSample]) -> None:
        self.held.num_unsubmitted += len(finished)
        for sample in finished:
            self._finished.put_nowait(sample)
        self.held.notify()

    def _call_out(self, calls: list[ToolCall]) -> None:
        for call in calls:
            self._calls.put_nowait(call)

    async def _answer_all(self, desk: ToolDesk) -> None:
        while True:
            call = await self._calls.get()
            group = self.held.find(call.group_id)
            if group is not None and call.sample_id in group.open_samples:
                await self._answer(desk, call, group)

    async def _answer(self, desk: ToolDesk, call: ToolCall, group: HeldGroup) -> None:
        """See a call through; one that nobody can answer costs the lease, and nothing that was generated."""
        try:
            await desk.answer(call, group)
            return
        except FencedError as error:
            log.info("call dropped", extra={"sample_id": call.sample_id, "reason": str(error)})
            return
        except ForklightError as error:
            log.error("call not answered", extra={"sample_id": call.sample_id, "reason": str(error)})
        except Exception:
            log.exception("call failed", extra={"sample_id": call.sample_id})
        await self._leave(group)

    async def _leave(self, group: HeldGroup) -> None:
        """Hand a group back that misses a tool, once."""
        if group.group_id in self._leaving:
            return
        self._leaving.add(group.group_id)
        try:
            # A drain hands back what it cannot finish, at its own time.
            is_draining = await sleep_or_stop(self._draining, REFUSAL_PAUSE_S)
            if not is_draining and self.held.find(group.group_id) is group:
                await self._keeper.hand_back(group, "tool_away")
        finally:
            self._leaving.discard(group.group_id)

    async def _submit_all(self) -> None:
        while True:
            sample = await self._finished.get()
            outcome = await self._submit(sample)
            self.held.num_unsubmitted -= 1
            metrics.count_sample(sample, outcome)
            self.held.notify()

    async def _submit(self, sample: FinishedSample) -> str:
        """Hand a sample over; returns what became of it."""
        group = self.held.find(sample.group_id)
        if group is None or sample.sample_id not in group.open_samples:
            return "unwanted"
        try:
            outcome = await self._submission.submit(sample, group)
        except FencedError as error:
            log.info("sample was fenced", extra={"sample_id": sample.sample_id, "reason": str(error)})
            await self._keeper.give_up(group, "fenced")
            return "fenced"
        except ForklightError as error:
            log.error("sample not submitted", extra={"sample_id": sample.sample_id, "reason": str(error)})
        except Exception:
            log.exception("submission failed", extra={"sample_id": sample.sample_id})
        else:
            self.num_submitted += outcome is SubmitOutcome.ACCEPTED
            return outcome.value
        await self._refuse(group.lease, "failed")
        return "failed"
