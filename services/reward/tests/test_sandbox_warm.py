"""Jails made ahead: used once, replaced when they die, as strict as any other; and spec files in a row."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from forklight_core.errors import ForklightError, InvalidInputError, UnavailableError
from forklight_reward.sandbox.jail import open_jail
from forklight_reward.sandbox.jail_runner import JailRunner, open_jail_runner
from forklight_reward.sandbox.limits import descendants
from forklight_reward.sandbox.result import Class
from forklight_reward.sandbox.run import Clock, execute, run_timed
from forklight_reward.sandbox.runner import Ended, Job, JobKind, Runner, Tier
from forklight_reward.sandbox.spec import Limits, Mode, Spec, StdioTest
from forklight_reward.sandbox.spec_files import run_spec_files
from forklight_reward.sandbox.warm import PoolSize

LIMITS = Limits(cpu_s=1.0, wall_s=5.0, memory_mb=128, pids=8, output_bytes=2**20, disk_mb=8)
SIZE = PoolSize(num_ready=2, max_ready=3, max_idle_s=60.0)
STATE = """
import os, time
print(os.listdir('/box'), time.process_time() < 0.5, len(os.listdir('/proc/self/fd')))
"""


@pytest.fixture
def pooled() -> Iterator[JailRunner]:
    """A runner with jails that wait."""
    made = open_jail_runner(warm=SIZE)
    yield made
    made.close()


def job(source: str, **changes: object) -> Job:
    return Job(kind=JobKind.PROGRAM, source=source.encode(), limits=LIMITS.model_copy(update=changes))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def fill(runner: JailRunner) -> None:
    runner.run(job("print(1)"))
    wait_for(lambda: runner.num_ready() == SIZE.num_ready)


def test_a_jail_is_used_once_and_another_takes_its_place(pooled: JailRunner, runner: Runner) -> None:
    fill(pooled)
    plant = "open('/tmp/x', 'w').write('x'); import builtins; builtins.len = None; print(7)"
    assert pooled.run(job(plant)).stdout == b"7\n"
    wait_for(lambda: pooled.num_ready() == SIZE.num_ready)
    cold = runner.run(job(STATE)).stdout
    assert [pooled.run(job(STATE)).stdout for _ in range(4)] == [cold] * 4


def jails() -> list[int]:
    """All that wait here; other tests' servers are children of this process, too."""
    found = []
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            if b"bwrap" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def test_a_jail_that_died_waiting_gives_no_verdict(pooled: JailRunner) -> None:
    fill(pooled)
    assert jails()
    for pid in jails():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    ended = pooled.run(job("print(7)"))
    assert (ended.stdout, ended.broke, ended.exit_code) == (b"7\n", None, 0)


def test_limits_and_clocks_hold_from_the_programs_start(pooled: JailRunner) -> None:
    fill(pooled)
    time.sleep(0.3)
    ended = pooled.run(job("import resource as r; print(r.getrlimit(r.RLIMIT_AS)[0] >> 20)", memory_mb=100))
    assert int(ended.stdout) in (100 + 256, 100 + 1024)
    assert ended.usage.wall_s < 2
    assert ended.usage.cpu_s < 0.3
    wait_for(lambda: pooled.num_ready() == SIZE.num_ready)
    assert pooled.run(job("while True: pass", cpu_s=0.2)).broke is Class.TIME_LIMIT
    assert pooled.run(job("x = []\nwhile True: x.append(bytearray(1 << 20))", memory_mb=64)).exit_code != 0
    assert pooled.run(job("import os\nwhile True: os.fork()")).stdout == b""


def test_jails_that_wait_are_few_and_gone_after_closing() -> None:
    before = set(descendants(os.getpid()))
    made = open_jail_runner(warm=SIZE)
    for disk_mb in (8, 9, 10, 11):
        assert made.run(job("print(7)", disk_mb=disk_mb)).stdout == b"7\n"
    wait_for(lambda: made.num_ready() == SIZE.max_ready)
    made.close()
    assert set(descendants(os.getpid())) <= before


def test_old_jails_are_thrown_away() -> None:
    made = open_jail_runner(warm=PoolSize(num_ready=1, max_ready=1, max_idle_s=3.0))
    try:
        made.run(job("print(7)"))
        wait_for(lambda: made.num_ready() == 1)
        wait_for(lambda: made.num_ready() == 0)
    finally:
        made.close()


def test_many_at_once_all_get_their_own_answer(pooled: JailRunner) -> None:
    with ThreadPoolExecutor(4) as threads:
        ended = list(threads.map(lambda n: pooled.run(job(f"print({n} * {n})")).stdout, range(24)))
    assert ended == [f"{n * n}\n".encode() for n in range(24)]


