"""The buffer's door in this process's memory, true to its port: for tests of a pod."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from forklight.v1 import types_pb2
from forklight_core.errors import FencedError, InvalidInputError
from forklight_core.ids import group_of, sample_id
from forklight_core.queues import Lease, WorkQueue
from forklight_rollout.ports import PendingSample, Saved, SegmentRef, SubmitOutcome


@dataclass(slots=True)
class MemoryBuffer:
    """A buffer of some groups: remembers what it was given, refuses leases older than the newest it saw.

    With a queue it settles a task once nothing of its group is missing, as the real one does.
    """

    num_samples: int
    queue: WorkQueue | None = None
    accepted: dict[str, types_pb2.Trajectory] = field(default_factory=dict)
    segments: dict[str, list[SegmentRef]] = field(default_factory=dict)
    terminal: set[str] = field(default_factory=set)
    fences: dict[str, int] = field(default_factory=dict)
    on_submit: Callable[[types_pb2.Trajectory], None] = field(default=lambda _: None)

    async def pending_samples(self, group_id: str, lease: Lease) -> list[PendingSample]:
        self._check(group_id, lease)
        return [
            PendingSample(index=index, segments=tuple(self.segments.get(sample_id(group_id, index), ())))
            for index in self._missing(group_id)
        ]

    async def submit(self, trajectory: types_pb2.Trajectory, lease: Lease) -> SubmitOutcome:
        self.on_submit(trajectory)
        name, group_id = trajectory.envelope.sample_id, trajectory.envelope.group_id
        if name in self.accepted:
            return SubmitOutcome.DUPLICATE
        self._check(group_id, lease)
        if name in self.terminal:
            return SubmitOutcome.DROPPED
        self.accepted[name] = trajectory
        self.segments.pop(name, None)
        if self.queue is not None and not self._missing(group_id):
            await self.queue.settle(lease)
        return SubmitOutcome.ACCEPTED

    async def save_segment(self, sample_id: str, segment: SegmentRef, lease: Lease) -> Saved:
        if sample_id in self.accepted or sample_id in self.terminal:
            return Saved(outcome=SubmitOutcome.DROPPED, num_saved_tokens=0)
        self._check(group_of(sample_id), lease)
        if segment in self.segments.get(sample_id, ()):
            return Saved(outcome=SubmitOutcome.DUPLICATE, num_saved_tokens=self.num_saved(sample_id))
        if segment.start != self.num_saved(sample_id):
            raise InvalidInputError(
                f"segment at {segment.start} of {sample_id}: {self.num_saved(sample_id)} tokens are saved"
            )
        self.segments.setdefault(sample_id, []).append(segment)
        return Saved(outcome=SubmitOutcome.ACCEPTED, num_saved_tokens=segment.end)

    async def drop_segments(self, sample_id: str, from_start: int, lease: Lease) -> Saved:
        if sample_id in self.accepted or sample_id in self.terminal:
            return Saved(outcome=SubmitOutcome.DROPPED, num_saved_tokens=0)
        self._check(group_of(sample_id), lease)
        if from_start >= self.num_saved(sample_id):
            return Saved(outcome=SubmitOutcome.DUPLICATE, num_saved_tokens=self.num_saved(sample_id))
        kept = [segment for segment in self.segments[sample_id] if segment.start < from_start]
        if sum(segment.num_tokens for segment in kept) != from_start:
            raise InvalidInputError(f"no segment of {sample_id} starts at {from_start}")
        self.segments[sample_id] = kept
        return Saved(outcome=SubmitOutcome.ACCEPTED, num_saved_tokens=from_start)

    def num_saved(self, sample_id: str) -> int:
        """Tokens saved of a response."""
        return sum(segment.num_tokens for segment in self.segments.get(sample_id, ()))

    def _missing(self, group_id: str) -> list[int]:
        done = {*self.accepted, *self.terminal}
        return [index for index in range(self.num_samples) if sample_id(group_id, index) not in done]

    def _check(self, group_id: str, lease: Lease) -> None:
        newest = self.fences.setdefault(group_id, lease.fence)
        if lease.fence < newest:
            raise FencedError(
                f"group {group_id}: fence {lease.fence} is older than {newest}; another pod holds it"
            )
        self.fences[group_id] = lease.fence
