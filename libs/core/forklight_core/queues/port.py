"""The port for work queues: leases with heartbeat, fence and redelivery. Delivery is at least once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A holder's claim on one entry. `fence` grows with every delivery, so a late holder is told apart."""

    entry_id: str
    consumer: str
    fence: int
    queue: str = ""
    """Name of the queue, set by who takes from several: ids of entries are unique in one queue only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leased:
    """One entry and the claim on it."""

    lease: Lease
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """How a queue stands."""

    num_waiting: int
    num_leased: int
    oldest_age_s: float
    holders: Mapping[str, int] = field(default_factory=dict)
    """Entries held, by holder."""


class WorkQueue(Protocol):
    """A bounded-by-credit queue of work. Every method raises UnavailableError when its server is away."""

    async def put(self, body: bytes) -> str:
        """Append an entry; returns its id."""
        ...

    async def take(self, consumer: str, *, wait_s: float, max_items: int) -> list[Leased]:
        """Expired leases of others first, then new entries; waits at most `wait_s` for the first."""
        ...

    async def heartbeat(self, leases: Sequence[Lease]) -> list[Lease]:
        """Renew; returns those that are still ours."""
        ...

    async def release(self, lease: Lease) -> bool:
        """Hand back: the next `take` of anyone gets it at once. False when it was no longer ours."""
        ...

    async def settle(self, lease: Lease) -> bool:
        """Done: the entry is gone. False when it was no longer ours."""
        ...

    async def stats(self) -> QueueStats:
        """Depth, leases and age."""
        ...
