"""Keeps a bounded number of one-shot places ready, of the kinds that were asked for last."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from forklight_core.errors import UnavailableError

logger = logging.getLogger(__name__)

KeyT = TypeVar("KeyT", bound=Hashable)
PlaceT = TypeVar("PlaceT")
CLOSE_LIMIT_S = 60.0


@dataclass(slots=True)
class Kept(Generic[KeyT, PlaceT]):
    """One place that waits for a job."""

    key: KeyT
    place: PlaceT
    born: float


class WarmPool(Generic[KeyT, PlaceT]):
    """Hands out places, each once. A thread of its own makes the next ones."""

    def __init__(
        self,
        make: Callable[[KeyT], PlaceT],
        end: Callable[[PlaceT], None],
        *,
        size: int,
        max_idle_s: float,
    ) -> None:
        self._make = make
        self._end = end
        self._size = size
        self._max_idle_s = max_idle_s
        self._kept: list[Kept[KeyT, PlaceT]] = []
        self._asked: deque[KeyT] = deque(maxlen=max(1, size))
        self._changed = threading.Condition()
        self._is_closed = False
        self._is_paused = False
        self._thread = threading.Thread(target=self._refill, name="warm-pool", daemon=True)
        if size > 0:
            self._thread.start()

    def take(self, key: KeyT) -> PlaceT:
        """One that waits, else a new one, made now."""
        with self._changed:
            if self._is_closed:
                raise UnavailableError("sandbox: the pool is closed")
            self._asked.append(key)
            self._is_paused = False
            found = next((kept for kept in self._kept if kept.key == key and self._is_fresh(kept)), None)
            if found is not None:
                self._kept.remove(found)
            self._changed.notify()
        return self._make(key) if found is None else found.place

    def count_waiting(self) -> int:
        """Places that are ready."""
        with self._changed:
            return len(self._kept)

    def close(self) -> None:
        """End all that wait; nothing is made afterwards."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_LIMIT_S)
        for kept in self._kept:
            self._end(kept.place)
        self._kept.clear()

    def _is_fresh(self, kept: Kept[KeyT, PlaceT]) -> bool:
        return time.monotonic() - kept.born < self._max_idle_s

    def _refill(self) -> None:
        """Make what is missing and end what is not wanted, one at a time, until closed."""
        while True:
            with self._changed:
                if self._is_closed:
                    return
                surplus, missing = self._plan()
                if surplus is None and missing is None:
                    self._changed.wait(self._max_idle_s / 4)
                    continue
                if surplus is not None:
                    self._kept.remove(surplus)
            if surplus is not None:
                self._end(surplus.place)
            elif missing is not None:
                self._add(missing)

    def _plan(self) -> tuple[Kept[KeyT, PlaceT] | None, KeyT | None]:
        """One to end, or one kind to make: the last asked for, as often as they were."""
        wanted = Counter(self._asked)
        missing_one = next(iter(self._asked), None)
        if missing_one is not None and len(wanted) == 1:
            wanted[missing_one] = self._size
        have: Counter[KeyT] = Counter()
        for kept in self._kept:
            have[kept.key] += 1
            if have[kept.key] > wanted[kept.key] or not self._is_fresh(kept):
                return kept, None
        missing = None if self._is_paused else next(iter(wanted - have), None)
        return None, missing

    def _add(self, key: KeyT) -> None:
        try:
            place = self._make(key)
        except UnavailableError as error:
            logger.warning("no place could be kept warm", extra={"reason": str(error)})
            with self._changed:
                self._is_paused = True  # until somebody asks again
            return
        with self._changed:
            self._kept.append(Kept(key, place, time.monotonic()))
