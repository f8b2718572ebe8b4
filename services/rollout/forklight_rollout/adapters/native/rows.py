"""The running sequences: rows 0 to n-1 of the batch without holes, each in the cache slot of its number.

The last row moves into the place of one that leaves; its pages stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from forklight_rollout.adapters.native.pages import PagePool
from forklight_rollout.adapters.native.runner import Runner
from forklight_rollout.adapters.native.sequences import Feed, Row


class Rows:
    """Host and device agree after every call, in the order of the calls."""

    def __init__(self, runner: Runner, pool: PagePool, num_places: int) -> None:
        self._runner, self._pool = runner, pool
        self._num_places = num_places
        self._places: dict[int, int] = {}
        self.running: list[Row] = []

    def __len__(self) -> int:
        return len(self.running)

    @property
    def num_free(self) -> int:
        return self._num_places - len(self.running)

    @property
    def num_pages_wanted(self) -> int:
        """Pages that rows lack for their next token."""
        return sum(self._lacks_page(row) for row in self.running)

    def place_of(self, row: Row) -> int | None:
        """None when it does not run."""
        return self._places.get(row.key)

    def find(self, key: int) -> Row | None:
        place = self._places.get(key)
        return None if place is None else self.running[place]

    def grow(self) -> None:
        """A page for every row whose next token needs one; they must be free."""
        places, columns, pages = [], [], []
        for place, row in enumerate(self.running):
            if self._lacks_page(row):
                (page,) = self._pool.take(1)
                places.append(place)
                columns.append(len(row.pages))
                pages.append(page)
                row.pages.append(page)
        if pages:
            self._runner.write_table(places, columns, pages)

    def fork(self, feed: Feed, added: Sequence[Row]) -> int:
        """New rows go on from a feed's slot and pages (an unfinished page is copied); their first place."""
        first, num_whole = len(self.running), len(feed.ids) // self._pool.page_tokens
        copied = []
        for row in added:
            row.pages = self._pool.share(feed.pages[:num_whole])
            if len(feed.pages) > num_whole:
                row.pages += self._pool.take(1)
                copied.append(row.pages[-1])
        if copied:
            self._runner.copy_pages([feed.pages[num_whole]] * len(copied), copied)
        self._join(feed, added)
        return first

    def adopt(self, feed: Feed) -> int:
        """The one row that waits for a feed goes on from its slot and takes its pages over; its place."""
        (row,) = feed.waiting
        row.pages, feed.pages = feed.pages, []
        self._join(feed, [row])
        return len(self.running) - 1

    def advance(self) -> None:
        """Every row is fed a token by the step under way."""
        for row in self.running:
            row.length += 1

    def remove(self, row: Row) -> None:
        """Free its place and what pages it still has."""
        place, last = self._places.pop(row.key), len(self.running) - 1
        moved = self.running.pop()
        if place != last:
            self._runner.move_row(last, place)
            self.running[place] = moved
            self._places[moved.key] = place
        self._runner.clear_row(last)
        self._pool.give_back(row.pages)
        row.pages = []

    def _join(self, feed: Feed, added: Sequence[Row]) -> None:
        first = len(self.running)
        places = list(range(first, first + len(added)))
        self._runner.copy_slot(feed.slot, places)
        for place, row in zip(places, added, strict=True):
            row.length = len(feed.ids)
            self._places[row.key] = place
            self.running.append(row)
        slots = [place for place, row in zip(places, added, strict=True) for _ in row.pages]
        columns = [column for row in added for column in range(len(row.pages))]
        self._runner.write_table(slots, columns, [page for row in added for page in row.pages])

    def _lacks_page(self, row: Row) -> bool:
        return row.length >= len(row.pages) * self._pool.page_tokens
