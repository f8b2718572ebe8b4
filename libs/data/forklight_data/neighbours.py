"""Which texts of a file are near each other: groups of candidates, by some 250 bytes a text in memory.

Band keys lie on the disk, and one band at a time is sorted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from forklight_core.whole_files import named_errors
from forklight_data.minhash import (
    NUM_BANDS,
    NUM_HASHES,
    band_keys,
    estimate,
    low_bytes,
    shingles_of,
    signatures_of,
)
from forklight_data.text import word_hashes

TEXTS_AT_A_TIME = 512
PAIRS_AT_A_TIME = 65536


class Neighbours:
    """Texts are added in order; then `groups` says which belong together."""

    def __init__(self, folder: Path) -> None:
        self._scratch = tempfile.TemporaryDirectory(dir=folder, prefix=".bands-")
        self._files = [(Path(self._scratch.name) / str(band)).open("w+b") for band in range(NUM_BANDS)]
        self._signatures = (Path(self._scratch.name) / "signatures").open("w+b")
        self._waiting: list[NDArray[np.uint64]] = []

    def __enter__(self) -> Neighbours:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (*self._files, self._signatures):
            file.close()
        self._scratch.cleanup()

    def add(self, words: Sequence[str]) -> None:
        """The next text."""
        self._waiting.append(shingles_of(word_hashes(words)))
        if len(self._waiting) >= TEXTS_AT_A_TIME:
            self._settle()

    def _settle(self) -> None:
        signatures = signatures_of(self._waiting)
        self._waiting.clear()
        keys = band_keys(signatures)
        with named_errors(Path(self._scratch.name)):
            self._signatures.write(low_bytes(signatures).tobytes())
            for band, file in enumerate(self._files):
                file.write(np.ascontiguousarray(keys[:, band]).tobytes())

    def groups(self, threshold: float, rank: NDArray[np.int64]) -> NDArray[np.int64]:
        """The name of every text's group: the lowest-ranked text in it."""
        if self._waiting:
            self._settle()
        signatures = np.frombuffer(self._read_back(self._signatures), np.uint8).reshape(-1, NUM_HASHES)
        union = Union(len(signatures), rank)
        for file in self._files:
            keys = np.frombuffer(self._read_back(file), dtype=np.uint64)
            for left, right in _candidates(keys, rank):
                near = estimate(signatures[left], signatures[right]) >= threshold
                union.join(left[near], right[near])
        return union.roots()

    def _read_back(self, file: BinaryIO) -> bytes:
        with named_errors(Path(self._scratch.name)):
            file.flush()
            file.seek(0)
            return file.read()


def _candidates(
    keys: NDArray[np.uint64], rank: NDArray[np.int64]
) -> Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of texts with equal keys: each with the lowest of its bucket, and with the one before it."""
    order = np.lexsort((rank, keys))
    ordered = keys[order]
    same = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(keys) else same
    leaders = begins[np.searchsorted(begins, same, side="right") - 1]
    for start in range(0, len(same), PAIRS_AT_A_TIME):
        part = slice(start, start + PAIRS_AT_A_TIME)
        yield order[leaders[part]], order[same[part]]
        yield order[same[part] - 1], order[same[part]]


class Union:
    """Sets that grow together; each is named by its lowest-ranked member."""

    def __init__(self, size: int, rank: NDArray[np.int64]) -> None:
        self._parent = np.arange(size, dtype=np.int64)
        self._rank = rank

    def find(self, member: int) -> int:
        """The name of a member's set."""
        parent = self._parent
        while (above := int(parent[member])) != member:
            parent[member] = parent[above]
            member = above
        return member

    def join(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> None:
        """Every pair is in one set from now on."""
        for one, other in zip(left.tolist(), right.tolist(), strict=True):
            first, second = self.find(one), self.find(other)
            if first != second:
                low, high = sorted((first, second), key=lambda member: int(self._rank[member]))
                self._parent[high] = low

    def roots(self) -> NDArray[np.int64]:
        """The name of everybody's set."""
        parent = self._parent
        while True:
            above = parent[parent]
            if np.array_equal(above, parent):
                return above
            parent = above
