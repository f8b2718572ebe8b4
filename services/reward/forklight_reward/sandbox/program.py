"""Runs a program that nobody tests: no input, no score, only what it printed and how it ended."""

from __future__ import annotations

from dataclasses import dataclass

from forklight_reward.sandbox.cpp import CompileRefusedError, build
from forklight_reward.sandbox.outcome import compile_message, failure_class
from forklight_reward.sandbox.result import Class
from forklight_reward.sandbox.runner import Job, JobKind, Runner
from forklight_reward.sandbox.spec import Language, Spec

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


def first_job(spec: Spec, runner: Runner) -> Job:
    """The job of one run, without its input; a program in C++ is compiled for it."""
    if spec.language is Language.CPP:
        return build(spec, runner)
    tests = spec.function_tests
    return Job(
        kind=JobKind.PROGRAM if tests is None else JobKind.FUNCTION,
        source=spec.source.encode("utf-8", "replace"),
        entry="" if tests is None else tests.entry,
        limits=spec.limits,
    )


def run_program(spec: Spec, runner: Runner) -> ProgramRun:
    """Run it once in a fresh jail, with its whole limits: a caller in a hurry must not ask at all."""
    try:
        ended = runner.run(first_job(spec, runner))
    except CompileRefusedError as error:
        said = str(error).encode()[-KEPT_BYTES:]
        return ProgramRun(
            failure=Class.COMPILE_ERROR,
            stdout=b"",
            stderr=said,
            stdout_bytes=0,
            stderr_bytes=len(said),
            wall_s=0.0,
        )
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
