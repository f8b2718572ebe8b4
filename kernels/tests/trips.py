"""Processes of an expert group as threads of one: for tests of what rows do on their trips.

One thread runs at a time; where all must hand something in, it waits for the others. Legend: E experts.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from threading import Condition
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")
DEADLINE_S = 60


@dataclass(slots=True)
class Meeting:
    """Where `size` threads exchange what they hold."""

    size: int
    turn: Condition = field(default_factory=Condition)
    given: list[dict[int, list[Tensor]]] = field(default_factory=list)
    num_messages: int = 0

    def run(self, work: Callable[[int], Result]) -> list[Result]:
        """What each of them returns."""

        def alone(rank: int) -> Result:
            with self.turn:
                return work(rank)

        with ThreadPoolExecutor(self.size) as pool:
            calls = [pool.submit(copy_context().run, alone, rank) for rank in range(self.size)]
            return [call.result(DEADLINE_S) for call in calls]

    def swap(self, rank: int, step: int, pieces: list[Tensor]) -> list[Tensor]:
        """Piece r goes to thread r; back come the pieces for this one, in the order of their senders."""
        while len(self.given) <= step:
            self.given.append({})
        self.given[step][rank] = pieces
        self.turn.notify_all()
        assert self.turn.wait_for(lambda: len(self.given[step]) == self.size, DEADLINE_S)
        self.num_messages += 1
        return [self.given[step][source][rank] for source in range(self.size)]


@dataclass(slots=True)
class Traveller:
    """A thread's way into the meeting."""

    meeting: Meeting
    rank: int
    step: int = 0

    def start_trip(self, counts_E: Tensor) -> "Trip":
        by_owner = list(counts_E.chunk(self.meeting.size))
        arriving = self._swap(by_owner)
        numbers = torch.arange(len(by_owner[0]), device=counts_E.device)
        return Trip(
            traveller=self,
            sent=[int(each.sum()) for each in by_owner],
            arrived=[int(each.sum()) for each in arriving],
            experts_S=torch.cat([torch.repeat_interleave(numbers, each) for each in arriving]),
        )

    def _swap(self, pieces: list[Tensor]) -> list[Tensor]:
        self.step += 1
        return self.meeting.swap(self.rank, self.step - 1, pieces)

    def move(self, rows: Tensor, splits: list[int]) -> Tensor:
        return torch.cat(self._swap([piece.clone() for piece in rows.split(splits)]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """A `RowTrip` of threads."""

    traveller: Traveller
    sent: list[int]
    arrived: list[int]
    experts_S: Tensor

    def to_owners(self, rows_RW: Tensor) -> Tensor:
        return self.traveller.move(rows_RW, self.sent)

    def to_sources(self, rows_SW: Tensor) -> Tensor:
        return self.traveller.move(rows_SW, self.arrived)
