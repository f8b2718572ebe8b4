"""Tensors as pieces of bytes on the host: views of what is there, copies of what a GPU holds."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from forklight_core.weights.changes import Bytes
from forklight_core.weights.reading import PIECE_BYTES

NUM_BUFFERS = 128
"""Pieces that are under way at once: as many lanes as there are go on beside one that has a large tensor."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of a tensor. `wait` returns once they are there, `done` gives the room back."""

    start: int
    is_last: bool
    data: Bytes
    wait: Callable[[], None]
    done: Callable[[], None]


class Buffer:
    """Pinned, so that a GPU writes it by itself. torch keeps the memory for the next publication."""

    def __init__(self) -> None:
        self.tensor = torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=True)
        self.data: Bytes = self.tensor.numpy()


class PieceSource:
    """Cuts tensors up, and holds the caller back while too much is under way.

    Each of torch's operations lets the lanes have the interpreter, and waits for it then: few are used.
    """

    def __init__(self) -> None:
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(NUM_BUFFERS):
            self._room.put(None)
        self._buffers: queue.SimpleQueue[Buffer] = queue.SimpleQueue()
        self._num_made = 0

    def pieces(self, tensor: Tensor) -> Iterator[Piece]:
        """A tensor's bytes in order; one empty piece of an empty tensor.

        A tensor on the host is not copied: it must stay as it is until all is written. One on a GPU is read
        in the order of the current stream.
        """
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        take, num_bytes = self._copied if flat.is_cuda else self._viewed, len(flat)
        if num_bytes <= PIECE_BYTES:
            yield take(flat, 0, True)
            return
        for start in range(0, num_bytes, PIECE_BYTES):
            yield take(flat[start : start + PIECE_BYTES], start, start + PIECE_BYTES >= num_bytes)

    def _viewed(self, part: Tensor, start: int, is_last: bool) -> Piece:
        self._room.get()
        return Piece(start, is_last, part.numpy(), _at_once, self._give_room)

    def _give_room(self) -> None:
        self._room.put(None)

    def _copied(self, part: Tensor, start: int, is_last: bool) -> Piece:
        buffer, num_bytes = self._take_buffer(), len(part)
        room = buffer.tensor if num_bytes == PIECE_BYTES else buffer.tensor[:num_bytes]
        room.copy_(part, non_blocking=True)
        # One that sleeps while it waits: spinning lanes would take the cores from those that hash.
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(part.device))
        done = partial(self._buffers.put, buffer)
        return Piece(start, is_last, buffer.data[:num_bytes], event.synchronize, done)

    def _take_buffer(self) -> Buffer:
        if self._num_made < NUM_BUFFERS and self._buffers.empty():
            self._num_made += 1
            return Buffer()
        return self._buffers.get()


def _at_once() -> None:
    """Bytes on the host are there."""
