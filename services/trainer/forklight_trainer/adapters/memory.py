"""A buffer in this process's memory, with the real one's manners: epochs, one batch a step, a ledger, phases.

Batches come from a function of the step, so whatever is asked for again after a crash is the same again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from forklight.v1 import buffer_pb2, types_pb2
from forklight_core.errors import FencedError, PreconditionError
from forklight_trainer.ports import RestorePoint

MakeBatch = Callable[[int], types_pb2.Batch | None]
FRESH_LINEAGE = "l0"


class MemoryBuffer:
    """Shared by the trainers of a test; each `connect` is one trainer's connection."""

    def __init__(self, make_batch: MakeBatch) -> None:
        self.make_batch = make_batch
        self.epoch = 0
        self.lineage = ""
        self.ledger: dict[str, int] = {}
        """Step that each trained sample was learned at."""
        self.announced: list[types_pb2.WeightsRef] = []
        self.lost: dict[str, str] = {}
        self.phase = buffer_pb2.RUN_PHASE_RUNNING
        self.reason = ""
        self.restores: list[RestorePoint] = []
        self.window_tokens = 0
        """As the trainer said last; 0: the run file's first."""
        self.events: list[types_pb2.RunEvent] = []
        """Every event that was reported, once; undone where its step was given up."""

    def connect(self) -> MemoryConnection:
        return MemoryConnection(self)


class MemoryConnection:
    """A `BufferPort`."""

    def __init__(self, buffer: MemoryBuffer) -> None:
        self._buffer = buffer
        self._epoch = 0

    def restore_trainer(self, point: RestorePoint) -> buffer_pb2.RestoreTrainerReply:
        buffer = self._buffer
        buffer.epoch += 1
        self._epoch = buffer.epoch
        buffer.restores.append(point)
        buffer.lineage = point.lineage or FRESH_LINEAGE
        num_recovered = self._enter(point.commits)
        redelivered = [sample for sample, step in buffer.ledger.items() if step > point.step]
        for sample in redelivered:
            del buffer.ledger[sample]
        for event in buffer.events:
            event.undone = event.undone or event.step > point.step
        self._steer(point.window_tokens, point.events)
        return buffer_pb2.RestoreTrainerReply(
            epoch=self._epoch,
            lineage=buffer.lineage,
            num_redelivered=len(redelivered),
            num_recovered=num_recovered,
        )

    def lease_batch(self, step: int, wait_s: float) -> buffer_pb2.LeaseBatchReply:
        self._check_epoch()
        buffer = self._buffer
        batch = buffer.make_batch(step) if buffer.phase == buffer_pb2.RUN_PHASE_RUNNING else None
        if batch is None:
            time.sleep(min(wait_s, 0.01))
        return buffer_pb2.LeaseBatchReply(batch=batch, phase=buffer.phase, reason=buffer.reason)

    def commit_steps(
        self,
        records: Sequence[types_pb2.CommitRecord],
        *,
        window_tokens: int = 0,
        events: Sequence[types_pb2.RunEvent] = (),
    ) -> buffer_pb2.CommitStepsReply:
        self._check_epoch()
        num_samples = sum(len(record.sample_ids) for record in records)
        num_trained = self._enter(records)
        self._steer(window_tokens, events)
        return buffer_pb2.CommitStepsReply(num_trained=num_trained, num_duplicates=num_samples - num_trained)

    def announce_version(self, weights: types_pb2.WeightsRef) -> int:
        self._check_epoch()
        self._buffer.announced.append(weights)
        return weights.version

    def report_lost_sample(self, sample_id: str, reason: str) -> None:
        self._check_epoch()
        self._buffer.lost[sample_id] = reason

    def set_phase(self, phase: buffer_pb2.RunPhase, reason: str) -> None:
        self._buffer.phase, self._buffer.reason = phase, reason

    def close(self) -> None:
        return None

    def _check_epoch(self) -> None:
        if self._epoch != self._buffer.epoch:
            raise FencedError(
                f"epoch {self._epoch} is over, epoch {self._buffer.epoch} runs: a newer trainer took over"
            )

    def _steer(self, window_tokens: int, events: Sequence[types_pb2.RunEvent]) -> None:
        self._buffer.window_tokens = window_tokens
        standing = {event.id for event in self._buffer.events if not event.undone}
        for event in events:
            if event.id not in standing:
                standing.add(event.id)
                self._buffer.events.append(types_pb2.RunEvent.FromString(event.SerializeToString()))

    def _enter(self, records: Sequence[types_pb2.CommitRecord]) -> int:
        num_entered = 0
        for record in records:
            for sample in record.sample_ids:
                known = self._buffer.ledger.setdefault(sample, record.step)
                if known != record.step:
                    raise PreconditionError(
                        f"sample {sample} was trained at step {known}, not at {record.step}"
                    )
                num_entered += known == record.step
        return num_entered
