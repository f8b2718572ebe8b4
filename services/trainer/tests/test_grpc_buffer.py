"""The gRPC adapter: carries run and epoch on every call, and lets errors through as the tree they are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from forklight.v1 import buffer_pb2, buffer_pb2_grpc, types_pb2
from forklight_core.errors import FencedError, UnavailableError
from forklight_core.rpc import Registration, serve
from forklight_trainer.adapters.grpc_buffer import GrpcBuffer
from forklight_trainer.ports import RestorePoint

SERVICE = buffer_pb2.DESCRIPTOR.services_by_name["Buffer"].full_name
EVENT = types_pb2.RunEvent(id="window/4", kind="window_advanced", step=4)
POINT = RestorePoint(
    lineage="l1",
    step=4,
    version=2,
    commits=(types_pb2.CommitRecord(step=4, sample_ids=["s"]),),
    window_tokens=40960,
    events=(EVENT,),
)


class RecordingBuffer(buffer_pb2_grpc.BufferServicer):
    """Keeps what it was asked; epoch 7 is the only one it knows."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    async def RestoreTrainer(self, request: Any, context: Any) -> buffer_pb2.RestoreTrainerReply:
        self.requests.append(request)
        return buffer_pb2.RestoreTrainerReply(epoch=7, lineage="l2")

    async def LeaseBatch(self, request: Any, context: Any) -> buffer_pb2.LeaseBatchReply:
        self.requests.append(request)
        if request.epoch != 7:
            raise FencedError("epoch 0 is over: a newer trainer took over")
        return buffer_pb2.LeaseBatchReply(phase=buffer_pb2.RUN_PHASE_PAUSED, reason="because")

    async def CommitSteps(self, request: Any, context: Any) -> buffer_pb2.CommitStepsReply:
        self.requests.append(request)
        return buffer_pb2.CommitStepsReply(num_trained=1)

    async def AnnounceVersion(self, request: Any, context: Any) -> buffer_pb2.AnnounceVersionReply:
        self.requests.append(request)
        return buffer_pb2.AnnounceVersionReply(version=request.weights.version)

    async def ReportLostSample(self, request: Any, context: Any) -> buffer_pb2.SubmitReply:
        self.requests.append(request)
        return buffer_pb2.SubmitReply()

    async def SetRunPhase(self, request: Any, context: Any) -> buffer_pb2.SetRunPhaseReply:
        self.requests.append(request)
        return buffer_pb2.SetRunPhaseReply(phase=request.phase)


def use_every_call(address: str) -> None:
    buffer = GrpcBuffer(address, "test-run", deadline_s=5.0)
    with pytest.raises(FencedError, match="a newer trainer took over"):
        buffer.lease_batch(5, 0.1)
    assert buffer.restore_trainer(POINT).lineage == "l2"
    reply = buffer.lease_batch(5, 0.1)
    assert (reply.phase, reply.reason, reply.HasField("batch")) == (2, "because", False)
    assert buffer.commit_steps(POINT.commits, window_tokens=49152, events=[EVENT]).num_trained == 1
    assert buffer.announce_version(types_pb2.WeightsRef(version=3)) == 3
    buffer.report_lost_sample("s", "gone")
    buffer.set_phase(buffer_pb2.RUN_PHASE_PAUSED, "why")
    buffer.close()


async def test_grpc_buffer_when_used_carries_run_and_epoch() -> None:
    recording = RecordingBuffer()  # type: ignore[abstract]
    door = Registration(buffer_pb2_grpc.add_BufferServicer_to_server, recording, SERVICE)
    async with serve("127.0.0.1:0", [door]) as server:
        await asyncio.to_thread(use_every_call, server.address)
    assert {request.run_id for request in recording.requests} == {"test-run"}
    fenced, restored, leased, committed, announced, lost, phase = recording.requests
    assert (restored.lineage, restored.step, restored.version, restored.commits[0].step) == ("l1", 4, 2, 4)
    assert (restored.window_tokens, list(restored.events)) == (40960, [EVENT])
    assert (committed.window_tokens, list(committed.events)) == (49152, [EVENT])
    assert [fenced.epoch, leased.epoch, committed.epoch, announced.epoch, lost.epoch] == [0, 7, 7, 7, 7]
    assert (leased.step, phase.reason, lost.sample_id) == (5, "why", "s")


def test_grpc_buffer_when_nobody_listens_is_unavailable() -> None:
    buffer = GrpcBuffer("127.0.0.1:1", "test-run", deadline_s=2.0)
    with pytest.raises(UnavailableError):
        buffer.lease_batch(1, 0.0)
    buffer.close()
