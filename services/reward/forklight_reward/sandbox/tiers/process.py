"""Tier process: limits and a private folder, no walls. For trusted programs, or an operator who insists."""

from __future__ import annotations

import logging
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from forklight_core.errors import ConfigError, UnavailableError
from forklight_reward.sandbox.result import Class, Usage
from forklight_reward.sandbox.runner import Ended, Job, Tier
from forklight_reward.sandbox.tiers.conversation import GuestGoneError, await_ready, converse
from forklight_reward.sandbox.tiers.wire import ENVIRONMENT, Place, encode_request, guest_command

logger = logging.getLogger(__name__)

CHUNK_BYTES = 65536
READY_LIMIT_S = 20.0
END_LIMIT_S = 10.0
WARNING = (
    "the sandbox runs programs as bare processes: they can read every file and reach every address that this "
    "service can, and outlive their job; use tier jail, container or pod for programs that a model wrote"
)


class PipeChannel:
    """A guest on the other end of two pipes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdin is None or process.stdout is None:
            raise UnavailableError("sandbox: a guest without pipes")
        self._input = process.stdin
        self._output = process.stdout.fileno()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)

    def send(self, data: bytes) -> None:
        """Everything; the guest reads all of it before it says anything."""
        try:
            self._input.write(data)
            self._input.flush()
        except OSError as error:
            raise UnavailableError(f"sandbox: the guest takes no job: {error}") from error

    def receive(self, timeout_s: float) -> bytes | None:
        """What has come."""
        return os.read(self._output, CHUNK_BYTES) if self._selector.select(timeout_s) else None

    def cpu_s(self) -> float:
        """The guest counts; what lies about it here could do worse."""
        return 0.0

    def close(self) -> None:
        """Free the selector; the pipes are the process's."""
        self._selector.close()


class ProcessRunner:
    """Port Runner over bare processes."""

    def __init__(self, *, allow_unsafe: bool) -> None:
        if not allow_unsafe:
            raise ConfigError(
                "reward.sandbox.tier is process, which keeps nothing from a program; set "
                "reward.sandbox.allow_unsafe = true as well, or use tier jail"
            )
        logger.warning("UNSAFE sandbox: %s", WARNING)

    @property
    def version(self) -> str:
        """What programs run on, for verdicts."""
        return f"sandbox/1 UNSAFE-process python{sys.version_info.major}.{sys.version_info.minor}"

    @property
    def tier(self) -> Tier:
        """Limits only."""
        return Tier.PROCESS

    def run(self, job: Job) -> Ended:
        """One guest in a session and a folder of its own."""
        if job.mounts:
            moved = [place for place, folder in job.mounts.items() if Path(place) != Path(folder)]
            if moved:
                raise UnavailableError(
                    f"sandbox: tier process cannot show a folder as {', '.join(moved)}; use tier jail"
                )
        box = tempfile.mkdtemp(prefix="forklight-process-")
        try:
            return self._run_in(box, job)
        finally:
            shutil.rmtree(box, ignore_errors=True)

    def _run_in(self, box: str, job: Job) -> Ended:
        place = Place(
            box=box,
            interpreter=sys.executable,
            compiler=shutil.which("c++") or "c++",
            owns_namespace=False,
            owns_disk=False,
            cpus=0.0,
        )
        process = subprocess.Popen(
            guest_command(sys.executable),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=box,
            env=ENVIRONMENT | {"HOME": box, "TMPDIR": box},
            start_new_session=True,
        )
        channel = PipeChannel(process)
        try:
            await_ready(channel, READY_LIMIT_S)
            return converse(channel, encode_request(job, place), job)
        except GuestGoneError:
            # Nothing here ends a guest but its own program: it has the same user.
            return Ended(
                exit_code=137, broke=Class.VIOLATION, stdout=b"", stderr=b"", report=b"", usage=Usage()
            )
        finally:
            channel.close()
            end_guest(process)

    def close(self) -> None:
        """Nothing is held."""


def end_guest(process: subprocess.Popen[bytes]) -> None:
    """Let a guest that has spoken go; one that still runs ends its job's session first."""
    with process:
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            for session in sessions_below(process.pid):
                end_session(session)
            process.kill()
            process.wait(END_LIMIT_S)


def sessions_below(pid: int) -> list[int]:
    """Sessions whose leader is a child of the guest."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return []
    return [int(child) for child in children]


def end_session(leader: int) -> None:
    """Kill a process group, if it is still there."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
