"""Watches one job from outside: clock, CPU, memory, tasks and output.

When `run_in_cell` returns, nothing of the job lives.
"""

from __future__ import annotations

import os
import selectors
import time

from forklight_reward.sandbox.cell import START_LIMIT_S, Cell
from forklight_reward.sandbox.limits import EXTRA_PIDS, MIB, Tree, proportional_bytes, waits_s
from forklight_reward.sandbox.payload import unpack_files
from forklight_reward.sandbox.result import Class, Usage
from forklight_reward.sandbox.runner import Ended, Job, NeverStartedError

TICK_S = 0.02
CHUNK_BYTES = 65536
MAX_FILES = 20_000
MAX_STRETCH = 2.0
"""How many times its limit on the clock a job may wait for a processor on top of it."""
DISKS = ("box", "dev/shm")
STARTED = b"started\n"


class Watch:
    """One running job."""

    def __init__(self, job: Job, cell: Cell) -> None:
        self._job = job
        self._cell = cell
        self._streams = {
            descriptor: bytearray() for descriptor in (cell.stdout_fd, cell.stderr_fd, cell.report_fd)
        }
        self._selector = selectors.DefaultSelector()
        for descriptor in (*self._streams, cell.process_fd):
            self._selector.register(descriptor, selectors.EVENT_READ)
        self._tree = Tree(cell.process.pid)
        self._started = time.monotonic()
        self._deadline = self._started + START_LIMIT_S
        self._is_started = False
        self._waits_s: dict[int, float] = {}
        self._stretched_s = 0.0
        self._broke: Class | None = None
        self._peak_bytes = 0
        self._cpu_s = 0.0
        self._num_oom_kills = 0

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
                if now >= self._deadline and not is_over and not self._stretch(now):
                    self._break(Class.TIME_LIMIT)
            return self._reap()
        finally:
            self._selector.close()

    def _wait(self, until: float) -> bool:
        """Read what there is; True when the jail has ended."""
        timeout = max(0.0, min(until, self._deadline) - time.monotonic())
        is_over = False
        for key, _ in self._selector.select(timeout):
            if key.fd == self._cell.process_fd:
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
        if descriptor == self._cell.report_fd and not self._is_started:
            self._is_started = True
            self._started = time.monotonic()
            self._deadline = self._started + self._job.limits.wall_s
            self._waits_s = waits_s(self._cell.process.pid)
        if self._output_bytes() > self._job.limits.output_bytes or self._is_report_full():
            self._break(Class.OUTPUT_LIMIT)
        return True

    def _stretch(self, now: float) -> bool:
        """Move the deadline by what a task has waited for a processor: a busy machine makes no program late.

        What its own tasks take from each other ends at its CPU limit; who sleeps waits for nothing.
        """
        waits = waits_s(self._cell.process.pid).items() if self._is_started else ()
        waited_s = max((wait_s - self._waits_s.get(task, 0.0) for task, wait_s in waits), default=0.0)
        self._stretched_s = min(waited_s, MAX_STRETCH * self._job.limits.wall_s)
        self._deadline = max(self._deadline, self._started + self._job.limits.wall_s + self._stretched_s)
        return now < self._deadline

    def _is_report_full(self) -> bool:
        limits = self._job.limits
        most = limits.disk_mb * MIB + MIB if self._job.collect else limits.output_bytes + len(STARTED)
        return len(self._streams[self._cell.report_fd]) > most

    def _output_bytes(self) -> int:
        return len(self._streams[self._cell.stdout_fd]) + len(self._streams[self._cell.stderr_fd])

    def _look(self) -> None:
        """Compare what is used with the limits."""
        limits = self._job.limits
        if self._cell.group is None:
            self._look_from_outside()
        else:
            self._read_group()
        if self._cpu_s > limits.cpu_s:
            self._break(Class.TIME_LIMIT)
        elif self._num_oom_kills or self._num_files() > MAX_FILES:
            self._break(Class.MEMORY_LIMIT)

    def _read_group(self) -> None:
        if self._cell.group is not None:
            used = self._cell.group.usage()
            self._peak_bytes = used.memory_peak_bytes
            self._cpu_s = used.cpu_s
            self._num_oom_kills = used.num_oom_kills

    def _look_from_outside(self) -> None:
        limits = self._job.limits
        tree = self._tree.read()
        self._peak_bytes = max(self._peak_bytes, tree.resident_bytes)
        self._cpu_s = max(self._cpu_s, tree.cpu_s - self._cell.started_cpu_s)
        if tree.num_tasks > limits.pids + 2 * EXTRA_PIDS:
            self._break(Class.VIOLATION)
        elif tree.resident_bytes > limits.memory_mb * MIB:
            exact = proportional_bytes(self._cell.process.pid)
            if exact is None or exact > limits.memory_mb * MIB:
                self._break(Class.MEMORY_LIMIT)

    def _num_files(self) -> int:
        """Files on the private disks: each costs kernel memory that no other limit sees."""
        num_files = 0
        for name in DISKS:
            try:
                disk = os.statvfs(f"/proc/{self._cell.first_pid}/root/{name}")
            except OSError:
                continue
            num_files += disk.f_files - disk.f_ffree
        return num_files

    def _break(self, limit: Class) -> None:
        self._broke = self._broke or limit

    def _reap(self) -> Ended:
        """End the jail and wait for it, then read what is left in the pipes."""
        cell = self._cell
        cell.kill()
        reaped_cpu_s = cell.reap()
        if cell.group is None:
            self._cpu_s = max(self._cpu_s, reaped_cpu_s - cell.started_cpu_s)
        self._read_group()
        if self._num_oom_kills:
            self._break(Class.MEMORY_LIMIT)
        for descriptor in [key for key in self._streams if key in self._selector.get_map()]:
            while self._broke is None and self._read(descriptor):
                pass
        return self._ended(cell.process.returncode)

    def _ended(self, exit_code: int) -> Ended:
        cell = self._cell
        stdout, stderr, report = (
            bytes(self._streams[descriptor])
            for descriptor in (cell.stdout_fd, cell.stderr_fd, cell.report_fd)
        )
        if not report.startswith(STARTED) and self._broke is not Class.MEMORY_LIMIT:
            said = stderr.decode(errors="replace")[-300:].strip()
            raise NeverStartedError(
                f"sandbox: the jail did not start its program (exit code {exit_code}): "
                f"{said or 'it said nothing'}"
            )
        report = report.removeprefix(STARTED)
        usage = Usage(
            cpu_s=self._cpu_s,
            wall_s=time.monotonic() - self._started - self._stretched_s,
            memory_peak_bytes=self._peak_bytes,
            output_bytes=self._output_bytes(),
        )
        return Ended(
            exit_code=exit_code,
            broke=self._broke,
            stdout=stdout,
            stderr=stderr,
            report=report,
            usage=usage,
            files=unpack_files(report) if self._job.collect and self._broke is None else {},
        )


def run_in_cell(job: Job, cell: Cell) -> Ended:
    """Watch a job that was handed over, to its end. NeverStartedError when the machinery failed."""
    return Watch(job, cell).run()
