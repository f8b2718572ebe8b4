"""Takes a rank's tensors one after another and writes them while the next are on their way.

put --pieces--> Lane: hash, compare, write   (as many threads as lanes; a tensor stays in one)
                  |-- a large tensor's pieces, hashed --> written by a thread of their own
                  '-- a file that is full --> upload, where there is a mirror
"""

from __future__ import annotations

import os
import queue
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import blake3
import numpy as np
from torch import Tensor

from forklight_core.errors import WeightsError
from forklight_core.weights.files import VersionFile
from forklight_core.weights.layout import CHANGES_FILE, WHOLE_FILE
from forklight_core.weights.manifest import Encoding, TensorEntry
from forklight_core.weights.objects import open_objects
from forklight_core.weights.reading import VersionReader
from forklight_trainer.publishing.held import held_tensors
from forklight_trainer.publishing.pieces import Piece, PieceSource
from forklight_trainer.publishing.plan import SinkPlan
from forklight_trainer.publishing.work import TensorWork, Values

MOST_LANES = 16
NUM_UPLOADS = 2


class TensorSink:
    """One rank's. Use it as a context: what goes wrong in a lane comes out at `put` or `close`."""

    def __init__(self, plan: SinkPlan, rank: int) -> None:
        self._source, self._plan = PieceSource(), plan
        self._base = VersionReader(plan.base) if plan.base else None
        num_lanes = plan.manner.num_lanes or min(MOST_LANES, os.cpu_count() or 1)
        values = Values(
            base=self._base,
            held=held_tensors(plan.store, rank) if plan.store else None,
            remembers=plan.remembers,
        )
        self._uploads = Uploads(plan)
        self._lanes = [
            Lane(values, LaneFiles(plan, self._uploads, FileNames(rank, number, num_lanes, bool(plan.base))))
            for number in range(1, num_lanes + 1)
        ]

    def __enter__(self) -> TensorSink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for lane in self._lanes:
            lane.stop()
        self._uploads.stop()
        if self._base is not None:
            self._base.close()

    def put(self, name: str, tensor: Tensor) -> None:
        """Write a whole tensor. It must stay as it is until `close`, unless it is on a GPU."""
        entry = TensorEntry(
            name=name,
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=tuple(tensor.shape),
            hash="",
        )
        lane = min(self._lanes, key=lambda lane: lane.num_bytes)
        lane.num_bytes += entry.num_bytes
        for piece in self._source.pieces(tensor):
            lane.give(entry, piece)

    def close(self) -> list[TensorEntry]:
        """Once everything is written; entries by name."""
        with self:
            found = [entry for lane in self._lanes for entry in lane.finish()]
            self._uploads.finish()
        if self._plan.manner.reads_back and self._plan.folder is not None:
            for entry in found:
                _read_back(self._plan.folder, entry)
        return sorted(found, key=lambda entry: entry.name)


class Lane:
    """One thread, and the tensors given to it in order."""

    def __init__(self, values: Values, files: LaneFiles) -> None:
        self.num_bytes = 0
        """Given so far."""
        self._values, self._files = values, files
        self._given: queue.SimpleQueue[tuple[TensorEntry, Piece] | None] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="publish")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="write")  # a thread once it is asked for
        self._found = self._pool.submit(self._run)
        self._is_stopped = False

    def give(self, entry: TensorEntry, piece: Piece) -> None:
        """The next piece of a tensor; raises what became of an earlier one."""
        if self._found.done():
            piece.done()
            self._found.result()
        self._given.put((entry, piece))

    def finish(self) -> list[TensorEntry]:
        """Entries of all tensors."""
        self._given.put(None)
        found = self._found.result()
        self._files.finish()
        return found

    def stop(self) -> None:
        """Nothing more is done; safe to call twice."""
        self._is_stopped = True
        self._given.put(None)
        self._pool.shutdown(wait=True)
        self._writer.shutdown(wait=True)
        self._files.close()

    def _run(self) -> list[TensorEntry]:
        found: list[TensorEntry] = []
        work: TensorWork | None = None
        try:
            while (given := self._given.get()) is not None:
                entry, piece = given
                if self._is_stopped:
                    piece.done()
                    break
                if work is None:
                    work = self._begin(entry, piece)
                work.take(piece)
                if piece.is_last:
                    found.append(work.finish())
                    work = None
        finally:
            if work is not None:
                work.abandon()
            while not self._given.empty():  # whoever waits for room is let go
                given = self._given.get()
                if given is not None:
                    given[1].done()
        return found

    def _begin(self, entry: TensorEntry, piece: Piece) -> TensorWork:
        try:
            return TensorWork(entry, self._values, self._files.open_for(entry), self._writer)
        except BaseException:
            piece.done()
            raise


@dataclass(frozen=True, slots=True)
class FileNames:
    """Names that no other lane or rank uses."""

    rank: int
    lane: int
    num_lanes: int
    is_delta: bool

    def name(self, count: int) -> str:
        """Of a lane's files, by how many were before it."""
        pattern = CHANGES_FILE if self.is_delta else WHOLE_FILE
        return pattern.format(rank=self.rank, number=self.lane + count * self.num_lanes)


@dataclass(slots=True)
class LaneFiles:
    """The file that a lane writes now. Full ones go to the mirror."""

    plan: SinkPlan
    uploads: Uploads
    names: FileNames
    _count: int = 0
    _open: VersionFile | None = None

    def open_for(self, entry: TensorEntry) -> VersionFile | None:
        """The file a tensor goes to; None when nothing is written."""
        if self.plan.folder is None:
            return None
        if self._open is not None and not self._open.has_room(entry, self.plan.manner.largest_file_bytes):
            self.finish()
        if self._open is None:
            self._open = VersionFile(self.plan.folder / self.names.name(self._count))
            self._count += 1
        return self._open

    def finish(self) -> None:
        """The open file is whole."""
        if self._open is not None:
            self._open.finish()
            path = self._open.path
            self.close()
            self.uploads.add(path)

    def close(self) -> None:
        """Let go of the open file."""
        if self._open is not None:
            self._open.close()
            self._open = None


class Uploads:
    """Files on their way to the mirror, beside what is still written."""

    def __init__(self, plan: SinkPlan) -> None:
        self._mirror = open_objects(plan.mirror) if plan.mirror else None
        self._pool = ThreadPoolExecutor(NUM_UPLOADS, thread_name_prefix="upload")
        self._given: deque[Future[None]] = deque()

    def add(self, path: Path) -> None:
        """A file that is whole."""
        if self._mirror is not None:
            self._given.append(self._pool.submit(self._mirror.upload, path.name, path))

    def finish(self) -> None:
        """Until all are there."""
        while self._given:
            self._given.popleft().result()

    def stop(self) -> None:
        """Drop what has not begun."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _read_back(folder: Path, entry: TensorEntry) -> None:
    """What is on the disk is what was to be written."""
    if entry.encoding is Encoding.SAME or not entry.length:
        return
    stored = np.memmap(folder / entry.file, np.uint8, mode="r", offset=entry.offset, shape=(entry.length,))
    found = blake3.blake3(max_threads=blake3.blake3.AUTO).update(stored.data).hexdigest()
    if found != entry.stored_hash:
        raise WeightsError(
            f"{folder / entry.file} does not read back as it was written: {entry.name} hashes to {found} "
            f"instead of {entry.stored_hash}; check the disk"
        )
