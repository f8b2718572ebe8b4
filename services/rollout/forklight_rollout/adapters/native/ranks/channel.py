"""Frames between two processes, over one end of a socket pair: a kind, a length, bytes."""

from __future__ import annotations

import select
import socket
import struct
import threading
from enum import IntEnum

from forklight_core.errors import DataLossError, DeadlineError, UnavailableError

_HEADER = struct.Struct("<II")
MOST_BYTES = 2**30
"""Of a frame; more is a header that is none."""


class FrameKind(IntEnum):
    """What a frame holds."""

    COMMANDS = 1
    CHECKED = 2
    TASK = 3
    ANSWER = 4


class Channel:
    """Several threads may send. One receives."""

    def __init__(self, end: socket.socket, *, timeout_s: float | None = None) -> None:
        self._end = end
        self._end.settimeout(timeout_s)
        self._sending = threading.Lock()
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)

    def send(self, kind: FrameKind, payload: bytes) -> None:
        """UnavailableError where nobody listens any more, DeadlineError where nobody reads."""
        try:
            with self._sending:
                self._end.sendall(_HEADER.pack(kind, len(payload)) + payload)
        except TimeoutError as error:
            raise DeadlineError("the process at the other end does not read") from error
        except OSError as error:
            raise UnavailableError(f"the process at the other end is gone: {error}") from error

    def receive(self, expected: FrameKind) -> bytes:
        """The next frame's content. UnavailableError where the other end is closed."""
        kind, length = _HEADER.unpack(self._read(_HEADER.size))
        if kind != expected or length > MOST_BYTES:
            raise DataLossError(
                f"a frame of kind {kind} and {length} bytes came instead of a {expected.name}"
            )
        return self._read(length)

    def is_readable(self, timeout_s: float = 0.0) -> bool:
        """Whether a frame, or the end, has arrived."""
        return bool(self._poll.poll(timeout_s * 1e3))

    def wait_closed(self, timeout_s: float | None = None) -> bool:
        """Until the other end is closed, whatever it has sent before; whether it is."""
        closed = select.poll()
        closed.register(self._end, select.POLLRDHUP)
        return bool(closed.poll(None if timeout_s is None else timeout_s * 1e3))

    def close(self) -> None:
        self._end.close()

    def _read(self, length: int) -> bytes:
        parts: list[bytes] = []
        while length:
            try:
                part = self._end.recv(length)
            except TimeoutError as error:
                raise DeadlineError(
                    "the process at the other end stopped in the middle of a frame"
                ) from error
            except OSError as error:
                raise UnavailableError(f"the process at the other end is gone: {error}") from error
            if not part:
                raise UnavailableError("the process at the other end is gone")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)
