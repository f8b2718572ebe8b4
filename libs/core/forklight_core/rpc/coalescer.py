"""Calls that are made while another is under way travel together: one message for many small ones.

submit ---.                       .--> result or error, each its own
submit ---+--> send(all waiting) -+--> ...
submit ---'    one at a time      '--> ...

Whoever is alone is sent at once, so nothing waits for company.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeAlias, TypeVar

from forklight_core.errors import ForklightError, UnavailableError

Item = TypeVar("Item")
Result = TypeVar("Result")
_Waiting: TypeAlias = tuple[Item, "asyncio.Future[Result]"]


class Coalescer(Generic[Item, Result]):
    """Bounded by whoever waits in `submit`: an item is kept for no longer than its caller waits."""

    def __init__(
        self, send: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]], *, most: int
    ) -> None:
        self._send, self._most = send, most
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._taken: list[_Waiting[Item, Result]] = []
        self._sending: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Result:
        """Send an item; raises what went wrong with it, or with the call that carried it."""
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_all())
            self._sending.add_done_callback(self._end)
        return await answer

    async def _send_all(self) -> None:
        while self._waiting:
            self._take()
            if self._taken:
                await self._send_taken()
        self._sending = None

    def _take(self) -> None:
        """The next ones whose callers still wait."""
        self._taken = []
        while self._waiting and len(self._taken) < self._most:
            item, answer = self._waiting.popleft()
            if not answer.done():
                self._taken.append((item, answer))

    async def _send_taken(self) -> None:
        found: Sequence[Result | Exception]
        try:
            found = await self._send([item for item, _ in self._taken])
        except ForklightError as error:
            found = [error] * len(self._taken)
        if len(found) != len(self._taken):
            odd = ForklightError(f"{len(self._taken)} items were sent and {len(found)} answers came back")
            found = [odd] * len(self._taken)
        for (_, answer), result in zip(self._taken, found, strict=True):
            if answer.done():
                continue
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)

    def _end(self, sending: asyncio.Task[None]) -> None:
        """Nobody may wait for ever: what was cut off, by the loop's end or by a bug, is told so."""
        if sending is not self._sending:
            return
        failure = None if sending.cancelled() else sending.exception()
        reason = failure or UnavailableError("the call was cut off before its answer came")
        for _, answer in [*self._taken, *self._waiting]:
            if not answer.done():
                answer.set_exception(reason)
        self._sending, self._taken, self._waiting = None, [], deque()
