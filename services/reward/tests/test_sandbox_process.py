"""What the watcher of a job does with waiting, with files and with reports that lie."""

from __future__ import annotations

import os
import time

import pytest

from forklight_reward.sandbox import process
from forklight_reward.sandbox.limits import waits_s
from forklight_reward.sandbox.outcome import compile_message
from forklight_reward.sandbox.payload import unpack_files
from forklight_reward.sandbox.result import Class, SandboxResult, Usage
from forklight_reward.sandbox.run import execute
from forklight_reward.sandbox.runner import Ended, Runner
from forklight_reward.sandbox.spec import Limits, Mode, Spec, StdioTest

LIMITS = Limits(cpu_s=1.0, wall_s=0.3, memory_mb=128, pids=8, output_bytes=2**20, disk_mb=8)


def run(source: str, runner: Runner, limits: Limits = LIMITS) -> SandboxResult:
    spec = Spec(mode=Mode.STDIO, source=source, tests=[StdioTest(stdout="7")], limits=limits)
    return execute(spec, runner)


def pretend_waiting(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """As if one task waited for a processor for this share of the time."""
    born = time.monotonic()
    monkeypatch.setattr(process, "waits_s", lambda root: {1: share * (time.monotonic() - born)})


def test_waiting_for_a_processor_makes_no_program_late(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import time; time.sleep(0.6); print(7)"
    assert run(source, runner).verdict is Class.TIME_LIMIT
    pretend_waiting(monkeypatch, 0.9)
    result = run(source, runner)
    assert (result.verdict, result.usage.wall_s < 0.36) == (Class.ACCEPTED, True), result


def test_waiting_for_a_processor_ends_too(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_waiting(monkeypatch, 1.0)
    started = time.monotonic()
    assert run("import time; time.sleep(60)", runner).verdict is Class.TIME_LIMIT
    assert time.monotonic() - started < 20


def test_waits_are_those_of_the_kernel() -> None:
    waits = waits_s(os.getppid())
    assert waits[os.getpid()] >= 0


def test_files_count_on_every_private_disk(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MAX_FILES", 200)
    source = "import time\nfor n in range(400): open(f'/dev/shm/{n}', 'w').close()\ntime.sleep(9)"
    limits = LIMITS.model_copy(update={"wall_s": 8.0})
    assert run(source, runner, limits).verdict is Class.MEMORY_LIMIT


@pytest.mark.parametrize("size", [b"1e999", b"-1", b"NaN", b"null", b"[1]", b"9" * 5000, b'"2"'])
def test_a_report_of_files_that_lies_ends_there(size: bytes) -> None:
    good = b'{"file": "a", "size": 1}\nx'
    assert unpack_files(good + b'{"file": "b", "size": ' + size + b"}\n") == {"a": b"x"}


@pytest.mark.parametrize("said", [b"[" * 900 + b"]" * 900, b"7", b"{}", b"[", b"null"])
def test_a_report_of_the_compiler_that_lies_is_not_quoted(said: bytes) -> None:
    report = b'{"compile_error": ' + said + b"}\n"
    ended = Ended(exit_code=0, broke=None, stdout=b"", stderr=b"", report=report, usage=Usage())
    assert compile_message(ended) == "does not compile"
