"""Tensors of a version into memory that is there: read, proven and copied by several threads, piece by piece.

Of a model that is one part of several, a process copies its part of every tensor, and proves its share of the
tensors whole: together the processes prove all of them.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
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
    reader = VersionReader(weights.layers)
    num_threads = min(MOST_THREADS, os.cpu_count() or 1, len(jobs) or 1)
    stream = _stream_of(targets.values())

    def work() -> None:
        with _in_stream(stream):
            filler = Filler(reader, shard)
            while jobs:
                try:
                    entry = jobs.popleft()
                except IndexError:  # another thread was faster
                    return
                filler.fill(entry, targets[entry.name], proves=entry.name in proven)

    with ThreadPoolExecutor(num_threads, thread_name_prefix="weights") as pool:
        try:
            for future in [pool.submit(work) for _ in range(num_threads)]:
                future.result()
        finally:
            jobs.clear()


class Filler:
    """What one thread needs: room for a piece, and for pieces on their way to a GPU."""

    def __init__(self, reader: VersionReader, shard: Shard) -> None:
        self._reader, self._shard = reader, shard
        self._piece = np.empty(PIECE_BYTES, np.uint8)
        self._pinned: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()

    def fill(self, entry: TensorEntry, target: Tensor, *, proves: bool) -> None:
        """One tensor, or the part of it that the target is."""
        stored, span = self._reader.open(entry.name), self._span(entry, target)
        flat = self._landing(entry, target, span)
        proof = TensorProof(entry)
        for start, piece in stored.pieces(self._piece, None if proves else span):
            if proves:
                proof.take(piece)
            first, end = max(start, span.start), min(start + len(piece), span.stop)
            if first < end:
                self._copy(flat[first - span.start : end - span.start], piece[first - start : end - start])
        if proves:
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

    def _copy(self, target: Tensor, piece: Bytes) -> None:
        if target.device.type == "cpu":
            np.copyto(target.numpy(), piece)
            return
        pinned = self._take_pinned()
        np.copyto(pinned[: len(piece)].numpy(), piece)
        target.copy_(pinned[: len(piece)], non_blocking=True)
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(target.device))
        self._pinned.append((pinned, event))

    def _take_pinned(self) -> Tensor:
        """Room that no copy reads any more."""
        if len(self._pinned) < NUM_PINNED:
            return torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=True)
        pinned, event = self._pinned.popleft()
        if event is not None:
            event.synchronize()
        return pinned


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
