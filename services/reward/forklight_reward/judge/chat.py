"""What a judge needs of a model: an answer to a few messages."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn."""

    role: Literal["system", "user"]
    content: str


class ChatModel(Protocol):
    """A model behind a door, or a scripted one."""

    @property
    def version(self) -> str:
        """Name of the model, for verdicts."""
        ...

    async def complete(self, messages: Sequence[Message], *, seed: int, timeout_s: float) -> str:
        """The text of the answer. UnavailableError, DeadlineError or BusyError when there is none."""
        ...


def seed_of(*parts: str | int) -> int:
    """A seed of 31 bits from what is judged: the same question is judged alike, wherever and whenever."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:4], "big") >> 1


async def together(*calls: Coroutine[object, object, Result]) -> list[Result]:
    """All results in order, or the first failure by itself; the other calls are cancelled then."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]
