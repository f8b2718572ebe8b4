"""Search over terminal samples: columns in memory, filled from the ledger when somebody first asks.

The path of a sample pays nothing for it: no index, no column, no transaction more. What has changed since the
last search follows from the ledger itself: groups that were open, groups opened since, and what `rollbacks`
says was taken back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from forklight_buffer.context import Context
from forklight_buffer.inspection_columns import Bounds, Columns, Hits, Order
from forklight_buffer.lookups import Ended, LookupMarks
from forklight_buffer.reconcile import Books
from forklight_buffer.states import Purpose
from forklight_core import ids

log = logging.getLogger(__name__)

MOST_SAMPLES = 2_000_000
"""The newest ones; some 130 MB."""
ROWS_AT_ONCE = 4096
GROUPS_AT_ONCE = 256
UNKNOWN = -1
FIRST_WAIT_S = 2.0
"""How long the first search waits for the whole ledger before it answers from what was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is asked for."""

    bounds: Bounds
    order: Order
    after: str
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPage:
    """What was found, and where."""

    hits: Hits
    num_searched: int
    is_reading: bool


class SampleSearch:
    """Reads the ledger once, newest groups first, then follows it. Answers while it reads."""

    def __init__(self, context: Context, books: Books, *, most: int = MOST_SAMPLES) -> None:
        self._context = context
        self._books = books
        self._most = most
        self._columns = Columns(context.run_id)
        self._marks = LookupMarks()
        self._pending: dict[str, int] = {}
        """Groups that were not over when looked at last, and how many of their samples are in the columns."""
        self._turn = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None

    async def search(self, wanted: Search) -> SearchPage:
        """A page of hits."""
        await self._begin()
        reading = self._reading
        is_reading = reading is not None and not reading.done()
        async with self._turn:
            if not is_reading:
                await self._follow()
            hits = await asyncio.to_thread(
                self._columns.find, wanted.bounds, wanted.order, wanted.after, wanted.limit
            )
            return SearchPage(hits=hits, num_searched=len(self._columns), is_reading=is_reading)

    async def close(self) -> None:
        """End reading, before the ledger is closed."""
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading

    async def _begin(self) -> None:
        """Have the ledger read, once; what went wrong comes out here, and the next search tries again."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_all())
        reading = self._reading
        await asyncio.wait({reading}, timeout=FIRST_WAIT_S)
        if reading.done() and (reading.cancelled() or reading.exception() is not None):
            self._reading, self._columns = None, Columns(self._context.run_id)
            reading.result()

    async def _read_all(self) -> None:
        """Evaluation rounds, then training groups backwards until there is no more room."""
        ledger, run = self._context.ledger, self._context.run_id
        self._marks = await asyncio.to_thread(ledger.lookup_marks)
        self._pending = dict.fromkeys(self._marks.open_groups, 0)
        for mark in ("e", "g"):
            above, below = f"{run}/{mark}", f"{run}/{chr(ord(mark) + 1)}"
            while len(self._columns) < self._most:
                async with self._turn:
                    last = await asyncio.to_thread(self._read_some, above, below)
                if not last:
                    break
                below = last
        log.info(
            "ledger read for searching",
            extra={"num_samples": len(self._columns), "num_bytes": self._columns.num_bytes},
        )

    def _read_some(self, above: str, below: str) -> str:
        """The next rows backwards; returns where they end, nothing at the end. Of open groups: later."""
        found = self._context.ledger.samples_down(above=above, below=below, limit=ROWS_AT_ONCE)
        are_open = self._marks.open_groups
        self._add([row for row in found if row.sample_id.rpartition("/s")[0] not in are_open])
        return found[-1].sample_id if found else ""

    async def _follow(self) -> None:
        """What the ledger has got, or taken back, since the last look."""
        ledger = self._context.ledger
        now = await asyncio.to_thread(ledger.lookup_marks)
        opened = await asyncio.to_thread(ledger.opened_groups, self._marks, now)
        self._pending |= dict.fromkeys(opened, 0)
        self._pending |= dict.fromkeys(await asyncio.to_thread(ledger.moved_groups, self._marks), UNKNOWN)
        names = sorted(self._pending)
        for start in range(0, len(names), GROUPS_AT_ONCE):
            await asyncio.to_thread(self._load, names[start : start + GROUPS_AT_ONCE], now.open_groups)
        self._columns.keep_newest(self._most)
        self._marks = now

    def _load(self, group_ids: Sequence[str], are_open: frozenset[str]) -> None:
        """Put groups in as the ledger has them now."""
        found: dict[str, list[Ended]] = {group: [] for group in group_ids}
        for row in self._context.ledger.ended_of(group_ids):
            found[ids.group_of(row.sample_id)].append(row)
        changed = [group for group, rows in found.items() if len(rows) != self._pending[group]]
        self._columns.remove_groups([group for group in changed if self._pending[group] != 0])
        self._add([row for group in changed for row in found[group]])
        for group in group_ids:
            if group in are_open:
                self._pending[group] = len(found[group])
            else:
                del self._pending[group]

    def _add(self, rows: Sequence[Ended]) -> None:
        self._columns.add(rows, domains_of(self._books, rows))


def domains_of(books: Books, rows: Sequence[Ended]) -> list[str]:
    """The domain of each row's prompt."""
    known = {(row.prompt_id, row.purpose): "" for row in rows}
    for prompt_id, purpose in known:
        known[prompt_id, purpose] = domain_of(books, prompt_id, Purpose(purpose))
    return [known[row.prompt_id, row.purpose] for row in rows]


def domain_of(books: Books, prompt_id: str, purpose: Purpose) -> str:
    """The domain of a prompt as the curriculum counts; empty for one that is in the file no more."""
    book = books.get(purpose)
    prompt = None if book is None else book.by_id(prompt_id)
    return "" if prompt is None else prompt.traits.domain
