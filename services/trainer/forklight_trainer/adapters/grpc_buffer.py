"""The buffer over gRPC, for the trainer's own thread. Remembers the epoch that fences older trainers."""

from __future__ import annotations

from collections.abc import Sequence

from forklight.v1 import buffer_pb2, buffer_pb2_grpc, types_pb2
from forklight_core.rpc import open_sync_channel
from forklight_trainer.ports import RestorePoint


class GrpcBuffer:
    """A `BufferPort` at an address."""

    def __init__(self, address: str, run_id: str, *, deadline_s: float) -> None:
        self._channel = open_sync_channel(address)
        self._stub = buffer_pb2_grpc.BufferStub(self._channel)
        self._run_id = run_id
        self._deadline_s = deadline_s
        self._epoch = 0

    def restore_trainer(self, point: RestorePoint) -> buffer_pb2.RestoreTrainerReply:
        request = buffer_pb2.RestoreTrainerRequest(
            run_id=self._run_id,
            lineage=point.lineage,
            step=point.step,
            version=point.version,
            commits=point.commits,
            window_tokens=point.window_tokens,
            events=point.events,
        )
        reply = self._stub.RestoreTrainer(request, timeout=self._deadline_s)
        self._epoch = reply.epoch
        return reply

    def lease_batch(self, step: int, wait_s: float) -> buffer_pb2.LeaseBatchReply:
        request = buffer_pb2.LeaseBatchRequest(
            run_id=self._run_id, epoch=self._epoch, step=step, wait_s=wait_s
        )
        return self._stub.LeaseBatch(request, timeout=wait_s + self._deadline_s)

    def commit_steps(
        self,
        records: Sequence[types_pb2.CommitRecord],
        *,
        window_tokens: int = 0,
        events: Sequence[types_pb2.RunEvent] = (),
    ) -> buffer_pb2.CommitStepsReply:
        request = buffer_pb2.CommitStepsRequest(
            run_id=self._run_id,
            epoch=self._epoch,
            records=records,
            window_tokens=window_tokens,
            events=events,
        )
        return self._stub.CommitSteps(request, timeout=self._deadline_s)

    def announce_version(self, weights: types_pb2.WeightsRef) -> int:
        request = buffer_pb2.AnnounceVersionRequest(run_id=self._run_id, epoch=self._epoch, weights=weights)
        return int(self._stub.AnnounceVersion(request, timeout=self._deadline_s).version)

    def report_lost_sample(self, sample_id: str, reason: str) -> None:
        request = buffer_pb2.ReportLostSampleRequest(
            run_id=self._run_id, epoch=self._epoch, sample_id=sample_id, reason=reason
        )
        self._stub.ReportLostSample(request, timeout=self._deadline_s)

    def set_phase(self, phase: buffer_pb2.RunPhase, reason: str) -> None:
        request = buffer_pb2.SetRunPhaseRequest(run_id=self._run_id, phase=phase, reason=reason)
        self._stub.SetRunPhase(request, timeout=self._deadline_s)

    def close(self) -> None:
        self._channel.close()
