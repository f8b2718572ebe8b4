"""Tensors of a version into memory that is there: read and proven by several threads, piece by piece.

A piece is read into the target's own bytes, or into pinned memory that a GPU copies from, and proven there.

Of a model that is one part of several, a process copies its part of every tensor, and proves its share of the
tensors whole: together the processes prove all of them.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

from forklight_core.weights.changes import Bytes
from forklight_core.weights.manifest import TensorEntry
from forklight_core.weights.reading import PIECE_BYTES, TensorProof, VersionReader
from forklight_model.shard import WHOLE, Shard, cut_dim
from forklight_rollout.weights.manifest import PublishedWeights

MOST_THREADS = 8
NUM_PINNED = 2
"""Pieces of a thread on their way to a GPU."""


def fill_tensors(weights: PublishedWeights, targets: Mapping[str, Tensor], shard: Shard = WHOLE) -> None:
    """Copy the version's tensors into these; WeightsError when one is not what the manifest promises.

    On a GPU the copies go into the current stream.
    """
    entries = [weights.manifest.tensors[name] for name in sorted(targets)]
    proven = {entry.name for entry in entries[shard.rank :: shard.size]}
    # The largest first: what comes last is waited for by one thread alone.
    jobs = deque(sorted(entries, key=lambda entry: -entry.num_bytes))
    num_threads = min(MOST_THREADS, os.cpu_count() or 1, len(jobs) or 1)
    stream = _stream_of(targets.values())

    def work(reader: VersionReader) -> None:
        with _in_stream(stream):
            filler = Filler(reader, shard, is_pinned=stream is not None)
            while jobs:
                try:
                    entry = jobs.popleft()
                except IndexError:  # another thread was faster
                    return
                filler.fill(entry, targets[entry.name], proves=entry.name in proven)

    with (
        VersionReader(weights.layers) as reader,
        ThreadPoolExecutor(num_threads, thread_name_prefix="weights") as pool,
    ):
        try:
            for future in [pool.submit(work, reader) for _ in range(num_threads)]:
                future.result()
        finally:
            jobs.clear()


class Filler:
    """What one thread needs: rooms that pieces are proven in on their way to a GPU, or to a part."""

    def __init__(self, reader: VersionReader, shard: Shard, *, is_pinned: bool) -> None:
        self._reader, self._shard, self._is_pinned = reader, shard, is_pinned
        self._rooms: deque[Room] = deque()

    def fill(self, entry: TensorEntry, target: Tensor, *, proves: bool) -> None:
        """One tensor, or the part of it that the target is."""
        stored, span = self._reader.open(entry.name), self._span(entry, target)
        flat = self._landing(entry, target, span)
        proof = TensorProof(entry) if proves else None
        for start, stop in stored.bounds(None if proves else span):
            first, end = max(start, span.start), min(stop, span.stop)
            part = _part(flat, range(first - span.start, end - span.start))
            room = None
            if part is not None and part.device.type == "cpu" and end - first == stop - start:
                piece = part.numpy()  # read and proven where it is needed
            else:
                room = self._take_room()
                piece = room.data[: stop - start]
            stored.read_into(piece, start)
            if proof is not None:
                proof.take(piece)
            if room is not None and part is not None:
                room.copy(part, first - start)
        if proof is not None:
            proof.check()
        if flat.data_ptr() != target.data_ptr():
            self._settle(flat, entry, target)

    def _span(self, entry: TensorEntry, target: Tensor) -> range:
        """The bytes of the tensor that hold the target: rows lie together, columns need all."""
        if self._shard.is_whole or cut_dim(entry.name) != 0:
            return range(entry.num_bytes)
        rows = self._shard.index(entry.name, entry.shape)[0]
        row_bytes = entry.num_bytes // max(1, entry.shape[0])
        return range(rows.start * row_bytes, rows.stop * row_bytes)

    def _landing(self, entry: TensorEntry, target: Tensor, span: range) -> Tensor:
        """The target's own bytes where they lie as the file's do; else room of as many."""
        is_same = str(target.dtype) == f"torch.{entry.dtype}" and target.nbytes == len(span)
        if is_same and target.is_contiguous():
            return target.reshape(-1).view(torch.uint8)
        return torch.empty(len(span), dtype=torch.uint8, device=target.device)

    def _settle(self, flat: Tensor, entry: TensorEntry, target: Tensor) -> None:
        """From bytes as the file has them to the target's type and order."""
        values = flat.view(getattr(torch, entry.dtype))
        if len(values) == target.numel():
            target.copy_(values.reshape(target.shape))
        else:
            target.copy_(values.reshape(entry.shape)[self._shard.index(entry.name, entry.shape)])

    def _take_room(self) -> Room:
        """One that no copy reads any more; the others are still on their way."""
        if len(self._rooms) < (NUM_PINNED if self._is_pinned else 1):
            room = Room(self._is_pinned)
        else:
            room = self._rooms.popleft()
            room.wait()
        self._rooms.append(room)
        return room


class Room:
    """Host memory for a piece; pinned, a GPU reads it by itself while the next one is proven."""

    def __init__(self, is_pinned: bool) -> None:
        self._tensor = torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=is_pinned)
        self.data: Bytes = self._tensor.numpy()
        self._copied: torch.cuda.Event | None = None

    def copy(self, target: Tensor, start: int) -> None:
        """The bytes from `start` on, as many as the target holds."""
        target.copy_(self._tensor[start : start + len(target)], non_blocking=True)
        if target.is_cuda:
            # One that sleeps while it waits: spinning threads would take the cores from those that hash.
            self._copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._copied.record(torch.cuda.current_stream(target.device))

    def wait(self) -> None:
        """Until the last copy is made."""
        if self._copied is not None:
            self._copied.synchronize()


def _part(flat: Tensor, span: range) -> Tensor | None:
    """Of torch's operations each makes threads wait for the interpreter: none where it is all of it."""
    if len(span) == len(flat):
        return flat
    return flat[span.start : span.stop] if span else None


def _stream_of(targets: Iterable[Tensor]) -> torch.cuda.Stream | None:
    """The caller's, for every thread."""
    device = next((target.device for target in targets if target.is_cuda), None)
    return None if device is None else torch.cuda.current_stream(device)


@contextmanager
def _in_stream(stream: torch.cuda.Stream | None) -> Iterator[None]:
    if stream is None:
        yield
        return
    with torch.cuda.device(stream.device), torch.cuda.stream(stream):
        yield
