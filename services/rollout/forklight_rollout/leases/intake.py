"""From a queue entry to work for the engine: what the task asks for, which of its samples are missing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from forklight.v1 import types_pb2
from forklight_core.queues import Leased, WorkQueue
from forklight_core.wire import check_envelope, parse
from forklight_rollout.admission import Capability, read_group
from forklight_rollout.generation.engine_thread import EngineThread
from forklight_rollout.generation.groups import GroupWork
from forklight_rollout.leases.buffer_calls import BufferCalls
from forklight_rollout.leases.held_groups import HeldGroup, HeldGroups
from forklight_rollout.leases.segments import SegmentStore
from forklight_rollout.ports import PendingSample

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReader:
    """Reads tasks of one run for one engine; InvalidInputError names the field that is impossible."""

    run_id: str
    capability: Capability

    def read_task(self, leased: Leased) -> types_pb2.GenerationTask:
        """The task of a queue entry."""
        task = parse(types_pb2.GenerationTask, leased.body)
        check_envelope(task.envelope, self.run_id)
        return task

    def read_work(self, task: types_pb2.GenerationTask, indices: Sequence[int]) -> GroupWork:
        """What to generate of a task."""
        return read_group(task, indices, self.capability)


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """Accepts leased entries."""

    queue: WorkQueue
    engine: EngineThread
    held: HeldGroups
    reader: TaskReader
    buffer: BufferCalls
    store: SegmentStore

    async def receive(self, leased: Leased) -> None:
        """Start a group, go on with one whose lease came back, or settle one that has nothing missing."""
        task = self.reader.read_task(leased)
        held = self.held.find(task.envelope.group_id)
        if held is not None:
            # Our own lease had expired and came back to us: what runs goes on under the new fence.
            held.lease = leased.lease
            return
        group = self.held.hold(leased.lease, task)
        pending = await self.buffer.pending_responses(group)
        if not pending:
            self.held.drop(group)
            await self.queue.settle(group.lease)
            return
        work = self.reader.read_work(task, [each.index for each in pending])
        work = await self._load_drafts(work, pending, group)
        group.open_samples = {sample.sample_id for sample in work.samples}
        await self.engine.call(lambda generator: generator.add(work))

    async def _load_drafts(
        self, work: GroupWork, pending: Sequence[PendingSample], group: HeldGroup
    ) -> GroupWork:
        """The same work, going on from what other pods have saved of it."""
        samples = []
        for sample, found in zip(work.samples, pending, strict=True):
            draft = await self.store.load(found, work.prompt_ids, group) if found.segments else None
            samples.append(replace(sample, draft=draft))
        num_tokens = sum(len(sample.draft) for sample in samples if sample.draft is not None)
        if num_tokens:
            log.info("responses go on", extra={"group_id": work.group_id, "num_tokens": num_tokens})
        return replace(work, samples=tuple(samples))
