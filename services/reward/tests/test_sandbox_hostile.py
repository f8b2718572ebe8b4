"""The table of hostile programs, in real jails; `make test-hostile` runs the slow rows too."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from forklight_reward.sandbox.result import Class, SandboxResult
from forklight_reward.sandbox.run import execute
from forklight_reward.sandbox.runner import Runner
from forklight_reward.sandbox.spec import FunctionCase, FunctionTests, Limits, Mode, Spec, StdioTest
from services.reward.tests.hostile_programs import AC, FUNCTIONS, QUICK, SLOW, Row

LIMITS = Limits(cpu_s=0.5, wall_s=2.0, memory_mb=128, pids=8, output_bytes=2**20, disk_mb=8)
PLANTS = """
import os
for path in ('/tmp/left-behind', '/var/tmp/left-behind', '/dev/shm/left-behind'):
    open(path, 'w').write('x')
if os.fork() == 0:
    os.setsid(); os.execlp('sleep', 'sleep', '77.125')
print(7)
"""
SUM = [StdioTest(stdin="3 4\n", stdout="7\n")]
SEVEN = FunctionTests(entry="f", cases=[FunctionCase(args=[3, 4], expected=7)])


def judge_program(row: Row, runner: Runner) -> SandboxResult:
    return execute(Spec(mode=Mode.STDIO, source=row[1], tests=SUM, limits=LIMITS), runner)


def judge_function(row: Row, runner: Runner) -> SandboxResult:
    return execute(Spec(mode=Mode.FUNCTION, source=row[1], tests=SEVEN, limits=LIMITS), runner)


@pytest.fixture(scope="module")
def results(runner: Runner) -> dict[str, SandboxResult]:
    """All quick rows, some at a time: many only wait for their limit."""
    with ThreadPoolExecutor(6) as threads:
        programs = threads.map(lambda row: judge_program(row, runner), QUICK)
        functions = threads.map(lambda row: judge_function(row, runner), FUNCTIONS)
        names = [f"stdio: {row[0]}" for row in QUICK] + [f"function: {row[0]}" for row in FUNCTIONS]
        return dict(zip(names, [*programs, *functions], strict=True))


def check(result: SandboxResult, allowed: set[Class]) -> None:
    assert result.verdict in allowed, result
    assert result.score == 0.0
    assert json.loads(result.to_json())["mask"] is False
    result.evidence.encode()  # goes into a message, which holds no half characters


@pytest.mark.parametrize(("name", "allowed"), [(row[0], row[2]) for row in QUICK])
def test_hostile_program(name: str, allowed: set[Class], results: dict[str, SandboxResult]) -> None:
    check(results[f"stdio: {name}"], allowed)


@pytest.mark.parametrize(("name", "allowed"), [(row[0], row[2]) for row in FUNCTIONS])
def test_hostile_function(name: str, allowed: set[Class], results: dict[str, SandboxResult]) -> None:
    check(results[f"function: {name}"], allowed)


@pytest.mark.hostile
@pytest.mark.parametrize("row", SLOW, ids=lambda row: row[0])
def test_slow_hostile_program(row: Row, runner: Runner) -> None:
    check(judge_program(row, runner), row[2])


def test_nothing_is_left_behind(results: dict[str, SandboxResult], runner: Runner, tmp_path: Path) -> None:
    """After all of them: no process, no descriptor, no file, and an honest program is accepted."""
    assert AC not in {result.verdict for result in results.values()}
    before = len(list(Path("/proc/self/fd").iterdir()))
    spec = Spec(mode=Mode.STDIO, source=PLANTS, tests=SUM, limits=LIMITS)
    assert execute(spec, runner).verdict is AC
    assert not any("77.125" in words for words in commands())
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert not [path for path in ("/tmp", "/var/tmp", "/dev/shm") if (Path(path) / "left-behind").exists()]
    assert not list(Path("/sys/fs/cgroup").glob(f"**/forklight-{os.getpid()}-*/job-*"))


def commands() -> list[str]:
    """Command lines of every process of this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return found
