"""The two queues of a pod as one: groups to train on, and groups of evaluation rounds.

A waiting evaluation group is taken first, so that a round never stands behind training, but only while
evaluation has less than its share of the decode batch, so that training never stands behind a round. A pod
that finds nothing to train on for a whole wait, and holds nothing of it, gives evaluation all it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from forklight.v1 import types_pb2
from forklight_core.queues import Lease, Leased, QueueStats, WorkQueue
from forklight_rollout.leases.held_groups import HeldGroup, HeldGroups


class QueueName(StrEnum):
    """Which queue a lease is of."""

    TASKS = "tasks"
    EVALUATE = "evaluate"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationShare:
    """How much of a pod evaluation may have while training goes on. One group fits in any case."""

    max_share: float
    samples_per_group: int

    def has_room(self, num_held: int, num_sequences: int) -> bool:
        """Whether another group fits beside so many samples of evaluation."""
        return not num_held or num_held + self.samples_per_group <= int(self.max_share * num_sequences)


class TwoQueues:
    """A `WorkQueue`. Its leases name their queue: ids of entries are unique in one queue only."""

    def __init__(
        self,
        tasks: WorkQueue,
        evaluate: WorkQueue,
        *,
        share: EvaluationShare,
        held: HeldGroups,
        num_sequences: int,
    ) -> None:
        self._queues = {QueueName.TASKS: tasks, QueueName.EVALUATE: evaluate}
        self._share = share
        self._held = held
        self._num_sequences = num_sequences

    async def put(self, body: bytes) -> str:
        """To the queue of training."""
        return await self._queues[QueueName.TASKS].put(body)

    async def take(self, consumer: str, *, wait_s: float, max_items: int) -> list[Leased]:
        """One evaluation group if it may, else training; waits for training only."""
        if self._share.has_room(self._num_evaluating(), self._num_sequences):
            found = await self._take(QueueName.EVALUATE, consumer, 0.0, 1)
            if found:
                return found
        found = await self._take(QueueName.TASKS, consumer, wait_s, max_items)
        if not found and not any(map(_is_training, self._held.all())):
            found = await self._take(QueueName.EVALUATE, consumer, 0.0, 1)
        return found

    async def _take(self, name: QueueName, consumer: str, wait_s: float, max_items: int) -> list[Leased]:
        taken = await self._queues[name].take(consumer, wait_s=wait_s, max_items=max_items)
        return [replace(each, lease=replace(each.lease, queue=name)) for each in taken]

    def _num_evaluating(self) -> int:
        return sum(len(group.open_samples) for group in self._held.all() if not _is_training(group))

    async def heartbeat(self, leases: Sequence[Lease]) -> list[Lease]:
        """Each on its own queue."""
        kept: list[Lease] = []
        for name, queue in self._queues.items():
            ours = [lease for lease in leases if _queue_of(lease) is name]
            kept += await queue.heartbeat(ours)
        return kept

    async def release(self, lease: Lease) -> bool:
        """Hand back where it came from."""
        return await self._queues[_queue_of(lease)].release(lease)

    async def settle(self, lease: Lease) -> bool:
        """Done, where it came from."""
        return await self._queues[_queue_of(lease)].settle(lease)

    async def stats(self) -> QueueStats:
        """Of both together."""
        found = [await queue.stats() for queue in self._queues.values()]
        return QueueStats(
            num_waiting=sum(stats.num_waiting for stats in found),
            num_leased=sum(stats.num_leased for stats in found),
            oldest_age_s=max(stats.oldest_age_s for stats in found),
        )


def _queue_of(lease: Lease) -> QueueName:
    return QueueName(lease.queue or QueueName.TASKS)


def _is_training(group: HeldGroup) -> bool:
    return group.task.purpose == types_pb2.PURPOSE_TRAIN
