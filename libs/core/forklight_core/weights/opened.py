"""Files of a version, opened once and read into memory of the caller's. Nothing is mapped: page faults take
the process's memory lock, which threads that read side by side would wait for.
"""

from __future__ import annotations

import os
import threading
import weakref
from pathlib import Path

from forklight_core.weights.changes import Bytes
from forklight_core.weights.manifest import torn

MOST_OPEN = 256
"""At once. Many ranks write more files than a process may have open: the others are opened each time."""


class OpenedFiles:
    """Opened where they are first read, closed by `close` or with the object. For several threads."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[Path, str], int] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._numbers)

    def read(self, folder: Path, file: str, out: Bytes, offset: int) -> None:
        """Fill `out` with the file's bytes from `offset` on; WeightsError where they are not to be had."""
        place = (folder, file)
        try:
            number = self._numbers.get(place)
            if number is None:
                number = self._open(place)
            try:
                is_whole = _fill(number, out.data, offset)
            finally:
                if place not in self._numbers:
                    os.close(number)
        except OSError as error:
            raise torn(folder / file, f"cannot be read: {error}") from error
        if not is_whole:
            raise torn(folder / file, f"is torn: it ends before byte {offset + len(out)}")

    def close(self) -> None:
        """Once nobody reads any more."""
        with self._lock:
            _close_all(self._numbers)

    def _open(self, place: tuple[Path, str]) -> int:
        """Its number; it stays open if it is among the first ones."""
        with self._lock:
            number = self._numbers.get(place)
            if number is None:
                number = os.open(place[0] / place[1], os.O_RDONLY)
                if len(self._numbers) < MOST_OPEN:
                    self._numbers[place] = number
            return number


def _fill(number: int, rest: memoryview, offset: int) -> bool:
    """Whether there was enough to fill it."""
    while rest:
        num_read = os.preadv(number, [rest], offset)
        if not num_read:
            return False
        rest, offset = rest[num_read:], offset + num_read
    return True


def _close_all(numbers: dict[tuple[Path, str], int]) -> None:
    while numbers:
        os.close(numbers.popitem()[1])
