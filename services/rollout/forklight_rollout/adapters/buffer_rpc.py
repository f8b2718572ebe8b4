"""The buffer's door over gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import grpc.aio

from forklight.v1 import buffer_pb2, buffer_pb2_grpc, types_pb2
from forklight_core.blobs import BlobRef
from forklight_core.ids import group_of
from forklight_core.queues import Lease
from forklight_core.rpc import Coalescer, error_named
from forklight_rollout.ports import PendingSample, Saved, SegmentRef, SubmitOutcome

CALL_TIMEOUT_S = 10.0
MOST_AT_ONCE = 64

_OUTCOMES = {
    buffer_pb2.SUBMIT_OUTCOME_ACCEPTED: SubmitOutcome.ACCEPTED,
    buffer_pb2.SUBMIT_OUTCOME_DUPLICATE: SubmitOutcome.DUPLICATE,
    buffer_pb2.SUBMIT_OUTCOME_DROPPED: SubmitOutcome.DROPPED,
}


class RpcBuffer:
    """Calls the buffer with a deadline each; retrying is the caller's."""

    def __init__(self, channel: grpc.aio.Channel, run_id: str) -> None:
        self._stub = cast("buffer_pb2_grpc.BufferAsyncStub", buffer_pb2_grpc.BufferStub(channel))
        self._run_id = run_id
        self._coalescer: Coalescer[buffer_pb2.SubmitTrajectoryRequest, SubmitOutcome] = Coalescer(
            self._submit_all, most=MOST_AT_ONCE
        )

    async def pending_samples(self, group_id: str, lease: Lease) -> list[PendingSample]:
        request = buffer_pb2.GetPendingSamplesRequest(
            run_id=self._run_id, group_id=group_id, lease=_lease_message(lease)
        )
        reply = await self._stub.GetPendingSamples(request, timeout=CALL_TIMEOUT_S)
        saved = {sample.index: tuple(map(_segment, sample.segments)) for sample in reply.saved}
        return [PendingSample(index=index, segments=saved.get(index, ())) for index in reply.indices]

    async def save_segment(self, sample_id: str, segment: SegmentRef, lease: Lease) -> Saved:
        request = buffer_pb2.SaveSegmentRequest(
            run_id=self._run_id,
            group_id=group_of(sample_id),
            sample_id=sample_id,
            segment=types_pb2.Segment(
                start=segment.start,
                num_tokens=segment.num_tokens,
                payload=types_pb2.BlobRef(id=segment.payload.id, size_bytes=segment.payload.size_bytes),
                min_version=segment.min_version,
            ),
            lease=_lease_message(lease),
        )
        return _saved(await self._stub.SaveSegment(request, timeout=CALL_TIMEOUT_S))

    async def drop_segments(self, sample_id: str, from_start: int, lease: Lease) -> Saved:
        request = buffer_pb2.DropSegmentsRequest(
            run_id=self._run_id,
            group_id=group_of(sample_id),
            sample_id=sample_id,
            from_start=from_start,
            lease=_lease_message(lease),
        )
        return _saved(await self._stub.DropSegments(request, timeout=CALL_TIMEOUT_S))

    async def submit(self, trajectory: types_pb2.Trajectory, lease: Lease) -> SubmitOutcome:
        request = buffer_pb2.SubmitTrajectoryRequest(trajectory=trajectory, lease=_lease_message(lease))
        return await self._coalescer.submit(request)

    async def _submit_all(
        self, requests: Sequence[buffer_pb2.SubmitTrajectoryRequest]
    ) -> list[SubmitOutcome | Exception]:
        """Samples that end together travel together."""
        call = buffer_pb2.SubmitTrajectoriesRequest(items=requests)
        reply = await self._stub.SubmitTrajectories(call, timeout=CALL_TIMEOUT_S)
        return [
            error_named(result.refusal.error, result.refusal.message)
            if result.HasField("refusal")
            else _OUTCOMES[result.outcome]
            for result in reply.results
        ]


def _segment(message: types_pb2.Segment) -> SegmentRef:
    return SegmentRef(
        start=message.start,
        num_tokens=message.num_tokens,
        payload=BlobRef(id=message.payload.id, size_bytes=message.payload.size_bytes),
        min_version=message.min_version,
    )


def _saved(reply: buffer_pb2.SaveSegmentReply) -> Saved:
    return Saved(outcome=_OUTCOMES[reply.outcome], num_saved_tokens=reply.num_saved_tokens)


def _lease_message(lease: Lease) -> types_pb2.Lease:
    return types_pb2.Lease(entry_id=lease.entry_id, consumer=lease.consumer, fence=lease.fence)
