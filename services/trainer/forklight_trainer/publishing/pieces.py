"""Tensors as pieces of bytes on the host: views of what is there, copies of what a GPU holds."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from forklight_core.weights.changes import Bytes
from forklight_core.weights.reading import PIECE_BYTES

NUM_BUFFERS = 32
"""Pieces that are under way at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some bytes of a tensor. `wait` returns once they are there, `done` gives the room back."""

    start: int
    is_last: bool
    data: Bytes
    wait: Callable[[], None]
    done: Callable[[], None]


class PieceSource:
    """Cuts tensors up, and holds the caller back while too much is under way."""

    def __init__(self) -> None:
        self._room = threading.Semaphore(NUM_BUFFERS)
        self._buffers: queue.SimpleQueue[Tensor] = queue.SimpleQueue()
        self._num_made = 0

    def pieces(self, tensor: Tensor) -> Iterator[Piece]:
        """A tensor's bytes in order; one empty piece of an empty tensor.

        A tensor on the host is not copied: it must stay as it is until all is written. One on a GPU is read
        in the order of the current stream.
        """
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        for start in range(0, max(1, len(flat)), PIECE_BYTES):
            part, is_last = flat[start : start + PIECE_BYTES], start + PIECE_BYTES >= len(flat)
            yield self._copied(part, start, is_last) if flat.is_cuda else self._viewed(part, start, is_last)

    def _viewed(self, part: Tensor, start: int, is_last: bool) -> Piece:
        self._room.acquire()
        return Piece(start=start, is_last=is_last, data=part.numpy(), wait=_at_once, done=self._room.release)

    def _copied(self, part: Tensor, start: int, is_last: bool) -> Piece:
        buffer = self._take_buffer()
        buffer[: len(part)].copy_(part, non_blocking=True)
        # One that sleeps while it waits: spinning lanes would take the cores from those that hash.
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(part.device))
        return Piece(
            start=start,
            is_last=is_last,
            data=buffer[: len(part)].numpy(),
            wait=event.synchronize,
            done=lambda: self._buffers.put(buffer),
        )

    def _take_buffer(self) -> Tensor:
        """Pinned, so that a GPU writes it by itself. torch keeps the memory for the next publication."""
        if self._num_made < NUM_BUFFERS and self._buffers.empty():
            self._num_made += 1
            return torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=True)
        return self._buffers.get()


def _at_once() -> None:
    """Bytes on the host are there."""
