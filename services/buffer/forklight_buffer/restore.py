"""A trainer restores a checkpoint: what it has learned is trained, what it has not is delivered again.
Nothing else.

The ledger is rewound in one transaction, then Redis is reconciled with it; a crash between the two is mended
at start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from forklight_buffer.context import Context
from forklight_buffer.endings import announce_endings
from forklight_buffer.journal import Journal
from forklight_buffer.ledger import Rewind
from forklight_buffer.phases import is_last_evaluation
from forklight_buffer.reconcile import Reconciler
from forklight_buffer.records import Commit, Control, SampleRow
from forklight_buffer.rows import row_of_group, rows_of_leased
from forklight_buffer.states import Phase, Reason, State, with_detail
from forklight_buffer.steering import NO_ORDERS, Orders, Steering
from forklight_core import ids
from forklight_core.errors import InvalidInputError, NotFoundError, PreconditionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a trainer says it restored. A fresh start has no lineage and step 0."""

    lineage: str
    step: int
    version: int
    commits: tuple[Commit, ...]
    orders: Orders = NO_ORDERS
    """The window of the checkpoint wins over any that was in force."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """How the trainer goes on."""

    epoch: int
    lineage: str
    num_redelivered: int
    num_recovered: int


class Restorer:
    """Opens trainer epochs."""

    def __init__(
        self, context: Context, journal: Journal, reconciler: Reconciler, steering: Steering
    ) -> None:
        self._context = context
        self._journal = journal
        self._reconciler = reconciler
        self._steering = steering

    async def restore(self, checkpoint: Checkpoint) -> Restored:
        """Fence older trainers and make the ledger say exactly what the checkpoint has learned."""
        context = self._context
        async with context.turn:
            await self._journal.flush()
            control = await asyncio.to_thread(context.ledger.control)
            await self._check(checkpoint)
            rewind = await asyncio.to_thread(
                context.ledger.plan_rewind, checkpoint.lineage, checkpoint.step, checkpoint.commits
            )
            adopted = await self._adopted_rows(rewind)
            lost = await self._lost_rows(rewind)
            lineage = await asyncio.to_thread(
                context.ledger.apply_rewind,
                rewind,
                [*adopted, *lost],
                epoch=control.epoch + 1,
                version=min(control.version, checkpoint.version),
                window=checkpoint.orders.window,
                at=context.clock(),
            )
            announce_endings([*adopted, *lost], control.version)
            restored = Restored(
                epoch=control.epoch + 1,
                lineage=lineage,
                num_redelivered=len(rewind.reverted) - len(lost),
                num_recovered=sum(row.state is State.TRAINED for row in adopted),
            )
            await self._go_on(checkpoint, control, rewind, restored)
        context.notify_all()
        return restored

    async def _go_on(
        self, checkpoint: Checkpoint, control: Control, rewind: Rewind, restored: Restored
    ) -> None:
        """Take a run that was over up again when it lost steps, reconcile, follow orders, and tell people."""
        context = self._context
        is_over = control.phase is Phase.FINISHED or is_last_evaluation(control, context.run_file)
        if rewind.reverted and is_over:
            await asyncio.to_thread(context.ledger.set_phase, Phase.RUNNING, "", automatic=False)
        await self._reconciler.reconcile()
        await self._steering.follow(checkpoint.orders, control)
        await context.record(
            "trainer_restored",
            f"epoch {restored.epoch}, lineage {restored.lineage}, step {checkpoint.step}, version "
            f"{checkpoint.version}: {restored.num_redelivered} samples are delivered again, "
            f"{restored.num_recovered} commits of samples recovered, "
            f"{len(rewind.reverted) - restored.num_redelivered} lost",
        )

    async def _check(self, checkpoint: Checkpoint) -> None:
        if not checkpoint.lineage and (checkpoint.step or checkpoint.commits):
            raise InvalidInputError(
                f"a checkpoint of step {checkpoint.step} has no lineage: only "
                "a fresh start at step 0 has none"
            )
        known = await asyncio.to_thread(self._context.ledger.lineages)
        if checkpoint.lineage and checkpoint.lineage not in known:
            raise PreconditionError(
                f"the checkpoint is of lineage {checkpoint.lineage!r}, which the ledger of run "
                f"{self._context.run_id} does not know (it has {', '.join(known) or 'none'}): restore a "
                "checkpoint of this run, or start a new run with model.path set to the checkpoint"
            )

    async def _adopted_rows(self, rewind: Rewind) -> list[SampleRow]:
        """Rows that must read `trained` by the restored line and do not yet, and what it left out of its
        batches.
        """
        ledger, rows = self._context.ledger, []
        for commit in rewind.adopted:
            for sample in commit.sample_ids:
                row = await asyncio.to_thread(ledger.read_sample, sample)
                if row is None or (row.state, row.lineage, row.step) != (
                    State.TRAINED,
                    commit.lineage,
                    commit.step,
                ):
                    rows.append(await self._trained_row(commit, sample, row))
            rows += await self._left_out_rows(commit)
        return rows

    async def _trained_row(self, commit: Commit, sample: str, row: SampleRow | None) -> SampleRow:
        known = row or await self._row_of_open(sample)
        return replace(
            known,
            state=State.TRAINED,
            reason="",
            lineage=commit.lineage,
            step=commit.step,
            ended_at=self._context.clock(),
        )

    async def _row_of_open(self, sample: str) -> SampleRow:
        ledger, at = self._context.ledger, self._context.clock()
        group = await asyncio.to_thread(ledger.read_group, ids.group_of(sample))
        if group is None or ids.sample_index(sample) >= group.size:
            raise NotFoundError(
                f"the checkpoint has learned from {sample}, which was never opened in this run"
            )
        leased = await asyncio.to_thread(ledger.leased_group, group.group_id)
        rows = {row.sample_id: row for row in rows_of_leased(group, leased, at)} if leased else {}
        return rows.get(sample) or row_of_group(
            group, ids.sample_index(sample), State.TRAINED, reason="", at=at
        )

    async def _left_out_rows(self, commit: Commit) -> list[SampleRow]:
        ledger, at = self._context.ledger, self._context.clock()
        batch = await self._batch_rows(commit.step, at)
        learned = set(commit.sample_ids)
        if not learned & set(batch):
            return []
        return [
            replace(row, state=State.FILTERED, reason=Reason.LEFT_OUT)
            for sample, row in batch.items()
            if sample not in learned and await asyncio.to_thread(ledger.read_sample, sample) is None
        ]

    async def _batch_rows(self, step: int, at: float) -> dict[str, SampleRow]:
        ledger, rows = self._context.ledger, dict[str, SampleRow]()
        for leased in await asyncio.to_thread(ledger.leased_groups, step):
            group = await asyncio.to_thread(ledger.read_group, leased.group_id)
            if group is not None:
                rows |= {row.sample_id: row for row in rows_of_leased(group, leased, at)}
        return rows

    async def _lost_rows(self, rewind: Rewind) -> list[SampleRow]:
        """Samples to deliver again that cannot be: the payload is gone, or how to deliver the group is."""
        deliverable = await self._deliverable_groups(rewind.reverted)
        lost = []
        for row in rewind.reverted:
            there = row.group_id in deliverable and await asyncio.to_thread(
                self._context.blobs.exists, row.payload_id
            )
            if not there:
                detail = f"learned at step {row.step} of lineage {row.lineage}, which was given up"
                reason = with_detail(Reason.BLOB_LOST, detail)
                ended = replace(row, state=State.INFRA_FAILED, reason=reason, lineage="", step=0)
                lost.append(replace(ended, ended_at=self._context.clock()))
        return lost

    async def _deliverable_groups(self, rows: Sequence[SampleRow]) -> set[str]:
        ledger, found = self._context.ledger, set()
        for group_id in {row.group_id for row in rows}:
            if await asyncio.to_thread(ledger.leased_group, group_id) is not None:
                found.add(group_id)
        return found
