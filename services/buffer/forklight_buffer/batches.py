"""What the trainer asks and says: the batch of a step, steps learned, samples lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from forklight.v1 import types_pb2
from forklight_buffer import metrics
from forklight_buffer.context import Context
from forklight_buffer.endings import announce_endings
from forklight_buffer.evaluation.last_round import LastRound
from forklight_buffer.journal import Journal
from forklight_buffer.live import BatchLease, LiveGroup
from forklight_buffer.phases import PhaseControl
from forklight_buffer.ports import NoBatch
from forklight_buffer.records import Commit, Control, Ending, LeasedGroup, SampleRow
from forklight_buffer.rows import row_of_group, rows_of_leased
from forklight_buffer.states import Outcome, Phase, Reason, State, Status, with_detail
from forklight_buffer.steering import Orders, Steering
from forklight_core import ids
from forklight_core.errors import FencedError, InvalidInputError, NotFoundError, PreconditionError
from forklight_core.telemetry import histogram

LONGEST_WAIT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Leasing:
    """A batch, or why there is none."""

    batch: types_pb2.Batch | None
    phase: Phase
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """What a commit entered."""

    num_trained: int
    num_duplicates: int


class Batches:
    """Leases and commits, in the order of steps."""

    def __init__(
        self,
        context: Context,
        journal: Journal,
        phases: PhaseControl,
        *,
        last_round: LastRound,
        steering: Steering,
    ) -> None:
        self._context = context
        self._journal = journal
        self._phases = phases
        self._last_round = last_round
        self._steering = steering

    async def lease(self, *, epoch: int, step: int, wait_s: float) -> Leasing:
        """The batch of a step; waits for it up to `wait_s`."""
        started = time.monotonic()
        end = started + min(wait_s, LONGEST_WAIT_S)
        while True:
            mark = self._context.ready.mark()
            async with self._context.turn:
                leasing = await self._lease_now(epoch, step)
            left_s = end - time.monotonic()
            if leasing.batch is not None or leasing.phase in (Phase.PAUSED, Phase.FINISHED) or left_s <= 0:
                histogram(metrics.BATCH_WAIT).record(time.monotonic() - started)
                return leasing
            await self._context.ready.wait_past(mark, left_s)

    async def _lease_now(self, epoch: int, step: int) -> Leasing:
        control = await asyncio.to_thread(self._context.ledger.control)
        while True:
            found = await self._context.live.lease_batch(epoch=epoch, step=step)
            if isinstance(found, NoBatch):
                return await self._explain(found, control, step)
            await self._journal.flush()
            batch = await self._deliver(found)
            if batch.groups:
                return Leasing(batch=batch, phase=control.phase, reason="")
            await self._context.live.place_batch(step, 0, [])

    async def _explain(self, found: NoBatch, control: Control, step: int) -> Leasing:
        await self._journal.flush()
        if found.phase is Phase.FINISHED:
            await self._phases.cancel_batches(step)
        if found.phase is not None:
            return Leasing(batch=None, phase=control.phase, reason=control.reason)
        plural = "s" if found.num_missing > 1 else ""
        reason = f"waiting for {found.num_missing} more group{plural}"
        if control.phase is Phase.DRAINING:
            reason += "; the run is draining, so only groups that are open already can still come"
        return Leasing(batch=None, phase=control.phase, reason=reason)

    async def _deliver(self, lease: BatchLease) -> types_pb2.Batch:
        """Read the groups of a batch and journal them before they leave: they may be delivered again."""
        batch = types_pb2.Batch(
            batch_id=ids.batch_id(self._context.run_id, lease.step),
            step=lease.step,
            policy_version=lease.policy_version,
        )
        for group_id in lease.group_ids:
            group = await self._context.live.read_group(group_id)
            if group is not None and group.status is Status.LEASED:
                batch.groups.append(batch_group(group))
        leased = [
            LeasedGroup(
                group_id=group.group_id,
                step=lease.step,
                position=position,
                policy_version=lease.policy_version,
                body=group.SerializeToString(),
            )
            for position, group in enumerate(batch.groups)
        ]
        await asyncio.to_thread(self._context.ledger.journal_batch, leased)
        return batch

    async def commit(self, epoch: int, records: Sequence[Commit], orders: Orders | None = None) -> Committed:
        """Steps that are durable in a checkpoint. In order, without a gap, each of them once. Then what the
        trainer has decided with them.
        """
        trained = duplicates = 0
        async with self._context.turn:
            control = await self.check_epoch(epoch)
            for record in sorted(records, key=lambda record: record.step):
                if await self._commit_one(record):
                    trained += len(record.sample_ids)
                else:
                    duplicates += len(record.sample_ids)
            await self._journal.flush()
            if orders is not None:
                await self._steering.follow(orders, control)
            await self._last_round.end_when_done()
        self._context.notify_all()
        return Committed(num_trained=trained, num_duplicates=duplicates)

    async def check_epoch(self, epoch: int) -> Control:
        """Refuse a trainer that another one has taken over from."""
        control = await asyncio.to_thread(self._context.ledger.control)
        if epoch != control.epoch:
            raise FencedError(
                f"epoch {epoch} is over, epoch {control.epoch} has begun: "
                "another trainer restored; this one must end"
            )
        return control

    async def _commit_one(self, record: Commit) -> bool:
        context = self._context
        control = await asyncio.to_thread(context.ledger.control)
        known = await asyncio.to_thread(context.ledger.read_commit, control.lineage, record.step)
        if known is None:
            _check_order(record, control)
            trained, left_out = await self.commit_rows(record)
            await asyncio.to_thread(context.ledger.enter_commit, record, trained, left_out, context.clock())
            announce_endings((*trained, *left_out), control.version)
        elif set(known.sample_ids) != set(record.sample_ids):
            raise PreconditionError(
                f"step {record.step} is committed with {len(known.sample_ids)} samples, and "
                f"this record has {len(record.sample_ids)} others: two trainers learned the "
                "same step; restore the newest checkpoint"
            )
        await context.live.commit_step(record.step, record.sample_ids)
        return known is None

    async def commit_rows(self, record: Commit) -> tuple[list[SampleRow], list[SampleRow]]:
        """Rows of a step's samples, and of those of its batch that the trainer left out."""
        ledger, at = self._context.ledger, self._context.clock()
        rows: dict[str, SampleRow] = {}
        leased = await asyncio.to_thread(ledger.leased_groups, record.step)
        for item in leased:
            group = await asyncio.to_thread(ledger.read_group, item.group_id)
            if group is not None:
                rows |= {row.sample_id: row for row in rows_of_leased(group, item, at)}
        strangers = [sample for sample in record.sample_ids if sample not in rows]
        if leased and strangers:
            raise PreconditionError(
                f"step {record.step} was not delivered with {len(strangers)} of its samples, such "
                f"as {strangers[0]}: commit what the batch of the step held"
            )
        for sample in strangers:
            rows[sample] = await self._row_of_stranger(sample, at)
        learned = set(record.sample_ids)
        trained = [
            replace(rows[sample], lineage=record.lineage, step=record.step) for sample in record.sample_ids
        ]
        left_out = [
            replace(row, state=State.FILTERED, reason=Reason.LEFT_OUT)
            for row in rows.values()
            if row.sample_id not in learned and await self._is_open(row.sample_id)
        ]
        return trained, left_out

    async def _is_open(self, sample: str) -> bool:
        return await asyncio.to_thread(self._context.ledger.read_sample, sample) is None

    async def _row_of_stranger(self, sample: str, at: float) -> SampleRow:
        group = await asyncio.to_thread(self._context.ledger.read_group, ids.group_of(sample))
        if group is None or ids.sample_index(sample) >= group.size:
            raise NotFoundError(f"sample {sample} was never opened in run {self._context.run_id}")
        return row_of_group(group, ids.sample_index(sample), State.TRAINED, reason="", at=at)

    async def report_lost(self, *, epoch: int, sample_id: str, reason: str) -> Outcome:
        """A sample of a batch cannot be read: it ends as infra_failed, and its batch goes on without it."""
        context = self._context
        async with context.turn:
            await self.check_epoch(epoch)
            group = await context.live.read_group(ids.group_of(sample_id))
            ended = await asyncio.to_thread(context.ledger.read_sample, sample_id)
            index = ids.sample_index(sample_id)
            if ended is not None:
                return Outcome.DUPLICATE if ended.state is State.INFRA_FAILED else Outcome.DROPPED
            if group is None or index >= len(group.samples):
                raise NotFoundError(f"sample {sample_id} is not open in run {context.run_id}")
            if group.status is not Status.LEASED:
                raise InvalidInputError(
                    f"sample {sample_id} is in no batch: only what was delivered can be reported lost"
                )
            ending = Ending(
                index=index, state=State.INFRA_FAILED, reason=with_detail(Reason.BLOB_LOST, reason)
            )
            await context.live.close_samples(group.group_id, [ending])
            await self._journal.flush()
        await context.record("sample_lost", f"{sample_id}: {reason}")
        return Outcome.ACCEPTED


def batch_group(group: LiveGroup) -> types_pb2.BatchGroup:
    """All samples of a group that a trainer may learn from, by index."""
    message = types_pb2.BatchGroup(group_id=group.group_id, prompt_id=group.prompt_id)
    for sample in group.samples:
        if sample.state is not State.LEASED or sample.reward is None:
            continue
        verdict = types_pb2.Verdict.FromString(sample.verdict)
        message.samples.append(
            types_pb2.BatchSample(
                trajectory=types_pb2.Trajectory.FromString(sample.trajectory),
                reward=sample.reward,
                parts=verdict.parts,
            )
        )
    return message


def _check_order(record: Commit, control: Control) -> None:
    if record.lineage != control.lineage:
        raise PreconditionError(
            f"step {record.step} is of lineage {record.lineage!r}, the run goes on with {control.lineage!r}: "
            "restore the checkpoint again and use the lineage it answers with"
        )
    if record.step != control.step + 1:
        raise PreconditionError(
            f"step {record.step} cannot be committed: step "
            f"{control.step + 1} is missing; commit steps in order"
        )
    if len(set(record.sample_ids)) != len(record.sample_ids):
        raise PreconditionError(f"step {record.step} names a sample twice")
