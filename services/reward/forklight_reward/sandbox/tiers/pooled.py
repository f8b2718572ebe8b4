"""One job in one place of a pool; a place that died while it waited costs the job nothing."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol, TypeVar

from forklight_reward.sandbox.runner import Ended, Job, NeverStartedError
from forklight_reward.sandbox.tiers.conversation import Channel, GuestGoneError, converse
from forklight_reward.sandbox.tiers.pool import WarmPool


class Held(Protocol):
    """A place whose guest is ready."""

    @property
    def channel(self) -> Channel:
        """The way to the guest."""


KeyT = TypeVar("KeyT", bound=Hashable)
HeldT = TypeVar("HeldT", bound=Held)
Asked_contra = TypeVar("Asked_contra", contravariant=True)


class Makers(Protocol[Asked_contra, HeldT]):
    """What makes, ends and explains places."""

    def make(self, key: Asked_contra, /) -> HeldT:
        """A fresh one. Nothing is left when it fails."""

    def end(self, held: HeldT, /) -> None:
        """Remove it with all that is in it."""

    def explain(self, held: HeldT, job: Job, /) -> Ended:
        """How a job ended whose guest went; UnavailableError unless the job did it."""


def run_pooled(
    makers: Makers[KeyT, HeldT], pool: WarmPool[KeyT, HeldT], key: KeyT, job: Job, request: bytes
) -> Ended:
    """The job in one place, which is gone afterwards."""
    held = pool.take(key)
    try:
        return converse(held.channel, request, job)
    except GuestGoneError:
        return makers.explain(held, job)
    except NeverStartedError:
        pass
    finally:
        makers.end(held)
    held = makers.make(key)
    try:
        return converse(held.channel, request, job)
    except GuestGoneError:
        return makers.explain(held, job)
    finally:
        makers.end(held)
