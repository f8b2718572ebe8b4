"""What is done with a tensor's pieces, in their order: hash, compare with the base, write, remember."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, replace

import numpy as np

from forklight_core.errors import WeightsError
from forklight_core.weights.changes import CHUNK_ELEMENTS, NO_CHANGES, Bytes, as_elements, encode_chunk
from forklight_core.weights.files import VersionFile
from forklight_core.weights.manifest import ITEM_BYTES, Encoding, TensorEntry
from forklight_core.weights.reading import LARGE_BYTES, TensorProof, VersionReader, new_hasher
from forklight_trainer.publishing.held import HeldTensor
from forklight_trainer.publishing.pieces import Piece

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """Where a rank's values of the base come from, and where its own go."""

    base: VersionReader | None
    held: dict[str, HeldTensor] | None
    """In host memory; None: nothing is remembered."""
    remembers: bool

    def find_base(self, entry: TensorEntry) -> HeldTensor | None:
        """The base's tensor of this name; None where the new one has to be stored whole."""
        promised = None if self.base is None else self.base.find(entry.name)
        if self.base is None or promised is None:
            return None
        if (promised.dtype, promised.shape) != (entry.dtype, entry.shape):
            return None
        held = None if self.held is None else self.held.get(entry.name)
        if held is None or held.hash != promised.hash:
            held = _read_base(self.base, promised)
        if held is not None and self.held is not None:
            self.held[entry.name] = held
        return held

    def room_for(self, entry: TensorEntry) -> Bytes | None:
        """Where the new values go. What was held there is forgotten: it is about to be written over."""
        if self.held is None or not self.remembers:
            return None
        before = self.held.pop(entry.name, None)
        if before is not None and len(before.data) == entry.num_bytes:
            return before.data
        return np.empty(entry.num_bytes, np.uint8)


class TensorWork:
    """One tensor on its way into a file, or past a hash alone. `finish` or `abandon` ends it."""

    def __init__(
        self, entry: TensorEntry, values: Values, file: VersionFile | None, writer: Executor
    ) -> None:
        self.entry, self._values, self._file = entry, values, file
        self._base = values.find_base(entry) if file is not None else None
        self._room = values.room_for(entry) if file is not None else None
        self._offset = file.begin(entry) if file is not None else 0
        num_bytes = entry.num_bytes
        self._hasher, self._stored_hasher = new_hasher(num_bytes), new_hasher(0)
        self._num_stored, self._num_unchanged = 0, 0
        # Others would wait for a large one: what is hashed is written by a thread of its own.
        self._writer = writer if num_bytes >= LARGE_BYTES and self._base is None else None
        self._written: deque[Future[None]] = deque()

    def take(self, piece: Piece) -> None:
        """The next piece, whose room is given back as soon as it may be."""
        is_done_later = False
        try:
            piece.wait()
            if self._file is None:
                self._hasher.update(piece.data.data)
            elif self._base is not None:
                self._take_changes(piece, self._base)
            else:
                is_done_later = self._take_whole(piece, self._file)
        finally:
            if not is_done_later:
                piece.done()

    def finish(self) -> TensorEntry:
        """All pieces were taken."""
        while self._written:
            self._written.popleft().result()
        content = self._hasher.hexdigest()
        if self._room is not None and self._values.held is not None:
            self._values.held[self.entry.name] = HeldTensor(hash=content, data=self._room)
        entry = self.entry
        if self._file is None:
            return replace(entry, hash=content, stored_hash=content)
        if self._base is not None and not self._num_stored:
            return replace(entry, hash=content, stored_hash=content, encoding=Encoding.SAME)
        is_whole = self._base is None
        return replace(
            entry,
            hash=content,
            encoding=Encoding.RAW if is_whole else Encoding.CHANGES,
            file=self._file.path.name,
            offset=self._offset,
            length=entry.num_bytes if is_whole else self._num_stored,
            stored_hash=content if is_whole else self._stored_hasher.hexdigest(),
        )

    def abandon(self) -> None:
        """Returns once nothing is written any more."""
        wait(self._written)

    def _take_whole(self, piece: Piece, file: VersionFile) -> bool:
        """Whether its room is given back by the thread that writes."""
        data, done = piece.data, piece.done
        if self._room is not None:  # a copy that stays: whatever follows reads that
            data, done = self._room[piece.start : piece.start + len(data)], _nothing
            np.copyto(data, piece.data)
        self._hasher.update(data.data)
        if self._writer is None:
            file.write(data.data)
            return False
        while self._written and self._written[0].done():
            self._written.popleft().result()
        self._written.append(self._writer.submit(_write, file, data, done))
        return done is piece.done

    def _take_changes(self, piece: Piece, base: HeldTensor) -> None:
        data, span = piece.data, slice(piece.start, piece.start + len(piece.data))
        self._hasher.update(data.data)
        self._store_changes(data, base.data[span])
        if self._room is not None:  # which the base may have been in
            np.copyto(self._room[span], data)

    def _store_changes(self, data: Bytes, base: Bytes) -> None:
        """Records of its chunks. Nothing is stored of a tensor until something of it differs."""
        element_bytes = ITEM_BYTES[self.entry.dtype]
        new, old = as_elements(data, element_bytes), as_elements(base, element_bytes)
        for place in range(0, len(new), CHUNK_ELEMENTS):
            chunk = slice(place, place + CHUNK_ELEMENTS)
            record = encode_chunk(new[chunk], old[chunk])
            if record == NO_CHANGES and not self._num_stored:
                self._num_unchanged += 1
                continue
            if not self._num_stored:
                self._write_stored(NO_CHANGES * self._num_unchanged)
            self._write_stored(record)

    def _write_stored(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)
        self._stored_hasher.update(data)
        self._num_stored += len(data)


def _write(file: VersionFile, data: Bytes, done: Callable[[], None]) -> None:
    try:
        file.write(data.data)
    finally:
        done()


def _nothing() -> None:
    """Of a copy nothing is given back."""


def _read_base(base: VersionReader, promised: TensorEntry) -> HeldTensor | None:
    """After a restart: the base's bytes from the disk. What cannot be proven is stored whole instead."""
    data, proof = np.empty(promised.num_bytes, np.uint8), TensorProof(promised)
    try:
        stored = base.open(promised.name)
        for start, stop in stored.bounds():
            stored.read_into(data[start:stop], start)
            proof.take(data[start:stop])
        proof.check()
    except WeightsError as error:
        log.warning("a tensor is published whole", extra={"tensor": promised.name, "reason": str(error)})
        return None
    return HeldTensor(hash=promised.hash, data=data)
