"""The buffer's door over gRPC."""

from __future__ import annotations

from typing import cast

import grpc.aio

from forklight.v1 import buffer_pb2, buffer_pb2_grpc, types_pb2
from forklight_core.queues import Lease
from forklight_rollout.ports import SubmitOutcome

CALL_TIMEOUT_S = 10.0

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

    async def pending_samples(self, group_id: str, lease: Lease) -> list[int]:
        request = buffer_pb2.GetPendingSamplesRequest(
            run_id=self._run_id, group_id=group_id, lease=_lease_message(lease)
        )
        reply = await self._stub.GetPendingSamples(request, timeout=CALL_TIMEOUT_S)
        return list(reply.indices)

    async def submit(self, trajectory: types_pb2.Trajectory, lease: Lease) -> SubmitOutcome:
        request = buffer_pb2.SubmitTrajectoryRequest(trajectory=trajectory, lease=_lease_message(lease))
        reply = await self._stub.SubmitTrajectory(request, timeout=CALL_TIMEOUT_S)
        return _OUTCOMES[reply.outcome]


def _lease_message(lease: Lease) -> types_pb2.Lease:
    return types_pb2.Lease(entry_id=lease.entry_id, consumer=lease.consumer, fence=lease.fence)
