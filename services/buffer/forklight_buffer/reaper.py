"""Entries that nobody manages to finish: after `max_deliveries` expired leases they become dead letters."""

from __future__ import annotations

from forklight.v1 import buffer_pb2, types_pb2
from forklight_buffer import metrics
from forklight_buffer.context import Context
from forklight_buffer.live import Burial, Burying
from forklight_buffer.ports import Entries, OverdueEntry, QueueName
from forklight_buffer.states import Reason, with_detail
from forklight_core import ids
from forklight_core.errors import InvalidInputError
from forklight_core.telemetry import counter
from forklight_core.wire import parse

ENTRIES_AT_ONCE = 100


class Reaper:
    """Buries; samples of a buried task end as infra_failed, of a buried scoring task as reward_failed."""

    def __init__(self, context: Context, entries: Entries) -> None:
        self._context = context
        self._entries = entries

    async def reap(self) -> int:
        """One pass over all queues; returns how many entries were buried."""
        section, buried = self._context.run_file.buffer, 0
        for queue in QueueName:
            overdue = await self._entries.overdue(
                queue, idle_s=section.lease_s, num_deliveries=section.max_deliveries, limit=ENTRIES_AT_ONCE
            )
            for entry in overdue:
                buried += await self._bury(queue, entry)
        if buried:
            self._context.notify_all()
        return buried

    async def _bury(self, queue: QueueName, entry: OverdueEntry) -> bool:
        """A task under which a response grew waits again instead: it is not what kills its holders."""
        section = self._context.run_file.buffer
        group_id, sample_id = _whose(queue, entry)
        reason = with_detail(
            Reason.DEAD_LETTER,
            f"delivered {entry.num_deliveries} times from {queue}, no holder finished it "
            f"within {section.lease_s:g} s of its last heartbeat",
        )
        letter = buffer_pb2.DeadLetter(
            id=f"{queue}:{entry.entry_id}",
            queue=queue,
            group_id=group_id,
            sample_id=sample_id,
            reason=reason,
            num_deliveries=entry.num_deliveries,
            at=self._context.clock(),
        )
        done = await self._context.live.bury_entry(
            Burial(
                queue=queue,
                entry_id=entry.entry_id,
                group_id=group_id,
                idle_s=section.lease_s,
                num_allowed=section.max_deliveries,
                reason=reason,
                letter=letter.SerializeToString(),
                index=ids.sample_index(sample_id) if sample_id else None,
            )
        )
        if done is Burying.RENEWED:
            await self._context.record(
                "task_renewed", f"{queue}:{entry.entry_id} of {group_id}: segments were saved, it waits again"
            )
        if done is Burying.BURIED:
            counter(metrics.DEAD_LETTERS).add(1, {"queue": queue})
            await self._context.record(
                "dead_letter", f"{queue}:{entry.entry_id} of {sample_id or group_id}: {reason}"
            )
        return done is Burying.BURIED


def _whose(queue: QueueName, entry: OverdueEntry) -> tuple[str, str]:
    """Group and sample of an entry; empty when its body cannot be read, which is why it may be here."""
    try:
        if queue is QueueName.SCORING:
            envelope = parse(types_pb2.ScoringTask, entry.body).envelope
            ids.group_of(envelope.sample_id)
        else:
            envelope = parse(types_pb2.GenerationTask, entry.body).envelope
    except InvalidInputError:
        return "", ""
    return envelope.group_id, envelope.sample_id
