"""The buffer's gRPC door: messages to nouns and back, nothing else. Errors become statuses in core's
interceptor.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TypeVar

import grpc.aio

from forklight.v1 import buffer_pb2 as door
from forklight.v1 import buffer_pb2_grpc, types_pb2
from forklight_buffer.batches import Batches
from forklight_buffer.context import Context
from forklight_buffer.dead_letters import DeadLetters
from forklight_buffer.inspection import Inspection
from forklight_buffer.inspection_lookup import Lookup
from forklight_buffer.intake import Intake
from forklight_buffer.phases import PhaseControl
from forklight_buffer.records import Commit
from forklight_buffer.restore import Checkpoint, Restorer
from forklight_buffer.segments import Segments, segment_message
from forklight_buffer.states import Outcome, Phase
from forklight_buffer.steering import Steering
from forklight_buffer.versions import Versions
from forklight_core import ids
from forklight_core.errors import ForklightError, InvalidInputError
from forklight_core.queues import Lease
from forklight_core.telemetry import SpanKind, span
from forklight_core.telemetry.conventions import Messaging, queue_attributes

log = logging.getLogger(__name__)

MOST_AT_ONCE = 256
"""Samples of one call."""
QUEUE_OF = {"buffer.submit_trajectory": "tasks", "buffer.submit_verdict": "scoring"}
"""What a submission settles an entry of, by its span."""

Result = TypeVar("Result")
Call = grpc.aio.ServicerContext[object, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Desks:
    """Who answers what."""

    intake: Intake
    segments: Segments
    batches: Batches
    restorer: Restorer
    versions: Versions
    phases: PhaseControl
    inspection: Inspection
    lookup: Lookup
    dead_letters: DeadLetters
    steering: Steering


class BufferServicer(buffer_pb2_grpc.BufferServicer):
    """One method a call of buffer.proto."""

    def __init__(self, context: Context, desks: Desks) -> None:
        self._context = context
        self._desks = desks
        self._running: set[asyncio.Task[object]] = set()

    async def _complete(self, work: Coroutine[object, object, Result]) -> Result:
        """What changes the ledger and then Redis goes on to its end when the caller hangs up in between."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def drain(self) -> None:
        """Wait for what was left running."""
        if self._running:
            await asyncio.wait(self._running)

    def _check_sample(self, run_id: str, group_id: str, sample_id: str) -> None:
        self._check_run(run_id)
        if ids.group_of(sample_id) != group_id:
            raise InvalidInputError(f"sample {sample_id} is not of group {group_id}")

    def _check_run(self, run_id: str) -> None:
        if run_id != self._context.run_id:
            raise InvalidInputError(f"this buffer serves run {self._context.run_id!r}, not {run_id!r}")

    async def SubmitTrajectory(
        self, request: door.SubmitTrajectoryRequest, context: Call
    ) -> door.SubmitReply:
        outcome = await self._desks.intake.submit_trajectory(request.trajectory, _lease(request.lease))
        return door.SubmitReply(outcome=outcome.wire)

    async def SubmitTrajectories(
        self, request: door.SubmitTrajectoriesRequest, context: Call
    ) -> door.SubmitManyReply:
        _check_number(len(request.items))
        submit = self._desks.intake.submit_trajectory
        submissions = [
            _settle(
                "buffer.submit_trajectory",
                item.trajectory.envelope,
                submit(item.trajectory, _lease(item.lease)),
            )
            for item in request.items
        ]
        return door.SubmitManyReply(results=await asyncio.gather(*submissions))

    async def SubmitVerdicts(
        self, request: door.SubmitVerdictsRequest, context: Call
    ) -> door.SubmitManyReply:
        _check_number(len(request.items))
        submit = self._desks.intake.submit_verdict
        submissions = [
            _settle("buffer.submit_verdict", item.verdict.envelope, submit(item.verdict, _lease(item.lease)))
            for item in request.items
        ]
        return door.SubmitManyReply(results=await asyncio.gather(*submissions))

    async def GetPendingSamples(
        self, request: door.GetPendingSamplesRequest, context: Call
    ) -> door.GetPendingSamplesReply:
        self._check_run(request.run_id)
        pending = await self._desks.intake.pending_samples(request.group_id, _lease(request.lease))
        saved = [
            door.SavedSample(index=sample.index, segments=map(segment_message, sample.segments))
            for sample in pending
            if sample.segments
        ]
        return door.GetPendingSamplesReply(indices=[sample.index for sample in pending], saved=saved)

    async def SaveSegment(self, request: door.SaveSegmentRequest, context: Call) -> door.SaveSegmentReply:
        self._check_sample(request.run_id, request.group_id, request.sample_id)
        now = await self._desks.segments.save(request.sample_id, request.segment, _lease(request.lease))
        return door.SaveSegmentReply(outcome=now.outcome.wire, num_saved_tokens=now.num_saved_tokens)

    async def DropSegments(self, request: door.DropSegmentsRequest, context: Call) -> door.SaveSegmentReply:
        self._check_sample(request.run_id, request.group_id, request.sample_id)
        drop = self._desks.segments.drop(request.sample_id, request.from_start, _lease(request.lease))
        now = await self._complete(drop)
        return door.SaveSegmentReply(outcome=now.outcome.wire, num_saved_tokens=now.num_saved_tokens)

    async def SubmitVerdict(self, request: door.SubmitVerdictRequest, context: Call) -> door.SubmitReply:
        outcome = await self._desks.intake.submit_verdict(request.verdict, _lease(request.lease))
        return door.SubmitReply(outcome=outcome.wire)

    async def RestoreTrainer(
        self, request: door.RestoreTrainerRequest, context: Call
    ) -> door.RestoreTrainerReply:
        self._check_run(request.run_id)
        checkpoint = Checkpoint(
            lineage=request.lineage,
            step=request.step,
            version=request.version,
            commits=tuple(map(_commit, request.commits)),
            orders=self._desks.steering.check(request.window_tokens, request.events),
        )
        restored = await self._complete(self._desks.restorer.restore(checkpoint))
        return door.RestoreTrainerReply(
            epoch=restored.epoch,
            lineage=restored.lineage,
            num_redelivered=restored.num_redelivered,
            num_recovered=restored.num_recovered,
        )

    async def LeaseBatch(self, request: door.LeaseBatchRequest, context: Call) -> door.LeaseBatchReply:
        self._check_run(request.run_id)
        leasing = await self._desks.batches.lease(
            epoch=request.epoch, step=request.step, wait_s=request.wait_s
        )
        return door.LeaseBatchReply(batch=leasing.batch, phase=leasing.phase.wire, reason=leasing.reason)

    async def CommitSteps(self, request: door.CommitStepsRequest, context: Call) -> door.CommitStepsReply:
        self._check_run(request.run_id)
        records = [_commit(record) for record in request.records]
        orders = self._desks.steering.check(request.window_tokens, request.events)
        committed = await self._complete(self._desks.batches.commit(request.epoch, records, orders))
        return door.CommitStepsReply(
            num_trained=committed.num_trained, num_duplicates=committed.num_duplicates
        )

    async def AnnounceVersion(
        self, request: door.AnnounceVersionRequest, context: Call
    ) -> door.AnnounceVersionReply:
        self._check_run(request.run_id)
        version = await self._complete(self._desks.versions.announce(request.epoch, request.weights))
        return door.AnnounceVersionReply(version=version)

    async def ReportLostSample(
        self, request: door.ReportLostSampleRequest, context: Call
    ) -> door.SubmitReply:
        self._check_run(request.run_id)
        report = self._desks.batches.report_lost(
            epoch=request.epoch, sample_id=request.sample_id, reason=request.reason
        )
        outcome = await self._complete(report)
        return door.SubmitReply(outcome=outcome.wire)

    async def ReportEvents(self, request: door.ReportEventsRequest, context: Call) -> door.ReportEventsReply:
        self._check_run(request.run_id)
        orders = self._desks.steering.check(0, request.events)
        entered = await self._complete(self._desks.steering.enter(orders.events))
        return door.ReportEventsReply(num_entered=entered)

    async def SetRunPhase(self, request: door.SetRunPhaseRequest, context: Call) -> door.SetRunPhaseReply:
        self._check_run(request.run_id)
        if int(request.phase) not in set(Phase):
            raise InvalidInputError(
                f"phase {request.phase} is not known: use one of {', '.join(Phase.__members__)}"
            )
        phase = await self._complete(self._set_phase(Phase(request.phase), request.reason))
        return door.SetRunPhaseReply(phase=phase.wire)

    async def _set_phase(self, phase: Phase, reason: str) -> Phase:
        async with self._context.turn:
            return await self._desks.phases.set_phase(phase, reason)

    async def GetStatus(self, request: door.GetStatusRequest, context: Call) -> door.GetStatusReply:
        self._check_run(request.run_id)
        return await self._desks.inspection.status()

    async def ListEvents(self, request: door.ListEventsRequest, context: Call) -> door.ListEventsReply:
        self._check_run(request.run_id)
        return await self._desks.inspection.list_events(request)

    async def ListSamples(self, request: door.ListSamplesRequest, context: Call) -> door.ListSamplesReply:
        self._check_run(request.run_id)
        return await self._desks.inspection.list_samples(request)

    async def SearchSamples(
        self, request: door.SearchSamplesRequest, context: Call
    ) -> door.SearchSamplesReply:
        self._check_run(request.run_id)
        return await self._desks.lookup.search_samples(request)

    async def GetGroup(self, request: door.GetGroupRequest, context: Call) -> door.GetGroupReply:
        self._check_run(request.run_id)
        return await self._desks.lookup.get_group(request.group_id)

    async def ListGroups(self, request: door.ListGroupsRequest, context: Call) -> door.ListGroupsReply:
        self._check_run(request.run_id)
        return await self._desks.lookup.list_groups(request)

    async def ReadLedger(self, request: door.ReadLedgerRequest, context: Call) -> door.ReadLedgerReply:
        self._check_run(request.run_id)
        return await self._desks.lookup.read_ledger(request)

    async def ListDeadLetters(
        self, request: door.ListDeadLettersRequest, context: Call
    ) -> door.ListDeadLettersReply:
        self._check_run(request.run_id)
        letters = await self._desks.dead_letters.list_letters(request.limit)
        return door.ListDeadLettersReply(letters=letters)

    async def RedriveDeadLetters(
        self, request: door.RedriveDeadLettersRequest, context: Call
    ) -> door.RedriveDeadLettersReply:
        self._check_run(request.run_id)
        return door.RedriveDeadLettersReply(
            num_redriven=await self._complete(self._desks.dead_letters.redrive(request.ids))
        )


