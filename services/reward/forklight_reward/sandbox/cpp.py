"""Programs in C++: compiled once in a jail with limits of its own, run in others. Nothing runs outside."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from forklight_core.errors import UnavailableError
from forklight_reward.sandbox.limits import MIB
from forklight_reward.sandbox.runner import COMPILER, Ended, Job, JobKind, Runner
from forklight_reward.sandbox.spec import Limits, Mode, Spec

SOURCE_NAME = "main.cpp"
CALLS_NAME = "calls.hpp"
BINARY_NAME = "main"
REPLIES_NAME = "replies"
OPTIONS = (
    "-std=gnu++20",
    "-O2",
    "-pipe",
    "-pthread",
    "-w",
    "-fmax-errors=5",
    "-fno-diagnostics-show-caret",
    "-fdiagnostics-color=never",
)
COMPILE_LIMITS = Limits(cpu_s=20, wall_s=40, memory_mb=1024, pids=16, output_bytes=MIB, disk_mb=64)
MISSING = b'{"missing":'
CALLS = Path(__file__).with_name(CALLS_NAME)
# Only where an error is and what it is: a compiler also shows lines of whatever file it was led to.
ERROR = re.compile(rb"^(?:main|calls|caller)\.[ch]pp:\d+:(?:\d+:)? (?:fatal )?error: [^\n]{1,200}", re.M)
CALLER = """#include "calls.hpp"
#define main forklight_program_main
#include "main.cpp"
#undef main
#undef int
#undef return
signed main() {{ return forklight_calls::run(&{entry}); }}
"""


class CompileRefusedError(Exception):
    """The compiler gave no program; the text says why, in words that show no file."""


@lru_cache(maxsize=1)
def calls_header() -> bytes:
    """What reads arguments and writes results."""
    return CALLS.read_bytes()


def compile_job(spec: Spec) -> Job:
    """The job that makes the program."""
    files = {SOURCE_NAME: spec.source.encode("utf-8", "replace")}
    unit = SOURCE_NAME
    if spec.function_tests is not None:
        unit = "caller.cpp"
        entry = spec.function_tests.entry.replace(".", "::")
        files |= {CALLS_NAME: calls_header(), unit: CALLER.format(entry=entry).encode()}
    return Job(
        kind=JobKind.COMMAND,
        command=(COMPILER, *OPTIONS, "-o", BINARY_NAME, unit),
        files=files,
        collect=(BINARY_NAME,),
        limits=COMPILE_LIMITS,
    )


class MissingCompilerError(UnavailableError):
    """This sandbox serves Python alone."""


def build(spec: Spec, runner: Runner) -> Job:
    """The job of one run of the program, without its input. CompileRefusedError when there is no program."""
    ended = runner.run(compile_job(spec))
    if ended.report.startswith(MISSING):
        raise MissingCompilerError(
            f"sandbox: there is no C++ compiler in the jail ({runner.version}): install g++ (apt), name "
            "another with FORKLIGHT_SANDBOX_COMPILER, or set that to nothing to serve Python alone"
        )
    binary = ended.files.get(BINARY_NAME)
    if ended.broke is not None or ended.exit_code != 0 or binary is None:
        raise CompileRefusedError(refusal(ended))
    if len(binary) > min(spec.limits.disk_mb, spec.limits.memory_mb // 2) * MIB:
        raise CompileRefusedError(f"the program's {len(binary)} bytes are more than its limits hold")
    return Job(
        kind=JobKind.COMMAND,
        command=(f"./{BINARY_NAME}",),
        files={BINARY_NAME: binary},
        collect=(REPLIES_NAME,) if spec.mode is Mode.FUNCTION else (),
        limits=spec.limits,
    )


def refusal(ended: Ended) -> str:
    """Why there is no program."""
    if ended.broke is not None:
        return f"the compiler ran into its own limit ({ended.broke})"
    found = ERROR.search(ended.stderr)
    return found.group().decode("utf-8", "replace") if found else "does not compile"
