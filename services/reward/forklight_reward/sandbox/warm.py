"""Jails made ahead of their jobs: each is used once, and another takes its place in the background."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from forklight_core.errors import UnavailableError
from forklight_reward.sandbox.cell import Cell

logger = logging.getLogger(__name__)

PAUSE_S = 1.0
NUM_REFILLERS = 2
"""Making a jail is mostly waiting for the kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSize:
    """How many jails wait, and for how long."""

    num_ready: int = 4
    """For each size of disk that was asked for of late."""
    max_ready: int = 16
    """For all of them together."""
    max_idle_s: float = 60.0
    """A jail that waited longer is thrown away; a size nobody asked for that long is not made again."""


@dataclass(slots=True)
class Shelf:
    """Waiting jails of one size of disk."""

    cells: deque[Cell] = field(default_factory=deque)
    asked: float = 0.0


class JailPool:
    """Waiting jails by size of disk: everything else about a job is set when it is sent."""

    def __init__(self, make: Callable[[int], Cell], size: PoolSize) -> None:
        self._make = make
        self.size = size
        self._shelves: dict[int, Shelf] = {}
        self._change = threading.Condition()
        self._is_closed = False
        # Threads for the pool's whole life: a jail dies with the thread that made it.
        self._refillers = [threading.Thread(target=self._refill, daemon=True) for _ in range(NUM_REFILLERS)]
        self._num_coming = 0
        for thread in self._refillers:
            thread.start()

    def take(self, disk_mb: int) -> Cell | None:
        """A living jail, or None: the caller makes one."""
        dead: list[Cell] = []
        try:
            with self._change:
                shelf = self._shelves.setdefault(disk_mb, Shelf())
                shelf.asked = time.monotonic()
                self._change.notify()
                while shelf.cells:
                    cell = shelf.cells.popleft()
                    if cell.is_alive():
                        return cell
                    dead.append(cell)
                return None
        finally:
            for cell in dead:
                cell.close()

    def num_ready(self) -> int:
        """Jails that wait."""
        with self._change:
            return sum(len(shelf.cells) for shelf in self._shelves.values())

    def close(self) -> None:
        """End every waiting jail."""
        with self._change:
            self._is_closed = True
            self._change.notify_all()
        for thread in self._refillers:
            thread.join()
        for shelf in self._shelves.values():
            while shelf.cells:
                shelf.cells.popleft().close()

    def _refill(self) -> None:
        while True:
            with self._change:
                if self._is_closed:
                    return
                old = self._take_old()
                wanted = self._next_wanted()
                if wanted is None and not old:
                    self._change.wait(self.size.max_idle_s / 4)
                    continue
                self._num_coming += wanted is not None
            for cell in old:
                cell.close()
            if wanted is not None:
                self._add(wanted)

    def _add(self, disk_mb: int) -> None:
        try:
            cell = self._make(disk_mb)
        except UnavailableError as error:
            logger.warning("no jail could be made ahead", extra={"reason": str(error)})
            with self._change:
                self._num_coming -= 1
                self._change.wait(PAUSE_S)
            return
        with self._change:
            self._num_coming -= 1
            self._shelves.setdefault(disk_mb, Shelf()).cells.append(cell)

    def _take_old(self) -> list[Cell]:
        """Jails that are dead, waited too long or belong to a size that nobody asks for."""
        now = time.monotonic()
        old: list[Cell] = []
        for disk_mb, shelf in list(self._shelves.items()):
            is_wanted = now - shelf.asked < self.size.max_idle_s
            kept = deque[Cell]()
            for cell in shelf.cells:
                is_young = now - cell.born < self.size.max_idle_s
                (kept if is_wanted and is_young and cell.is_alive() else old).append(cell)
            shelf.cells = kept
            if not is_wanted:
                del self._shelves[disk_mb]
        return old

    def _next_wanted(self) -> int | None:
        """The size most lately asked for that has too few, within the bound on all."""
        num_made = sum(len(shelf.cells) for shelf in self._shelves.values()) + self._num_coming
        if num_made >= self.size.max_ready:
            return None
        short = [
            (shelf.asked, disk_mb)
            for disk_mb, shelf in self._shelves.items()
            if len(shelf.cells) + self._num_coming < self.size.num_ready
        ]
        return max(short)[1] if short else None
