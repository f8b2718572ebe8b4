"""Runs a program that nobody tests: no input, no score, only what it printed and how it ended."""

from __future__ import annotations

from dataclasses import dataclass

from forklight_reward.sandbox.jail import Jail
from forklight_reward.sandbox.launch import Job
from forklight_reward.sandbox.outcome import compile_message, failure_class
from forklight_reward.sandbox.process import run_job
from forklight_reward.sandbox.result import Class
from forklight_reward.sandbox.spec import Mode, Spec

KEPT_BYTES = 65536
"""Of each stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramRun:
    """What a program left behind. A failure of the sandbox itself is an exception, never a run."""

    failure: Class | None  # None: it ended by itself with exit code 0
    stdout: bytes  # its first bytes
    stderr: bytes  # its last bytes; the compiler's message when the source does not compile
    stdout_bytes: int
    stderr_bytes: int
    wall_s: float


def run_program(spec: Spec, jail: Jail) -> ProgramRun:
    """Run it once in a fresh jail, with its whole limits: a caller in a hurry must not ask at all."""
    job = Job(
        source=spec.source.encode("utf-8", "replace"),
        mode=Mode.STDIO,
        entry="",
        stdin=b"",
        limits=spec.limits,
    )
    ended = run_job(job, jail)
    failure = failure_class(ended, spec.limits)
    stderr = compile_message(ended).encode() if failure is Class.COMPILE_ERROR else ended.stderr
    return ProgramRun(
        failure=failure,
        stdout=ended.stdout[:KEPT_BYTES],
        stderr=stderr[-KEPT_BYTES:],
        stdout_bytes=len(ended.stdout),
        stderr_bytes=len(stderr),
        wall_s=ended.usage.wall_s,
    )
