"""What the machine could do at best: memcpy, loopback TCP, files. The bench prints these beside its own."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from pathlib import Path

MIB = 2**20


def memcpy_bytes_per_s(size: int) -> float:
    """Best of 5: copies of one buffer inside this process."""
    source, target = bytearray(size), bytearray(size)
    repeats = max(1, 512 * MIB // size)

    def once() -> float:
        started = time.perf_counter()
        for _ in range(repeats):
            target[:] = source
        return size * repeats / (time.perf_counter() - started)

    return max(once() for _ in range(5))


def loopback_bytes_per_s(size: int) -> float:
    """Best of 3: blocking TCP over loopback, one sender, one receiver."""
    repeats = max(1, 256 * MIB // size)
    return max(_loopback_once(size, repeats) for _ in range(3))


def _loopback_once(size: int, repeats: int) -> float:
    listener = socket.create_server(("127.0.0.1", 0))
    payload = bytes(size)

    def send() -> None:
        with socket.create_connection(listener.getsockname()) as sender:
            for _ in range(repeats):
                sender.sendall(payload)

    thread = threading.Thread(target=send)
    thread.start()
    receiver, _ = listener.accept()
    buffer, received, started = bytearray(MIB), 0, time.perf_counter()
    with receiver, listener:
        while count := receiver.recv_into(buffer):
            received += count
    thread.join()
    return received / (time.perf_counter() - started)


def file_bytes_per_s(size: int) -> float:
    """Best of 3: writing and reading back files through the page cache."""
    payload = os.urandom(size)
    repeats = max(1, 128 * MIB // size)

    def once() -> float:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            for number in range(repeats):
                place = Path(folder) / str(number)
                place.write_bytes(payload)
                place.read_bytes()
            return size * repeats / (time.perf_counter() - started)

    return max(once() for _ in range(3))
