"""Runs one job in one jail and watches it from outside: clock, CPU, memory, tasks and output. Nothing of it survives."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import Self

from forklight_core.errors import UnavailableError
from forklight_reward.sandbox.jail import Jail
from forklight_reward.sandbox.limits import EXTRA_PIDS, MIB, proportional_bytes, read_tree
from forklight_reward.sandbox.result import Class, Usage
from forklight_reward.sandbox.seccomp import filter_program
from forklight_reward.sandbox.spec import Limits

FIRST_TICK_S = 0.005
TICK_S = 0.02
END_LIMIT_S = 15.0
CHUNK_BYTES = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run: a source, its plan for the first program in the jail, its input and its limits."""

    source: bytes
    inside: str
    plan: dict[str, object]
    stdin: bytes
    limits: Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a job ended. `broke` is the limit it ran into, if any; `exit_code` is 128 + signal for a signal."""

    exit_code: int
    broke: Class | None
    stdout: bytes
    stderr: bytes
    report: bytes
    usage: Usage


def sealed_file(name: str, data: bytes) -> int:
    """A descriptor to bytes that nobody can change."""
    descriptor = os.memfd_create(name, os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    seals = 0x0001 | 0x0002 | 0x0004 | 0x0008  # F_SEAL_SEAL, SHRINK, GROW, WRITE
    import fcntl

    fcntl.fcntl(descriptor, 1033, seals)  # F_ADD_SEALS
    return descriptor


@dataclass(slots=True)
class Watch:
    """The running job as the parent sees it."""

    job: Job
    process: subprocess.Popen[bytes]
    streams: dict[int, bytearray]
    names: dict[str, int]
    started: float = field(default_factory=time.monotonic)
    first_pid: int | None = None
    broke: Class | None = None
    peak_bytes: int = 0
    cpu_s: float = 0.0
    num_dropped: int = 0

    @classmethod
    def of(cls, job: Job, process: subprocess.Popen[bytes], names: dict[str, int]) -> Self:
        """Watch a process that has just been started."""
        return cls(job, process, {descriptor: bytearray() for descriptor in names.values()}, names)
