"""Payload blobs as arrays: the last few stay in memory, so that the next window reads no blob again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from forklight_core.blobs import BlobStore, open_blob_store
from forklight_core.errors import DataLossError, NotFoundError
from forklight_core.wire import TrajectoryArrays, unpack_payload

MOST_KEPT = 24


class BlobPayloads:
    """Implements `PayloadSource`. The store is opened with the first question."""

    def __init__(self, url: str, run_folder: Path) -> None:
        self._url = url
        self._folder = run_folder / "blobs"
        self._store: BlobStore | None = None
        self._kept: OrderedDict[tuple[str, ...], TrajectoryArrays] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, blob_ids: Sequence[str]) -> TrajectoryArrays:
        key = tuple(blob_ids)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        arrays = join([_without_routing(unpack_payload(self._open().get(blob_id))) for blob_id in key])
        with self._lock:
            self._kept[key] = arrays
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return arrays

    def _open(self) -> BlobStore:
        with self._lock:
            if self._store is None:
                if not self._url and not self._folder.is_dir():
                    raise NotFoundError(
                        f"there are no payloads in {self._folder}: set FORKLIGHT_BLOBS_URL as the buffer's"
                    )
                self._store = open_blob_store(self._url or str(self._folder))
            return self._store


def join(parts: Sequence[TrajectoryArrays]) -> TrajectoryArrays:
    """Segments one after the other as one response."""
    if not parts:
        raise NotFoundError("the sample has no payload yet")
    if len(parts) == 1 and parts[0].start == 0:
        return parts[0]
    ends = [0, *(part.end for part in parts)]
    if [part.start for part in parts] != ends[:-1]:
        raise DataLossError(
            f"segments start at {[part.start for part in parts]}: there is a gap between them"
        )
    drawn = [np.ones(len(p.response_ids), dtype=np.uint8) if p.drawn is None else p.drawn for p in parts]
    return replace(
        parts[0],
        response_ids=np.concatenate([part.response_ids for part in parts]),
        logprobs=np.concatenate([part.logprobs for part in parts]),
        raw_logprobs=np.concatenate([part.raw_logprobs for part in parts]),
        drawn=np.concatenate(drawn),
        spans=tuple(span for part in parts for span in part.spans),
    )


def _without_routing(arrays: TrajectoryArrays) -> TrajectoryArrays:
    """The routers' choices are twenty times the rest and not shown: let their bytes go."""
    if arrays.routing is None:
        return arrays
    return replace(
        arrays,
        routing=None,
        prompt_ids=arrays.prompt_ids.copy(),
        response_ids=arrays.response_ids.copy(),
        logprobs=arrays.logprobs.copy(),
        raw_logprobs=arrays.raw_logprobs.copy(),
        drawn=None if arrays.drawn is None else arrays.drawn.copy(),
    )
