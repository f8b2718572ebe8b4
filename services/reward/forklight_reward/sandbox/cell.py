"""One started jail: it waits for its one job, runs it and is ended."""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from forklight_core.errors import UnavailableError
from forklight_reward.sandbox.cgroup import Group
from forklight_reward.sandbox.runner import NeverStartedError

READY = b"ready\n"
START_LIMIT_S = 30.0
END_LIMIT_S = 20.0


@dataclass(slots=True, kw_only=True)
class Cell:
    """A jail with the read ends of its pipes and our end of its control socket."""

    process: subprocess.Popen[bytes]
    stdout_fd: int
    stderr_fd: int
    report_fd: int
    info_fd: int
    control: socket.socket
    group: Group | None = None
    process_fd: int = -1
    first_pid: int = 0
    first_fd: int = -1
    """Of the jail's first process: with it dies everything in the jail."""
    born: float = field(default_factory=time.monotonic)
    started_cpu_s: float = 0.0
    """What making the jail had cost when the job was sent."""
    _is_ready: bool = False

    def __post_init__(self) -> None:
        self.process_fd = os.pidfd_open(self.process.pid)

    def is_alive(self) -> bool:
        """True while the jail has not ended."""
        return not readable([self.process_fd], 0)

    def wait_ready(self, limit_s: float = START_LIMIT_S) -> None:
        """Until its first program waits for a job. UnavailableError with what bubblewrap said."""
        deadline = time.monotonic() + limit_s
        said = info = b""
        while not self._is_ready:
            left_s = deadline - time.monotonic()
            # Each only while it still has to say something: a stream at its end is always ready.
            waiting = [self.report_fd] * (said != READY) + [self.info_fd] * (self.first_fd < 0)
            ready = readable(waiting, left_s)
            if self.report_fd in ready:
                if not (data := os.read(self.report_fd, len(READY) - len(said))):
                    raise self.broken()
                said += data
            if self.info_fd in ready:
                if not (data := os.read(self.info_fd, 4096)):
                    raise self.broken()
                info += data
                self._learn_first(info)
            if not ready:
                raise self.broken()
            self._is_ready = said == READY and self.first_fd >= 0

    def _learn_first(self, info: bytes) -> None:
        try:
            self.first_pid = int(json.loads(info)["child-pid"])
        except ValueError:
            return  # not all of it has come yet
        with contextlib.suppress(ProcessLookupError):
            self.first_fd = os.pidfd_open(self.first_pid)

    def broken(self) -> NeverStartedError:
        """Why the jail did not start, as far as it said."""
        self.kill()
        self.reap()
        with contextlib.suppress(BlockingIOError):
            said = os.read(self.stderr_fd, 65536).decode(errors="replace")[-300:].strip()
            if said:
                return NeverStartedError(f"sandbox: the jail did not start: {said}")
        return NeverStartedError(
            f"sandbox: the jail did not start (exit code {self.process.returncode}): it said nothing"
        )

    def program_pid(self) -> int:
        """The first program, as this machine numbers it."""
        try:
            children = Path(f"/proc/{self.first_pid}/task/{self.first_pid}/children").read_text().split()
            return int(children[0])
        except (OSError, IndexError):
            raise self.broken() from None

    def send(self, payload_fd: int, stdin_fd: int) -> None:
        """Hand over the one job. NeverStartedError when nobody takes it any more."""
        rights = array.array("i", [payload_fd, stdin_fd])
        self.started_cpu_s = sum(map(run_time_s, (self.process.pid, self.first_pid, self.program_pid())))
        try:
            self.control.sendmsg([b"!"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        except OSError:
            raise self.broken() from None
        self.control.close()

    def kill(self) -> None:
        """End everything in it."""
        for descriptor in (self.first_fd, self.process_fd):
            if descriptor >= 0:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    break
        if self.group is not None:
            self.group.kill()

    def reap(self) -> float:
        """Wait for the jail, which ends only after everything in it; the CPU seconds of all it reaped."""
        if self.process.returncode is not None:
            return 0.0
        if not readable([self.process_fd], END_LIMIT_S):
            self.process.kill()
            raise UnavailableError(
                f"sandbox: the jail {self.process.pid} did not end within {END_LIMIT_S:.0f} s of its SIGKILL"
            )
        _, status, used = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        return used.ru_utime + used.ru_stime

    def close(self) -> None:
        """Leave nothing: no process, no descriptor, no group."""
        try:
            if self.process.returncode is None:
                self.kill()
                self.reap()
        finally:
            self.control.close()
            for descriptor in (self.stdout_fd, self.stderr_fd, self.report_fd, self.info_fd):
                os.close(descriptor)
            for descriptor in (self.process_fd, self.first_fd):
                if descriptor >= 0:
                    os.close(descriptor)
            if self.group is not None:
                self.group.remove()


def readable(descriptors: list[int], limit_s: float) -> set[int]:
    """Those that can be read, or are at their end; poll, since a busy service has more than select takes."""
    waiter = select.poll()
    for descriptor in descriptors:
        waiter.register(descriptor, select.POLLIN)
    return {descriptor for descriptor, _ in waiter.poll(max(0.0, limit_s) * 1000)}


def run_time_s(pid: int) -> float:
    """CPU seconds of a process of one thread; 0 where the kernel does not say."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
