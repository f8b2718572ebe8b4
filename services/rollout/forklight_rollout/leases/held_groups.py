"""The groups this pod holds leases on, and which of their samples are open. For the event loop only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from forklight.v1 import types_pb2
from forklight_core.errors import FencedError
from forklight_core.queues import Lease


@dataclass(slots=True, eq=False)
class HeldGroup:
    """A lease, its task, and what has not been submitted yet."""

    lease: Lease
    task: types_pb2.GenerationTask
    open_samples: set[str] = field(default_factory=set)
    is_dropped: bool = False

    @property
    def group_id(self) -> str:
        return self.task.envelope.group_id

    def require_held(self) -> None:
        """FencedError once the group was given up."""
        if self.is_dropped:
            raise FencedError(
                f"group {self.group_id}: this pod gave it up; another one generates what is missing"
            )


class HeldGroups:
    """All of them, by group id. Whoever changes something calls `notify`."""

    def __init__(self) -> None:
        self._groups: dict[str, HeldGroup] = {}
        self._changed = asyncio.Event()
        self.num_unsubmitted = 0
        """Samples whose generation has ended but not their submission."""
        self.last_size = 0
        """Samples of the group that came last; 0 before the first."""

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def num_in_engine(self) -> int:
        """Open samples that are still waited for or generated."""
        num_open = sum(len(group.open_samples) for group in self._groups.values())
        return max(0, num_open - self.num_unsubmitted)

    def find(self, group_id: str) -> HeldGroup | None:
        return self._groups.get(group_id)

    def find_all(self, group_ids: Iterable[str]) -> list[HeldGroup]:
        return [self._groups[group_id] for group_id in group_ids if group_id in self._groups]

    def all(self) -> list[HeldGroup]:
        return list(self._groups.values())

    def leases(self) -> dict[str, Lease]:
        """The lease of every group, as of now."""
        return {group_id: group.lease for group_id, group in self._groups.items()}

    def hold(self, lease: Lease, task: types_pb2.GenerationTask) -> HeldGroup:
        """Remember a new lease."""
        group = HeldGroup(lease=lease, task=task)
        self._groups[group.group_id] = group
        self.last_size = task.sampling.num_samples
        return group

    def close_sample(self, group: HeldGroup, sample_id: str) -> None:
        """The sample needs nothing more from this pod; its group is forgotten with its last one."""
        group.open_samples.discard(sample_id)
        if not group.open_samples:
            self._remove(group)

    def drop(self, group: HeldGroup) -> set[str]:
        """Forget a group; returns the samples that were open."""
        group.is_dropped = True
        dropped, group.open_samples = group.open_samples, set()
        self._remove(group)
        return dropped

    def notify(self) -> None:
        """Wake those who wait for a change."""
        self._changed.set()

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Return once the condition holds; it is asked again at every change."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    def _remove(self, group: HeldGroup) -> None:
        if self._groups.get(group.group_id) is group:
            del self._groups[group.group_id]
