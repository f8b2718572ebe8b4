"""Runs jobs in this machine's own jails: the runner of tier jail."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from forklight_core.errors import UnavailableError
from forklight_reward.sandbox.cell import Cell
from forklight_reward.sandbox.cgroup import Groups, open_groups
from forklight_reward.sandbox.jail import Jail, open_jail
from forklight_reward.sandbox.launch import hand_over, launch
from forklight_reward.sandbox.limits import MIB, process_limits
from forklight_reward.sandbox.payload import pack_payload
from forklight_reward.sandbox.process import run_in_cell
from forklight_reward.sandbox.runner import COMPILER, PYTHON, Ended, Job, JobKind, NeverStartedError, Tier
from forklight_reward.sandbox.warm import JailPool, PoolSize

QUIET_LIMIT_S = 5.0


class JailRunner:
    """Port Runner over bubblewrap: one jail a job, made ahead where a pool is asked for."""

    def __init__(
        self,
        jail: Jail,
        *,
        groups: Groups | None = None,
        warm: PoolSize | None = None,
        compiler: str = "g++",
    ) -> None:
        self._jail = jail
        self._groups = groups
        self._names = {PYTHON: jail.interpreter, COMPILER: compiler}
        self._pool = None if warm is None else JailPool(self._launch_warm, warm)
        self._change = threading.Condition()
        self._num_running = 0
        self._is_alone = False

    @property
    def version(self) -> str:
        """What programs run on, for verdicts."""
        return f"{self._jail.version} cgroup={self._groups.version if self._groups else 'none'}"

    @property
    def tier(self) -> Tier:
        """Namespaces, filter and limits."""
        return Tier.JAIL

    def run(self, job: Job) -> Ended:
        """Run one job to its end, in a jail made ahead if there is one."""
        limits = process_limits(
            job.limits,
            counts_processes=self._jail.counts_processes,
            is_command=job.kind is JobKind.COMMAND,
            is_grouped=self._groups is not None,
        )
        command = (self._names.get(job.command[0], job.command[0]), *job.command[1:]) if job.command else ()
        payload = pack_payload(job, command, limits)
        with self._turn(alone=job.alone):
            cell = None if job.mounts or self._pool is None else self._pool.take(job.limits.disk_mb)
            if cell is not None:
                try:
                    return self._run_in(cell, job, payload)
                except NeverStartedError:  # it died while it waited: no word about the program
                    pass
            return self._run_in(self._launch(job.limits.disk_mb, job.mounts), job, payload)

    def num_ready(self) -> int:
        """Jails that wait for a job."""
        return 0 if self._pool is None else self._pool.num_ready()

    def num_running(self) -> int:
        """Jobs under way."""
        with self._change:
            return self._num_running

    def num_wanted(self) -> int:
        """Jails that should wait for jobs of one size of disk."""
        return 0 if self._pool is None else self._pool.size.num_ready

    def close(self) -> None:
        """End the jails that wait."""
        if self._pool is not None:
            self._pool.close()
        if self._groups is not None:
            self._groups.close()

    def _launch(self, disk_mb: int, mounts: Mapping[str, str]) -> Cell:
        cell = launch(self._jail, disk_bytes=disk_mb * MIB, mounts=mounts, groups=self._groups)
        try:
            cell.wait_ready()
            if cell.group is not None:  # milliseconds, so before there is a job that waits for it
                cell.group.adopt(cell.program_pid())
        except OSError as error:
            cell.close()
            if isinstance(error, UnavailableError):
                raise
            raise UnavailableError(f"sandbox: a jail could not enter its control group: {error}") from error
        return cell

    def _launch_warm(self, disk_mb: int) -> Cell:
        return self._launch(disk_mb, {})

    def _run_in(self, cell: Cell, job: Job, payload: bytes) -> Ended:
        try:
            if cell.group is not None:
                cell.group.limit(job.limits, num_own=1 if job.collect else 0)
            hand_over(cell, payload, job.stdin)
            return run_in_cell(job, cell)
        except OSError as error:
            if isinstance(error, UnavailableError):
                raise
            raise UnavailableError(f"sandbox: a job could not be watched: {error}") from error
        finally:
            cell.close()

    @contextmanager
    def _turn(self, *, alone: bool) -> Iterator[None]:
        """Among the others, or with none of this runner's other jobs, as far as a short wait gives that."""
        deadline = time.monotonic() + QUIET_LIMIT_S
        with self._change:
            while self._is_alone or (alone and self._num_running):
                if not self._change.wait(max(0.0, deadline - time.monotonic())):
                    break
            self._is_alone = self._is_alone or alone
            self._num_running += 1
        try:
            yield
        finally:
            with self._change:
                self._num_running -= 1
                self._is_alone = self._is_alone and not alone
                self._change.notify_all()


def open_jail_runner(*, warm: PoolSize | None = None, compiler: str = "g++") -> JailRunner:
    """A runner over this machine's jails. UnavailableError says why there can be none."""
    jail = open_jail()
    return JailRunner(jail, groups=open_groups(), warm=warm, compiler=compiler)
