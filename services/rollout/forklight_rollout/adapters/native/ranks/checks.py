"""Whether all processes still hold the same rows: each sends a number of where they stand, now and then."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from forklight_core.errors import ForklightError
from forklight_rollout.adapters.native.ranks.channel import FrameKind
from forklight_rollout.adapters.native.ranks.follower import CHECKED
from forklight_rollout.adapters.native.ranks.followers import LOOK_EVERY_S, Followers


class Digest:
    """The leader's own number, on its way to the host behind the work that it is about."""

    def __init__(self, digest: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        self._number = digest
        if digest.is_cuda:
            self._number = torch.empty(digest.shape, dtype=digest.dtype, pin_memory=True)
            self._number.copy_(digest, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def read(self) -> int:
        """After the followers' answers it has arrived, or is about to."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return int(self._number)


@dataclass(slots=True, kw_only=True)
class _Open:
    """A check that not everybody has answered."""

    digest: Digest
    begun: float
    answers: dict[int, int] = field(default_factory=dict)  # by rank


class Checks:
    """Numbered from 1. An answer that differs, or does not come, is a failure of the engine."""

    def __init__(self, followers: Followers) -> None:
        self._followers = followers
        self._open: dict[int, _Open] = {}
        self._number = 0

    def begin(self, digest: Tensor) -> int:
        """Number of a new check; the followers are told next."""
        self._number += 1
        self._open[self._number] = _Open(digest=Digest(digest), begun=time.monotonic())
        return self._number

    def collect(self) -> None:
        """Take what answers have come, without waiting for others."""
        for member in self._followers.members if self._open else ():
            while member.steps.is_readable():
                try:
                    number, digest = CHECKED.unpack(member.steps.receive(FrameKind.CHECKED))
                except ForklightError as error:
                    raise self._followers.explained(error) from error
                self._open[number].answers[member.rank] = digest
        self._close_answered()
        self._followers.require_sound()

    def wait(self) -> None:
        """Until every check has been answered."""
        while self._open:
            self.collect()
            for member in self._followers.members if self._open else ():
                member.steps.is_readable(LOOK_EVERY_S)

    def _close_answered(self) -> None:
        wish = self._followers.wish
        for number, check in list(self._open.items()):
            late = [rank for rank in range(1, wish.size) if rank not in check.answers]
            if not late:
                del self._open[number]
                self._compare(number, check)
            elif time.monotonic() - check.begun > wish.deadline_s:
                names = ", ".join(map(str, late))
                self._followers.fail(
                    f"process {names} has not come to check {number} in {wish.deadline_s:g} s"
                )

    def _compare(self, number: int, check: _Open) -> None:
        own = check.digest.read()
        other = [rank for rank, digest in check.answers.items() if digest != own]
        if other:
            names = ", ".join(map(str, other))
            self._followers.fail(f"at check {number} process {names} holds other tokens than process 0")
