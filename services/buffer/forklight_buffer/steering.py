"""What steers a run from outside: the window of responses, and events that people should know of.

The ledger alone has both. What is reported is checked as a whole before anything of the call is entered.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from forklight.v1 import types_pb2
from forklight_buffer import metrics
from forklight_buffer.context import Context
from forklight_buffer.records import Control, ReportedEvent
from forklight_core.errors import InvalidInputError
from forklight_core.runfile import RunFile, first_window, largest_window
from forklight_core.telemetry import counter

MOST_EVENTS = 100
MOST_EVIDENCE_BYTES = 64 * 1024
MOST_ID_LENGTH = 200
MOST_TITLE_LENGTH = 1000
LARGEST_NUMBER = 2**63 - 1
KIND = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
SEVERITIES = (types_pb2.SEVERITY_INFO, types_pb2.SEVERITY_WARNING, types_pb2.SEVERITY_ALERT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What came with a call of the trainer. Window 0: the run file's first."""

    window: int = 0
    events: tuple[ReportedEvent, ...] = ()


NO_ORDERS = Orders()


def window_of(control: Control, run_file: RunFile) -> int:
    """Length window of groups opened now, in tokens; never beyond what pods have planned for."""
    return min(control.window or first_window(run_file), largest_window(run_file))


class Steering:
    """Takes orders; lists events."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def check(self, window_tokens: int, events: Sequence[types_pb2.RunEvent]) -> Orders:
        """Orders that can be followed, or InvalidInputError naming what is wrong with them."""
        largest = largest_window(self._context.run_file)
        if window_tokens > largest:
            raise InvalidInputError(
                f"window_tokens is {window_tokens}, the largest window of this run is {largest} tokens "
                "(the last of length.windows, or sampling.max_new_tokens without them): no pod has planned "
                "for more; name the largest window in the run file and start again"
            )
        if len(events) > MOST_EVENTS:
            raise InvalidInputError(
                f"{len(events)} events in one call: at most {MOST_EVENTS} are taken; say what matters"
            )
        return Orders(window=window_tokens, events=tuple(map(self._read, events)))

    def _read(self, event: types_pb2.RunEvent) -> ReportedEvent:
        check_event(event)
        taken = types_pb2.RunEvent()
        taken.CopyFrom(event)
        taken.undone = False
        taken.at = taken.at or self._context.clock()
        return ReportedEvent(event_id=event.id, step=event.step, body=taken.SerializeToString())

    async def follow(self, orders: Orders, before: Control) -> None:
        """Move the window and enter the events. Callers hold the turn; saying so twice changes nothing."""
        context = self._context
        entered = await asyncio.to_thread(context.ledger.steer, orders.window, orders.events)
        control = await asyncio.to_thread(context.ledger.control)
        window = window_of(control, context.run_file)
        await context.live.set_run({"window": str(window)})
        if window != window_of(before, context.run_file):
            was = window_of(before, context.run_file)
            await context.record("window", f"{was} -> {window} tokens at step {control.step}")
        await self._tell(entered)

    async def report(self, event: types_pb2.RunEvent) -> None:
        """An event of the buffer itself."""
        await self.enter([self._read(event)])

    async def enter(self, events: Sequence[ReportedEvent]) -> int:
        """Events of anybody but the trainer, checked already; how many did not stand before."""
        entered = await asyncio.to_thread(self._context.ledger.report_events, list(events))
        await self._tell(entered)
        return len(entered)

    async def _tell(self, entered: Sequence[ReportedEvent]) -> None:
        for one in entered:
            event = types_pb2.RunEvent.FromString(one.body)
            severity = types_pb2.Severity.Name(event.severity).removeprefix("SEVERITY_").lower()
            counter(metrics.EVENTS).add(1, {"kind": event.kind, "severity": severity})
            await self._context.record(
                "reported", f"{severity} {event.kind} at step {event.step}: {event.title}"
            )

    async def last_events(self, limit: int) -> list[types_pb2.RunEvent]:
        """The newest, oldest first."""
        found = await self._page(after=0, limit=limit, newest_first=True)
        return [event_message(one) for one in reversed(found)]

    async def list_events(
        self, *, after: str, limit: int, newest_first: bool
    ) -> tuple[list[types_pb2.RunEvent], str]:
        """A page of all events, and where the next one starts; empty at the end."""
        if after and not (after.isascii() and after.isdigit() and 0 < int(after) <= LARGEST_NUMBER):
            raise InvalidInputError(f"after = {after!r} is no place in the events: pass the `next` of a page")
        found = await self._page(after=int(after or 0), limit=limit + 1, newest_first=newest_first)
        page = found[:limit]
        return [event_message(one) for one in page], str(page[-1].number) if len(found) > limit else ""

    async def _page(self, *, after: int, limit: int, newest_first: bool) -> list[ReportedEvent]:
        ledger = self._context.ledger
        return await asyncio.to_thread(
            lambda: ledger.reported_events(after=after, limit=limit, newest_first=newest_first)
        )


def event_message(event: ReportedEvent) -> types_pb2.RunEvent:
    """An event as it was reported, and whether it still stands."""
    message = types_pb2.RunEvent.FromString(event.body)
    message.undone = event.undone
    return message


def check_event(event: types_pb2.RunEvent) -> None:
    """InvalidInputError with the field that is wrong."""
    if not event.id or len(event.id) > MOST_ID_LENGTH or not event.id.isprintable():
        raise InvalidInputError(
            f"an event has the id {event.id[:MOST_ID_LENGTH]!r}: 1 to {MOST_ID_LENGTH} printable characters"
        )
    if not KIND.fullmatch(event.kind):
        raise _wrong(
            event, "kind", f"is {event.kind[:80]!r}: use lower-case letters, digits and _, e.g. window"
        )
    if event.severity not in SEVERITIES:
        raise _wrong(event, "severity", f"is {event.severity}: use INFO, WARNING or ALERT")
    if not event.title.strip() or len(event.title) > MOST_TITLE_LENGTH:
        raise _wrong(
            event, "title", f"has {len(event.title)} characters: 1 to {MOST_TITLE_LENGTH} are needed"
        )
    if max(event.step, event.version) > LARGEST_NUMBER:
        raise _wrong(event, "step", f"or version is beyond {LARGEST_NUMBER}")
    if not (math.isfinite(event.at) and event.at >= 0):
        raise _wrong(event, "at", f"is {event.at}: seconds of unix time")
    _check_evidence(event)


def _check_evidence(event: types_pb2.RunEvent) -> None:
    num_bytes = len(event.evidence_json.encode())
    if num_bytes > MOST_EVIDENCE_BYTES:
        raise _wrong(
            event,
            "evidence_json",
            f"has {num_bytes} bytes: at most {MOST_EVIDENCE_BYTES} are kept; send figures, not samples",
        )
    try:
        is_object = not event.evidence_json or isinstance(json.loads(event.evidence_json), dict)
    except (ValueError, RecursionError) as error:
        raise _wrong(event, "evidence_json", f"is not JSON: {error}") from None
    if not is_object:
        raise _wrong(event, "evidence_json", "is not a JSON object")


def _wrong(event: types_pb2.RunEvent, field: str, problem: str) -> InvalidInputError:
    return InvalidInputError(f"event {event.id!r}: {field} {problem}")
