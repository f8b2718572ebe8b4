"""Starts jails: private pipes, an empty environment, a user of its own; and hands them sealed jobs."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path

from forklight_core.errors import UnavailableError
from forklight_reward.sandbox.cell import Cell
from forklight_reward.sandbox.cgroup import Groups
from forklight_reward.sandbox.jail import Jail
from forklight_reward.sandbox.seccomp import filter_program

INSIDE = Path(__file__).with_name("inside.py")
F_ADD_SEALS = 1033
ALL_SEALS = 0x1 | 0x2 | 0x4 | 0x8  # seal, shrink, grow, write


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


def launch(jail: Jail, *, disk_bytes: int, mounts: Mapping[str, str], groups: Groups | None) -> Cell:
    """A jail that waits for its job. The caller ends it."""
    with ExitStack() as readers, ExitStack() as writers:
        pipes = [open_pipe(readers, writers) for _ in range(4)]
        (stdout_fd, stdout_end), (stderr_fd, stderr_end), (report_fd, report_end), (info_fd, info_end) = pipes
        for end in (stdout_end, stderr_end):  # a job is another user and may open /dev/stdout by its name
            os.fchmod(end, 0o666)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        readers.callback(ours.close)
        writers.callback(theirs.close)
        filters = filter_program()
        seccomp_fd = None if filters is None else sealed_file(writers, filters)
        argv = jail.argv(disk_bytes=disk_bytes, mounts=mounts, info_fd=info_end, seccomp_fd=seccomp_fd)
        program = [jail.interpreter, "-S", "-s", "-B", "-c", inside_program()]
        passed = [theirs.fileno(), info_end, report_end, *([] if seccomp_fd is None else [seccomp_fd])]
        try:
            process = subprocess.Popen(
                [*argv, *program, str(theirs.fileno()), str(report_end)],
                stdin=subprocess.DEVNULL,
                stdout=stdout_end,
                stderr=stderr_end,
                env={},
                pass_fds=passed,
            )
        except OSError as error:
            raise UnavailableError(f"sandbox: bubblewrap could not be started: {error}") from error
        readers.pop_all()  # the cell's from here on
        cell = Cell(
            process=process,
            stdout_fd=stdout_fd,
            stderr_fd=stderr_fd,
            report_fd=report_fd,
            info_fd=info_fd,
            control=ours,
        )
    try:
        cell.group = None if groups is None else groups.make()
    except OSError as error:
        cell.close()
        raise UnavailableError(f"sandbox: no control group could be made: {error}") from error
    return cell


def hand_over(cell: Cell, payload: bytes, stdin: bytes) -> None:
    """Give a jail that is ready its one job."""
    with ExitStack() as stack:
        cell.send(sealed_file(stack, payload), sealed_file(stack, stdin))
