"""Tokens on their way into the batch: prefilled once a group, in fixed pieces, kept for what begins alike.

Pieces always end at multiples of PIECE_TOKENS from where a feed began, and a feed begins where one before it
ended, so in parity mode its numbers do not depend on what else is prefilled.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from forklight_rollout.adapters.native.choices import join_choices
from forklight_rollout.adapters.native.pages import PagePool
from forklight_rollout.adapters.native.runner import Runner
from forklight_rollout.adapters.native.sequences import NO_SLOT, Feed, Row, find_longest

PIECE_TOKENS = 1024
ROUND_TOKENS = 2048
"""Tokens prefilled between two decode steps (at least one piece): how long decoding may wait."""
GPU_FACTOR = 4
"""A GPU takes pieces and rounds so many times larger: a small one leaves most of it idle."""


class Feeds:
    """The cache slots from `first_slot` on, and the feeds in them or waiting for one, oldest first."""

    def __init__(self, runner: Runner, pool: PagePool, *, first_slot: int, reserve: int) -> None:
        self._runner, self._pool = runner, pool
        self._reserve = reserve
        """Pages that feeds leave to the rows that run."""
        self._factor = GPU_FACTOR if runner.manner.uses_graphs else 1
        self._free_slots = list(range(first_slot, runner.cache.num_slots))
        self._feeds: list[Feed] = []

    @property
    def num_waiting(self) -> int:
        return sum(len(feed.waiting) for feed in self._feeds)

    def admit(self, group: int, prompt_ids: tuple[int, ...], rows: Sequence[Row]) -> None:
        """Queue sequences: those without tokens of their own behind their group's prompt."""
        fresh = [row for row in rows if not row.ids]
        if fresh:
            ids = array("i", prompt_ids)
            feed = next((feed for feed in self._feeds if feed.group == group and feed.ids == ids), None)
            if feed is None:
                feed = Feed(ids=ids, group=group)
                self._feeds.append(feed)
            feed.waiting += fresh
        self._feeds += [Feed(ids=row.all_ids, waiting=[row]) for row in rows if row.ids]

    def put_back(self, row: Row) -> None:
        """A row had to leave: it comes again, before all others."""
        self._feeds.insert(0, Feed(ids=row.all_ids, waiting=[row]))

    def forget(self, key: int) -> None:
        """Drop a sequence that has not started."""
        for feed in self._feeds:
            feed.waiting = [row for row in feed.waiting if row.key != key]
            if not feed.waiting and not feed.is_spare:
                self.release(feed)
        self._feeds = [feed for feed in self._feeds if feed.waiting or feed.is_spare]

    def invalidate(self) -> None:
        """New weights: what was prefilled under the old ones is prefilled again before it is used."""
        for feed in self._feeds:
            self.release(feed)
        self._feeds = [feed for feed in self._feeds if feed.waiting]

    def advance(self) -> bool:
        """Prefill a round of pieces; whether there were any."""
        chosen: list[Feed] = []
        num_tokens, most = 0, ROUND_TOKENS * self._factor
        for feed in [feed for feed in self._feeds if feed.waiting and not feed.has_logits]:
            if (chosen and num_tokens + self._next_tokens(feed) > most) or not self._give_place(feed):
                break
            if not feed.has_logits:
                num_tokens += self._next_tokens(feed)
                chosen.append(feed)
        if chosen:
            self._prefill(chosen)
        return bool(chosen)

    def ready(self) -> list[Feed]:
        return [feed for feed in self._feeds if feed.is_ready]

    def started(self, feed: Feed, number: int) -> None:
        """Its first waiting sequences run now; it stays until its place is needed."""
        del feed.waiting[:number]

    def drop(self, feed: Feed) -> None:
        """The last sequence of its own tokens runs now."""
        self.release(feed)
        self._feeds.remove(feed)

    def keep(self, row: Row, place: int) -> None:
        """Remember what an ended row has been fed, if there is a slot: pages and all."""
        if not self._free_slots and not self._drop_spare():
            return
        spare = Feed(ids=row.all_ids[: row.length], slot=self._free_slots.pop(), num_done=row.length)
        self._runner.copy_slot(place, [spare.slot])
        self._runner.set_length(spare.slot, row.length)
        self._runner.clear_table([spare.slot])
        num_pages = self._pool.count_for(row.length)
        spare.pages, row.pages = row.pages[:num_pages], row.pages[num_pages:]
        self._write_table(spare, 0)
        self._feeds.append(spare)

    def reclaim(self, num_pages: int) -> bool:
        """Make so many pages free at the cost of what is only kept, then of what has not started."""
        while self._pool.num_free < num_pages:
            if not self._drop_spare() and not self._drop_progress():
                return False
        return True

    def release(self, feed: Feed) -> None:
        """Take slot and pages away; its tokens have to be prefilled again."""
        if feed.slot != NO_SLOT:
            self._runner.forget_logits(feed.slot)
            self._free_slots.append(feed.slot)
        self._pool.give_back(feed.pages)
        feed.slot, feed.pages, feed.num_done, feed.has_logits, feed.choices = NO_SLOT, [], 0, False, []

    def _next_tokens(self, feed: Feed) -> int:
        return min(PIECE_TOKENS * self._factor, len(feed.ids) - feed.num_done)

    def _give_place(self, feed: Feed) -> bool:
        """A slot, and pages for all its tokens at once, so that two feeds never wait for each other."""
        if feed.slot != NO_SLOT:
            return True
        base = find_longest(feed.ids, [each for each in self._feeds if each.is_spare])
        num_shared = 0 if base is None else len(base.ids) // self._pool.page_tokens
        num_new = self._pool.count_for(len(feed.ids)) - num_shared
        while not self._free_slots or self._pool.num_free < num_new + self._reserve:
            if not self._drop_spare(but=base):
                return base is not None and self._take_over(base, feed)
        feed.slot = self._free_slots.pop()
        self._runner.clear_table([feed.slot])
        if base is None:
            self._runner.reset([feed.slot])
            feed.pages = self._pool.take(num_new)
        else:
            self._go_on_from(base, feed, num_shared, num_new)
        self._write_table(feed, 0)
        return True

    def _take_over(self, base: Feed, feed: Feed) -> bool:
        """Go on in the base's own place; False when the pages for the rest are not there either."""
        num_new = self._pool.count_for(len(feed.ids)) - len(base.pages)
        if self._pool.num_free < num_new + self._reserve:
            return self._drop_spare() and self._give_place(feed)
        first = len(base.pages)
        feed.slot, feed.pages, feed.choices = base.slot, base.pages + self._pool.take(num_new), base.choices
        feed.num_done, feed.has_logits = len(base.ids), len(base.ids) == len(feed.ids)
        self._feeds.remove(base)
        self._write_table(feed, first)
        return True

    def _go_on_from(self, base: Feed, feed: Feed, num_shared: int, num_new: int) -> None:
        self._runner.copy_slot(base.slot, [feed.slot])
        feed.pages = self._pool.share(base.pages[:num_shared]) + self._pool.take(num_new)
        if len(base.ids) % self._pool.page_tokens:
            self._runner.copy_pages([base.pages[num_shared]], [feed.pages[num_shared]])
        feed.num_done = len(base.ids)
        feed.choices = list(base.choices)
        if feed.num_done == len(feed.ids):
            feed.has_logits = True
            self._runner.copy_logits(base.slot, feed.slot)

    def _prefill(self, feeds: list[Feed]) -> None:
        lengths = [self._next_tokens(feed) for feed in feeds]
        pieces = [feed.ids[feed.num_done : feed.num_done + n] for feed, n in zip(feeds, lengths, strict=True)]
        choices = self._runner.feed([feed.slot for feed in feeds], pieces, [feed.num_done for feed in feeds])
        for feed, part in zip(feeds, choices, strict=False):  # none where none are recorded
            feed.choices.append(part)
        for feed, length in zip(feeds, lengths, strict=True):
            feed.num_done += length
            if feed.num_done == len(feed.ids):
                feed.has_logits = True
                feed.choices = [join_choices(feed.choices)] if feed.choices else []

    def _write_table(self, feed: Feed, first: int) -> None:
        columns = range(first, len(feed.pages))
        if columns:
            self._runner.write_table([feed.slot] * len(columns), columns, feed.pages[first:])

    def _drop_spare(self, but: Feed | None = None) -> bool:
        """Forget the oldest feed that nothing waits for."""
        for feed in self._feeds:
            if feed.is_spare and feed is not but:
                self.release(feed)
                self._feeds.remove(feed)
                return True
        return False

    def _drop_progress(self) -> bool:
        """Let the youngest feed begin again later."""
        for feed in reversed(self._feeds):
            if feed.slot != NO_SLOT:
                self.release(feed)
                return True
        return False
