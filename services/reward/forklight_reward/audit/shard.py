"""One file of the audit: who may write it, how a line gets in whole, what is done with one that did not.

A writer holds the file's lock. A line that a killed writer left unfinished is cut off by the next one, which
notes in the file what it cut (type `repair`), and closes it (type `end`). New verdicts go to a new file.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from forklight_core.errors import DataLossError
from forklight_reward.audit.chain import GENESIS, Body, open_line, read_body, seal

FORMAT = 1
SUFFIX = ".jsonl"
SHOWN_BYTES = 200
LONGEST_LINE_BYTES = 1 << 20
NAME = re.compile(r"(?P<pod>.+)-(?P<day>\d{8})-(?P<number>\d{4,})\.jsonl")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What the whole lines of a file are."""

    num_lines: int = 0
    head: str = GENESIS
    """Hash of the last whole line."""
    num_bytes: int = 0
    """Up to the end of the last whole line."""
    torn: bytes = b""
    """What comes behind it."""
    is_closed: bool = False
    """Whether its writer, or a later one, said that nothing follows."""


def read_shard(path: Path, visit: Callable[[Body], None] = lambda body: None) -> Contents:
    """Prove a file line by line; DataLossError names the first that is not what was written."""
    head, num_bytes, number, last = GENESIS, 0, 0, ""
    with path.open("rb") as file:
        while line := file.readline(LONGEST_LINE_BYTES):
            if not line.endswith(b"\n"):
                break
            number += 1
            if last == "end":
                raise DataLossError(f"{path}:{number}: there are lines behind the end of the file")
            try:
                body, head = open_line(head, line)
            except DataLossError as error:
                raise DataLossError(f"{path}:{number}: {error}") from None
            if body.get("seq") != number - 1:
                raise DataLossError(f"{path}:{number}: is line {body.get('seq')} of the chain")
            visit(body)
            last = str(body.get("type"))
            num_bytes += len(line)
        rest = file.read(1)
    if (line and last == "end") or rest:
        raise DataLossError(f"{path}:{number + 1}: bytes that are no line")
    return Contents(num_lines=number, head=head, num_bytes=num_bytes, torn=line, is_closed=last == "end")


class Shard:
    """A file that this process writes."""

    def __init__(self, path: Path, descriptor: int, contents: Contents) -> None:
        self.path = path
        self.num_bytes, self.head = contents.num_bytes, contents.head
        self._descriptor = descriptor
        self._next = contents.num_lines

    def append(self, bodies: Sequence[Body]) -> None:
        """All of them or none. OSError when the disk does not take them; then the file is as it was."""
        head, chunks = self.head, []
        for number, body in enumerate(bodies, start=self._next):
            line, head = seal(head, {"seq": number, **body})
            chunks.append(line)
        data = b"".join(chunks)
        if os.fstat(self._descriptor).st_size != self.num_bytes:  # an earlier failure could not be undone
            os.ftruncate(self._descriptor, self.num_bytes)
        try:
            _write_all(self._descriptor, data)
        except OSError:
            os.ftruncate(self._descriptor, self.num_bytes)
            raise
        self.head, self._next = head, self._next + len(chunks)
        self.num_bytes += len(data)

    def end(self) -> None:
        """Say that nothing follows, and let go."""
        try:
            self.append([{"type": "end", "at": time.time(), "num_lines": self._next + 1}])
            os.fsync(self._descriptor)
        finally:
            self.drop()

    def drop(self) -> None:
        """Let go of the file as it is."""
        os.close(self._descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def create_shard(folder: Path, run_id: str, pod: str, follows: Body | None = None) -> Shard:
    """A new file of a pod, begun with what it is and which file of this pod it follows."""
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", pod).strip("-.") or "front"
    day = time.strftime("%Y%m%d", time.gmtime())
    mine = _of_pod(folder, name)
    number = 1 + (mine[-1][0] if mine else 0)
    while True:
        path = folder / f"{name}-{day}-{number:06d}{SUFFIX}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o644)
        except FileExistsError:
            number += 1
            continue
        break
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    shard = Shard(path, descriptor, Contents())
    header = {"type": "shard", "format": FORMAT, "run": run_id, "pod": pod, "host": socket.gethostname()}
    if follows is None and mine:
        follows = {"shard": mine[-1][1].name, "hash": last_hash(mine[-1][1])}
    try:
        shard.append([{**header, "at": time.time(), "follows": follows}])
    except OSError:
        shard.drop()
        path.unlink(missing_ok=True)
        raise
    return shard


def _of_pod(folder: Path, name: str) -> list[tuple[int, Path]]:
    found = ((NAME.fullmatch(path.name), path) for path in folder.glob(f"{name}-*{SUFFIX}"))
    return sorted((int(match["number"]), path) for match, path in found if match and match["pod"] == name)


def last_line(path: Path) -> Body:
    """The last whole line, unproven; empty when there is none."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LONGEST_LINE_BYTES))
        lines = file.read().split(b"\n")
    try:
        return read_body(lines[-2]) if len(lines) > 1 else {}
    except DataLossError:
        return {}


def last_hash(path: Path) -> str:
    """What the file's chain ends with; empty where it cannot be read."""
    return str(last_line(path).get("hash", ""))


def first_line(path: Path) -> Body:
    """The header of a file, unproven; empty when there is none."""
    with path.open("rb") as file:
        try:
            return read_body(file.readline(LONGEST_LINE_BYTES))
        except DataLossError:
            return {}


def repair_shard(path: Path) -> int:
    """Close a file whose writer is gone; returns how many bytes of an unfinished line were cut off.

    A file that somebody writes, or that is broken in its middle, is left as it is (-1).
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        contents = read_shard(path)
    except (BlockingIOError, DataLossError) as error:
        os.close(descriptor)
        if isinstance(error, DataLossError):
            logger.error("an audit file is broken and left as it is", extra={"reason": str(error)})
        return -1
    shard = Shard(path, descriptor, contents)
    if contents.is_closed:
        shard.drop()
        return 0
    torn = contents.torn
    os.ftruncate(descriptor, contents.num_bytes)
    if torn:
        logger.warning("an unfinished line was cut off", extra={"path": str(path), "num_bytes": len(torn)})
        note = {"num_bytes": len(torn), "sha256": hashlib.sha256(torn).hexdigest()}
        shard.append([{"type": "repair", **note, "start": torn[:SHOWN_BYTES].decode("ascii", "replace")}])
    shard.end()
    return len(torn)
