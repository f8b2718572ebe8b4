"""Programs that nobody tests: what they print comes back, how they end is named, nothing is scored."""

from __future__ import annotations

import json
import time

import pytest

from forklight_core.errors import InvalidInputError
from forklight_reward.sandbox.program import KEPT_BYTES, ProgramRun, run_program
from forklight_reward.sandbox.result import Class
from forklight_reward.sandbox.run import execute
from forklight_reward.sandbox.runner import Runner
from forklight_reward.sandbox.spec import parse_spec

TIGHT: dict[str, float] = {"cpu_s": 1.0, "wall_s": 3.0, "memory_mb": 128, "output_bytes": 2**18}


def run(source: str, runner: Runner) -> ProgramRun:
    return run_program(parse_spec(json.dumps({"mode": "run", "limits": TIGHT}), source), runner)


@pytest.mark.parametrize(
    ("source", "stdout"),
    [
        ("print(6 * 7)", b"42\n"),
        ("import sys; print(sys.stdin.read() == '')", b"True\n"),
        ("import os; print(os.listdir('/box'))", b"['main.py']\n"),
        ("import sys; sys.stdout.buffer.write(bytes([255, 10]))", b"\xff\n"),
        ("", None),
    ],
)
def test_a_program_that_ends_well_gives_what_it_printed(
    source: str, stdout: bytes | None, runner: Runner
) -> None:
    if stdout is None:
        with pytest.raises(InvalidInputError, match="source is empty"):
            run(source, runner)
        return
    found = run(source, runner)
    assert (found.failure, found.stdout, found.stderr) == (None, stdout, b"")
    assert found.stdout_bytes == len(stdout)


@pytest.mark.parametrize(
    ("source", "failure", "said"),
    [
        ("print(1); 1 / 0", Class.RUNTIME_ERROR, b"ZeroDivisionError: division by zero"),
        ("print(", Class.COMPILE_ERROR, b"SyntaxError"),
        ("print('\\0')".replace("\\0", "\0"), Class.COMPILE_ERROR, b"null bytes"),
        ("while True: pass", Class.TIME_LIMIT, b""),
        ("import time; time.sleep(60)", Class.TIME_LIMIT, b""),
        ("a = [b'1' * 2**20 for _ in range(1000)]", Class.MEMORY_LIMIT, b""),
        ("while True: print('x' * 1000)", Class.OUTPUT_LIMIT, b""),
        ("import os; os.kill(os.getpid(), 9)", Class.RUNTIME_ERROR, b""),
    ],
)
def test_how_a_program_failed_is_named(source: str, failure: Class, said: bytes, runner: Runner) -> None:
    started = time.monotonic()
    found = run(source, runner)
    assert found.failure is failure
    assert said in found.stderr
    assert time.monotonic() - started < 20


def test_long_output_keeps_its_beginning_and_long_errors_their_end(runner: Runner) -> None:
    found = run("import sys; print('a' * 90000); print('b' * 90000, file=sys.stderr); print('z')", runner)
    assert (found.failure, found.stdout_bytes, found.stderr_bytes) == (None, 90003, 90001)
    assert found.stdout == b"a" * KEPT_BYTES
    assert found.stderr == b"b" * (KEPT_BYTES - 1) + b"\n"


def test_a_run_takes_no_tests_and_gives_no_verdict(runner: Runner) -> None:
    with pytest.raises(InvalidInputError, match="tests of mode run must be absent"):
        parse_spec(json.dumps({"mode": "run", "source": "x", "tests": [{"stdout": "7"}]}))
    with pytest.raises(InvalidInputError, match="gets no score"):
        execute(parse_spec(json.dumps({"mode": "run", "source": "print(7)"})), runner)
