"""Starts one job in one jail: sealed input, private pipes, an empty environment, a user of its own."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import JsonValue

from forklight_core.errors import UnavailableError
from forklight_reward.sandbox.jail import Jail
from forklight_reward.sandbox.limits import MIB, process_limits
from forklight_reward.sandbox.seccomp import filter_program
from forklight_reward.sandbox.spec import Limits

INSIDE = Path(__file__).with_name("inside.py")
F_ADD_SEALS = 1033
ALL_SEALS = 0x1 | 0x2 | 0x4 | 0x8  # seal, shrink, grow, write


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run of a program: what to run, what it reads, what it may use."""

    source: bytes
    mode: str
    entry: str
    stdin: bytes
    limits: Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A started jail and the read ends of its pipes."""

    process: subprocess.Popen[bytes]
    stdout_fd: int
    stderr_fd: int
    report_fd: int
    info_fd: int


@lru_cache(maxsize=1)
def inside_program() -> str:
    """Text of the first program in a jail."""
    return INSIDE.read_text()


def sealed_file(stack: ExitStack, data: bytes) -> int:
    """A descriptor to bytes that nobody can change any more."""
    descriptor = os.memfd_create("job", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    stack.callback(os.close, descriptor)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, F_ADD_SEALS, ALL_SEALS)
    return descriptor


def open_pipe(readers: ExitStack, writers: ExitStack) -> tuple[int, int]:
    """A pipe whose read end does not block."""
    read_end, write_end = os.pipe()
    readers.callback(os.close, read_end)
    writers.callback(os.close, write_end)
    os.set_blocking(read_end, False)
    return read_end, write_end


def program_argv(job: Job, jail: Jail, report_fd: int) -> list[str]:
    """The interpreter, our first program and its plan."""
    limits: dict[str, JsonValue] = dict(process_limits(job.limits, counts_processes=jail.counts_processes))
    plan: dict[str, JsonValue] = {
        "mode": job.mode,
        "entry": job.entry,
        "report_fd": report_fd,
        "limits": limits,
    }
    return [jail.interpreter, "-S", "-s", "-B", "-c", inside_program(), json.dumps(plan)]


@contextmanager
def launch(job: Job, jail: Jail) -> Iterator[Running]:
    """The job, started. The caller ends and reaps it; the pipes close here."""
    with ExitStack() as readers, ExitStack() as writers:
        pipes = [open_pipe(readers, writers) for _ in range(4)]
        (stdout_fd, stdout_end), (stderr_fd, stderr_end), (report_fd, report_end), (info_fd, info_end) = pipes
        source_fd = sealed_file(writers, job.source)
        stdin_fd = sealed_file(writers, job.stdin)
        filters = filter_program()
        seccomp_fd = None if filters is None else sealed_file(writers, filters)
        argv = jail.argv(
            disk_bytes=job.limits.disk_mb * MIB, source_fd=source_fd, info_fd=info_end, seccomp_fd=seccomp_fd
        )
        passed = [source_fd, info_end, report_end, *([] if seccomp_fd is None else [seccomp_fd])]
        try:
            process = subprocess.Popen(
                argv + program_argv(job, jail, report_end),
                stdin=stdin_fd,
                stdout=stdout_end,
                stderr=stderr_end,
                env={},
                pass_fds=passed,
            )
        except OSError as error:
            raise UnavailableError(f"sandbox: bubblewrap could not be started: {error}") from error
        writers.close()
        yield Running(
            process=process, stdout_fd=stdout_fd, stderr_fd=stderr_fd, report_fd=report_fd, info_fd=info_fd
        )
