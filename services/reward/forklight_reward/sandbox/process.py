"""Watches one job from outside: clock, CPU, memory, tasks and output.

When `run_job` returns, nothing of it lives.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import time
from dataclasses import dataclass

from forklight_core.errors import UnavailableError
from forklight_reward.sandbox.jail import Jail
from forklight_reward.sandbox.launch import Job, Running, launch
from forklight_reward.sandbox.limits import EXTRA_PIDS, MIB, proportional_bytes, read_tree
from forklight_reward.sandbox.result import Class, Usage

START_LIMIT_S = 30.0
END_LIMIT_S = 20.0
TICK_S = 0.02
CHUNK_BYTES = 65536
MAX_FILES = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a job ended: the limit it ran into, if any; the exit code is 128 + signal after a signal."""

    exit_code: int
    broke: Class | None
    stdout: bytes
    stderr: bytes
    report: bytes
    usage: Usage


class Watch:
    """One running job."""

    def __init__(self, job: Job, running: Running) -> None:
        self._job = job
        self._running = running
        self._streams = {
            descriptor: bytearray()
            for descriptor in (running.stdout_fd, running.stderr_fd, running.report_fd, running.info_fd)
        }
        self._selector = selectors.DefaultSelector()
        for descriptor in self._streams:
            self._selector.register(descriptor, selectors.EVENT_READ)
        self._process_fd = os.pidfd_open(running.process.pid)
        self._selector.register(self._process_fd, selectors.EVENT_READ)
        self._first_fd = -1  # pidfd of the jail's first process: with it dies everything in the jail
        self._first_pid = 0
        self._started = time.monotonic()
        self._deadline = self._started + START_LIMIT_S
        self._is_started = False
        self._broke: Class | None = None
        self._peak_bytes = 0
        self._cpu_s = 0.0

    def run(self) -> Ended:
        """Watch until the job ends or breaks a limit, then make sure that it is gone."""
        try:
            is_over = False
            next_tick = self._started
            while not is_over and self._broke is None:
                is_over = self._wait(next_tick)
                now = time.monotonic()
                if now >= next_tick and not is_over:
                    self._look()
                    next_tick = now + TICK_S
                if now >= self._deadline and not is_over:
                    self._break(Class.TIME_LIMIT)
            if not is_over:
                self._kill()
            return self._reap()
        finally:
            self._close()

    def _wait(self, until: float) -> bool:
        """Read what there is; True when the jail has ended."""
        timeout = max(0.0, min(until, self._deadline) - time.monotonic())
        is_over = False
        for key, _ in self._selector.select(timeout):
            if key.fd == self._process_fd:
                is_over = True
            else:
                self._read(key.fd)
        return is_over

    def _read(self, descriptor: int) -> bool:
        """Take one chunk, within the output limit; False at the end of the stream."""
        try:
            data = os.read(descriptor, CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._selector.unregister(descriptor)
            return False
        self._streams[descriptor] += data
        if descriptor == self._running.info_fd:
            self._learn_first_process()
        elif descriptor == self._running.report_fd and not self._is_started:
            self._is_started = True
            self._deadline = time.monotonic() + self._job.limits.wall_s
            self._started = time.monotonic()
        if (
            self._output_bytes() > self._job.limits.output_bytes
            or self._size("report") > self._job.limits.output_bytes
        ):
            self._break(Class.OUTPUT_LIMIT)
        return True

    def _size(self, name: str) -> int:
        return len(self._streams[getattr(self._running, f"{name}_fd")])

    def _output_bytes(self) -> int:
        return self._size("stdout") + self._size("stderr")

    def _learn_first_process(self) -> None:
        try:
            self._first_pid = int(json.loads(self._streams[self._running.info_fd])["child-pid"])
            self._first_fd = os.pidfd_open(self._first_pid)
        except (ValueError, KeyError, ProcessLookupError):
            return  # not all of it has come yet, or it has ended

    def _look(self) -> None:
        """Compare the tree with the limits."""
        limits = self._job.limits
        tree = read_tree(self._running.process.pid)
        self._peak_bytes = max(self._peak_bytes, tree.resident_bytes)
        self._cpu_s = max(self._cpu_s, tree.cpu_s)
        if tree.cpu_s > limits.cpu_s:
            self._break(Class.TIME_LIMIT)
        elif tree.num_tasks > limits.pids + 2 * EXTRA_PIDS:
            self._break(Class.VIOLATION)
        elif tree.resident_bytes > limits.memory_mb * MIB:
            exact = proportional_bytes(self._running.process.pid)
            if exact is None or exact > limits.memory_mb * MIB:
                self._break(Class.MEMORY_LIMIT)
        elif self._num_files() > MAX_FILES:
            self._break(Class.MEMORY_LIMIT)

    def _num_files(self) -> int:
        """Files on the private disk: each costs kernel memory that no other limit sees."""
        try:
            disk = os.statvfs(f"/proc/{self._first_pid}/root/box")
        except OSError:
            return 0
        return disk.f_files - disk.f_ffree

    def _break(self, limit: Class) -> None:
        self._broke = self._broke or limit

    def _kill(self) -> None:
        """End the jail by its first process; bubblewrap itself only where that is not known yet."""
        try:
            if self._first_fd >= 0:
                signal.pidfd_send_signal(self._first_fd, signal.SIGKILL)
            else:
                signal.pidfd_send_signal(self._process_fd, signal.SIGKILL)
        except ProcessLookupError:
            return

    def _reap(self) -> Ended:
        """Wait for the jail, which ends only after everything in it, then read what is left in the pipes."""
        process = self._running.process
        with selectors.DefaultSelector() as waiter:
            waiter.register(self._process_fd, selectors.EVENT_READ)
            if not waiter.select(END_LIMIT_S):
                process.kill()
                raise UnavailableError(
                    f"sandbox: the jail {process.pid} did not end within {END_LIMIT_S:.0f} s of its SIGKILL"
                )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        for descriptor in [key for key in self._streams if key in self._selector.get_map()]:
            while self._broke is None and self._read(descriptor):
                pass
        return self._ended(process.returncode, used.ru_utime + used.ru_stime)

    def _ended(self, exit_code: int, reaped_cpu_s: float) -> Ended:
        stdout, stderr, report = (
            bytes(self._streams[descriptor])
            for descriptor in (self._running.stdout_fd, self._running.stderr_fd, self._running.report_fd)
        )
        if not self._is_started:
            said = stderr.decode(errors="replace")[-300:].strip()
            raise UnavailableError(
                f"sandbox: the jail did not start (exit code {exit_code}): {said or 'it said nothing'}"
            )
        usage = Usage(
            cpu_s=max(self._cpu_s, reaped_cpu_s),
            wall_s=time.monotonic() - self._started,
            memory_peak_bytes=self._peak_bytes,
            output_bytes=self._output_bytes(),
        )
        return Ended(
            exit_code=exit_code, broke=self._broke, stdout=stdout, stderr=stderr, report=report, usage=usage
        )

    def _close(self) -> None:
        process = self._running.process
        if process.returncode is None:
            self._kill()
            process.kill()
            process.wait()
        self._selector.close()
        for descriptor in (self._process_fd, self._first_fd):
            if descriptor >= 0:
                os.close(descriptor)


def run_job(job: Job, jail: Jail) -> Ended:
    """Run one job to its end. UnavailableError when the machinery failed, never because of the program."""
    with launch(job, jail) as running:
        return Watch(job, running).run()
