"""What the host says to a guest and reads from it: one request, then frames with a cap on every stream."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from pydantic import JsonValue

from forklight_core.errors import UnavailableError
from forklight_reward.sandbox.launch import inside_program
from forklight_reward.sandbox.limits import EXTRA_PIDS, MIB, process_limits
from forklight_reward.sandbox.payload import check_path
from forklight_reward.sandbox.runner import COMPILER, PYTHON, Job, JobKind
from forklight_reward.sandbox.seccomp import filter_program

GUEST = Path(__file__).with_name("guest.py")
HEADER = struct.Struct(">cI")
PING = HEADER.pack(b"P", 0)
FRAME_SLACK_BYTES = 2 * 65536
MAX_SAID_BYTES = 65536
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/box", "TMPDIR": "/box", "LANG": "C.UTF-8", "TZ": "UTC",
    "PYTHONHASHSEED": "0", "PYTHONSAFEPATH": "1", "MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1",
}  # fmt: skip
PYTHON_OPTIONS = ("-S", "-s", "-B")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What is particular to where a guest runs."""

    box: str = "/box"
    interpreter: str = "python3"
    compiler: str = "c++"
    owns_namespace: bool = True
    """The guest is the first process of a pid namespace and may end everything it sees."""
    owns_disk: bool = True
    """The box is a file system of the job alone."""
    cpus: float = 1.0
    """Processors that the place may use at once; 0: nobody bounds them."""
    counts_processes: bool = False
    """RLIMIT_NPROC counts the job's processes only."""


@lru_cache(maxsize=1)
def guest_program() -> str:
    """Text of the first program of a container."""
    return GUEST.read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def inside_functions() -> str:
    """The jail's first program without its last line, which would begin it: a guest uses its functions."""
    text, found, rest = inside_program().rstrip().rpartition("\nmain()")
    if not found or rest:
        raise UnavailableError("sandbox: inside.py no longer ends with main(), so no guest can use it")
    return text


def guest_command(interpreter: str) -> list[str]:
    """The command line of a guest."""
    return [interpreter, *PYTHON_OPTIONS, "-c", guest_program()]


def box_files(job: Job) -> dict[str, bytes]:
    """Everything that lies in the box before the job begins; paths must stay in it."""
    files = dict(job.files)
    if job.kind is not JobKind.COMMAND:
        files["main.py"] = job.source
    for path in [*files, *job.collect]:
        check_path(path)
    return files


def own_program(job: Job) -> str:
    """The file of the job that its command names, if it names one."""
    name = job.command[0].removeprefix("./") if job.kind is JobKind.COMMAND else ""
    return name if name in job.files else ""


def command_of(job: Job, place: Place) -> list[str]:
    """Arguments of a command; empty for the kinds that the guest's own interpreter runs."""
    if job.kind is not JobKind.COMMAND:
        return []
    first, *rest = job.command
    if name := own_program(job):
        return [f"{place.box}/{name}", *rest]
    return [{PYTHON: place.interpreter, COMPILER: place.compiler}.get(first, first), *rest]


def encode_request(job: Job, place: Place) -> bytes:
    """The plan of a job and its blobs, as one frame and what follows it."""
    files = box_files(job)
    rlimits: dict[str, JsonValue] = dict(
        process_limits(
            job.limits,
            counts_processes=place.counts_processes,
            is_command=job.kind is JobKind.COMMAND,
        )
    )
    argv: list[JsonValue] = list(command_of(job, place))
    runs = own_program(job)
    laid: list[JsonValue] = [
        [path, len(data), 0o755 if path == runs else 0o644] for path, data in files.items()
    ]
    plan: dict[str, JsonValue] = {
        "box": place.box,
        "owns_namespace": place.owns_namespace,
        "owns_disk": place.owns_disk,
        "argv": argv,
        "inside": inside_functions(),
        "entry": job.entry if job.kind is JobKind.FUNCTION else "",
        "rlimits": rlimits,
        "environment": dict(job.environment),
        "files": laid,
        "needs": list(job.mounts),
        "stdin_bytes": len(job.stdin),
        "collect": list(job.collect),
        "collect_bytes": job.limits.disk_mb * MIB,
        "cpus": place.cpus,
        "cpu_s": job.limits.cpu_s,
        "wall_s": job.limits.wall_s,
        "tasks": job.limits.pids + 2 * EXTRA_PIDS,
        "memory_bytes": job.limits.memory_mb * MIB,
        "output_bytes": job.limits.output_bytes,
        "filter": (filter_program() or b"").hex(),
        "machine": os.uname().machine,
    }
    head = json.dumps(plan).encode()
    return b"".join([HEADER.pack(b"J", len(head)), head, *files.values(), job.stdin])


@dataclass(slots=True, kw_only=True)
class Transcript:
    """What a guest has said, never more than it may."""

    output_bytes: int
    collect_bytes: int
    is_ready: bool = False
    is_started: bool = False
    is_flooded: bool = False
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    report: bytearray = field(default_factory=bytearray)
    files: dict[str, bytes] = field(default_factory=dict)
    said: dict[str, JsonValue] | None = None
    _waiting: bytearray = field(default_factory=bytearray)
    _num_file_bytes: int = 0

    def take(self, data: bytes) -> None:
        """Bytes from the guest, cut anywhere."""
        self._waiting += data
        while len(self._waiting) >= HEADER.size and not self.is_flooded:
            letter, size = HEADER.unpack_from(self._waiting)
            if size > self._most(letter):
                self.is_flooded = True
            elif len(self._waiting) < HEADER.size + size:
                return
            else:
                body = bytes(self._waiting[HEADER.size : HEADER.size + size])
                del self._waiting[: HEADER.size + size]
                self._enter(letter, body)

    def _most(self, letter: bytes) -> int:
        """The largest frame of a kind."""
        if letter in b"OER":
            return 65536
        return self.collect_bytes + 65536 if letter == b"F" else MAX_SAID_BYTES

    def _enter(self, letter: bytes, body: bytes) -> None:
        if letter == b"W":
            self.is_ready = True
        elif letter == b"S":
            self.is_started = True
        elif letter in b"OER":
            {b"O": self.stdout, b"E": self.stderr, b"R": self.report}[letter].extend(body)
        elif letter == b"F":
            self._num_file_bytes += len(body)
            size = int.from_bytes(body[:2], "big")
            self.files[body[2 : 2 + size].decode("utf-8", "surrogateescape")] = body[2 + size :]
        elif letter == b"X":
            self.said = read_end(body)
        else:
            raise UnavailableError(f"sandbox: the guest sent a frame of an unknown kind {letter!r}")
        most = self.output_bytes + FRAME_SLACK_BYTES
        self.is_flooded = (
            len(self.stdout) + len(self.stderr) > most
            or len(self.report) > most
            or self._num_file_bytes > self.collect_bytes + FRAME_SLACK_BYTES
            or len(self.files) > 100_000
        )


def read_end(body: bytes) -> dict[str, JsonValue]:
    """The last frame."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UnavailableError(f"sandbox: the guest's last frame cannot be read: {error}") from error
    if not isinstance(said, dict):
        raise UnavailableError("sandbox: the guest's last frame is no object")
    return said