def _check_number(num_items: int) -> None:
    if num_items > MOST_AT_ONCE:
        raise InvalidInputError(f"{num_items} samples in one call: send at most {MOST_AT_ONCE}")


async def _settle(
    name: str, envelope: types_pb2.Envelope, submission: Coroutine[object, object, Outcome]
) -> door.SubmitResult:
    """One of many, in its sample's own trace: whatever becomes of it, the others go on."""
    try:
        with span(
            name,
            traceparent=envelope.traceparent,
            kind=SpanKind.SERVER,
            attributes=queue_attributes(QUEUE_OF[name], envelope.sample_id, Messaging.SETTLE),
        ):
            return door.SubmitResult(outcome=(await submission).wire)
    except ForklightError as error:
        return _refused(type(error).__name__, str(error))
    except Exception as error:
        log.exception("submission failed", extra={"sample_id": envelope.sample_id, "what": name})
        return _refused(ForklightError.__name__, f"{name} failed: {error!r}; the buffer's log has the rest")


def _refused(error: str, message: str) -> door.SubmitResult:
    return door.SubmitResult(refusal=door.Refusal(error=error, message=message))


def _lease(message: types_pb2.Lease) -> Lease:
    return Lease(entry_id=message.entry_id, consumer=message.consumer, fence=message.fence)


def _commit(message: types_pb2.CommitRecord) -> Commit:
    return Commit(
        lineage=message.lineage,
        step=message.step,
        batch_id=message.batch_id,
        sample_ids=tuple(message.sample_ids),
    )