def test_a_job_lays_out_files_runs_a_command_and_gives_files_back(pooled: JailRunner) -> None:
    script = "cat in/a.txt; echo two > out.txt; mkdir d; echo three > d/b; ln -s /etc/passwd link"
    script += "; echo $WORD; exit 3"
    ended = pooled.run(
        Job(
            kind=JobKind.COMMAND,
            command=("sh", "-c", script),
            files={"in/a.txt": b"one\n"},
            environment={"WORD": "four"},
            collect=("out.txt", "d", "link", "absent"),
            limits=LIMITS,
        )
    )
    assert (ended.stdout, ended.exit_code) == (b"one\nfour\n", 3)
    assert ended.files == {"out.txt": b"two\n", "d/b": b"three\n"}
    for path in ("/etc/x", "../x", "a/../../x", ""):
        with pytest.raises(InvalidInputError, match="no place"):
            pooled.run(Job(kind=JobKind.COMMAND, command=("true",), files={path: b""}, limits=LIMITS))


class Slow:
    """A runner whose first run ends a little late, as if its neighbours were noisy."""

    version, tier = "slow", Tier.JAIL

    def __init__(self, runner: Runner, late_cpu_s: float) -> None:
        self._runner, self._late_cpu_s = runner, late_cpu_s
        self.alone: list[bool] = []

    def run(self, job: Job) -> Ended:
        self.alone.append(job.alone)
        ended = self._runner.run(job)
        if job.alone:
            return ended
        return dataclasses.replace(
            ended, usage=dataclasses.replace(ended.usage, cpu_s=job.limits.cpu_s / 1.2 * self._late_cpu_s)
        )

    def close(self) -> None: ...


@pytest.mark.parametrize(("late", "runs"), [(1.1, [False, True]), (0.9, [False])])
def test_a_run_a_little_late_is_repeated_alone_once(late: float, runs: list[bool], runner: Runner) -> None:
    slow = Slow(runner, late)
    result = execute(
        Spec(mode=Mode.STDIO, source="print(7)", tests=[StdioTest(stdout="7")], limits=LIMITS), slow
    )
    assert (result.verdict, slow.alone) == (Class.ACCEPTED, runs)


def test_a_run_far_too_late_is_not_repeated(runner: Runner) -> None:
    slow = Slow(runner, 0.1)
    limits = LIMITS.model_copy(update={"cpu_s": 0.2})
    _, failure = run_timed(
        Job(kind=JobKind.PROGRAM, source=b"while True: pass", limits=limits),
        slow,
        Clock(own_s=30, granted_s=30),
    )
    assert (failure, slow.alone) == (Class.TIME_LIMIT, [False])


def test_a_job_alone_waits_for_the_others(pooled: JailRunner) -> None:
    spans: dict[str, tuple[float, float]] = {}

    def run(name: str, *, alone: bool) -> None:
        source = "import time; print(time.monotonic()); time.sleep(0.4); print(time.monotonic())"
        ended = pooled.run(Job(kind=JobKind.PROGRAM, source=source.encode(), limits=LIMITS, alone=alone))
        first, last = ended.stdout.split()
        spans[name] = (float(first), float(last))

    other = threading.Thread(target=run, args=("other",), kwargs={"alone": False})
    other.start()
    wait_for(lambda: pooled.num_running() == 1)
    run("alone", alone=True)
    other.join()
    assert spans["alone"][0] >= spans["other"][1] or spans["other"][0] >= spans["alone"][1]


def test_a_jail_that_cannot_start_is_no_verdict() -> None:
    broken = JailRunner(dataclasses.replace(open_jail(), options=("--no-such-option",)))
    with pytest.raises(UnavailableError, match="did not start.*no-such-option"):
        broken.run(job("print(7)"))


def test_every_spec_file_gets_its_line(tmp_path: Path) -> None:
    good = {"mode": "stdio", "language": "python", "source": "print(7)", "tests": [{"stdout": "7"}]}
    texts = [
        json.dumps(good), "{", json.dumps(good | {"source": "1 / 0"}), "[" * 100_000,
        json.dumps(good | {"mode": "run", "tests": None}),
        json.dumps(good | {"tests": [{"stdout": "\ud800"}]}), json.dumps(good),
        json.dumps(good | {"source": " "}), json.dumps(good | {"source": "#" * 2**21}),
    ]  # fmt: skip
    paths = [tmp_path / f"{number}.json" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    paths[4:4] = [tmp_path / "absent.json", tmp_path]
    lines = list(run_spec_files([str(path) for path in paths]))
    found = [json.loads(line.text) for line in lines]
    assert [each["class"] for each in found] == [
        "AC",
        None,
        "RE",
        None,
        None,
        None,
        None,
        "WA",
        "AC",
        "CE",
        "CE",
    ]
    assert [each["score"] for each in found] == [1, None, 0, None, None, None, None, 0, 1, 0, 0]
    assert all(each["mask"] is (each["score"] is None) for each in found)
    assert [isinstance(line.error, ForklightError) for line in lines] == [each["mask"] for each in found]
    assert not any("\n" in line.text for line in lines)
    assert set(found[0]["usage"]) == {"cpu_ms", "wall_ms", "mem_peak", "out_bytes"}
    assert found[0]["tests"] == {"passed": 1, "total": 1, "first_fail": None}
