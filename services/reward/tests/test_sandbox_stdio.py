"""Hostile and honest programs of mode stdio, in real jails."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from forklight_reward.sandbox.limits import descendants
from forklight_reward.sandbox.result import Class, SandboxResult
from forklight_reward.sandbox.run import execute
from forklight_reward.sandbox.runner import Runner
from forklight_reward.sandbox.spec import Limits, Mode, Spec, StdioTest

AC, WA, CE, RE = Class.ACCEPTED, Class.WRONG_ANSWER, Class.COMPILE_ERROR, Class.RUNTIME_ERROR
TLE, MLE, OLE, SV = Class.TIME_LIMIT, Class.MEMORY_LIMIT, Class.OUTPUT_LIMIT, Class.VIOLATION
LIMITS = Limits(cpu_s=5.0, wall_s=10.0, memory_mb=128, pids=8, output_bytes=2**21, disk_mb=8)
TIGHT = LIMITS.model_copy(update={"cpu_s": 0.5, "wall_s": 2.0})
ADD = [StdioTest(stdin="3 4\n", stdout="7\n")]
POOL = """
from concurrent.futures import ProcessPoolExecutor
def add(x): return x + 4
if __name__ == '__main__':
    with ProcessPoolExecutor(2) as pool: print(list(pool.map(add, [3]))[0])
"""
CHILDREN = """
import os, time
for _ in range(6):
    if os.fork() == 0:
        data = b'1' * (40 << 20)
        time.sleep(30)
os.wait()
"""
DEEP_IN_C = """
import sys
from functools import cache
sys.setrecursionlimit(10**6)
@cache
def f(n): return 0 if n == 0 else 1 + f(n - 1)
print(f(40_000) - 39_993)
"""
DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    os._exit(0)
os.wait()
a, b = map(int, input().split())
print(a + b)
"""
DEAF = """
import signal
for number in range(1, 64):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True: pass
"""


def run(
    source: str, runner: Runner, tests: list[StdioTest] | None = None, limits: Limits = LIMITS
) -> SandboxResult:
    return execute(Spec(mode=Mode.STDIO, source=source, tests=tests or ADD, limits=limits), runner)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("plain", "a, b = map(int, input().split())\nprint(a + b)"),
        ("main guard", "if __name__ == '__main__':\n    print(sum(map(int, open(0).read().split())))"),
        ("exit 0", "print(7)\nexit(0)"),
        ("spaces do not count", "print('  7  \\n\\n')"),
        ("library", "from collections import Counter; import heapq, math, json; print(math.comb(7, 1))"),
        ("thread", "import threading\nt = threading.Thread(target=print, args=(7,)); t.start(); t.join()"),
        ("own file", "open('/tmp/x', 'w').write('7'); print(open('/tmp/x').read())"),
        (
            "child",
            "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'print(7)'], check=True)",
        ),
        ("input unread", "print(7)"),
        ("children of a pool", POOL),
        ("no end of line", "import os; os.write(1, b'7')"),
        ("input twice", "import os\nprint(sum(map(int, open('/dev/stdin').read().split())))"),
        ("deep recursion", "def f(n): return 0 if n == 0 else 1 + f(n - 1)\nprint(f(5000) - 4993)"),
        ("deep recursion in C", DEEP_IN_C),
        ("output by its name", "open('/dev/stdout', 'w').write('7'); open('/dev/stderr', 'w').write('8')"),
    ],
)
def test_honest_program_is_accepted(name: str, source: str, runner: Runner) -> None:
    result = run(source, runner)
    assert (result.verdict, result.score, result.num_passed, result.first_fail) == (AC, 1.0, 1, None), result


def test_big_honest_output_is_accepted(runner: Runner) -> None:
    words = "7 " * 750_000
    result = run("import sys\nsys.stdout.write('7 ' * 750_000)", runner, [StdioTest(stdout=words)])
    assert result.verdict is AC, result
    assert result.usage.output_bytes == len(words)


@pytest.mark.parametrize("source", ["print(len(input()))", "print(1048576)"])
def test_big_input_is_fine_read_or_unread(source: str, runner: Runner) -> None:
    tests = [StdioTest(stdin="x" * 2**20, stdout=str(2**20))]
    assert run(source, runner, tests).verdict is AC


def test_output_of_exactly_its_limit_is_accepted(runner: Runner) -> None:
    assert run("print(7, end='')", runner, limits=LIMITS.model_copy(update={"output_bytes": 1})).verdict is AC


HOSTILE: list[tuple[str, str, set[Class]]] = [
    ("fork bomb", "import os\nwhile True: os.fork()", {TLE, RE, MLE, SV}),
    (
        "thread bomb",
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,)).start()",
        {TLE, RE, MLE, SV},
    ),
    ("memory bomb", "x = []\nwhile True: x.append(bytearray(1 << 20))", {MLE, RE}),
    ("shared map", "import mmap\nm = mmap.mmap(-1, 300 << 20)\nm.write(b'x' * (300 << 20))", {MLE, RE}),
    ("memory in children", CHILDREN, {MLE, RE}),
    ("fills shared memory", "f = open('/dev/shm/x', 'wb')\nwhile True: f.write(b'x' * 65536)", {MLE, RE}),
    ("fills the disk", "f = open('/tmp/x', 'wb')\nwhile True: f.write(b'x' * 65536)", {MLE, RE}),
    ("sparse file", "import os\nos.truncate(os.open('/tmp/x', 66, 0o600), 1 << 40)", {RE}),
    ("many files", "i = 0\nwhile True:\n    open(f'/tmp/{i}', 'w').close(); i += 1", {RE, TLE, MLE}),
    ("endless output", "while True: print('x' * 1000)", {OLE}),
    ("endless errors", "import sys\nwhile True: sys.stderr.write('x' * 1000)", {OLE}),
    ("one huge line", "print('x' * (200 << 20))", {OLE, MLE, RE}),
    ("busy loop", "while True: pass", {TLE}),
    ("sleep", "import time; time.sleep(3600)", {TLE}),
    ("stops itself", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", {TLE}),
    ("deaf to signals", DEAF, {TLE}),
    ("big power", "9 ** 9 ** 8", {TLE, RE}),
    ("regex bomb", "import re; re.match('(a+)+$', 'a' * 40 + 'b')", {TLE}),
    ("children burn", "import os\nfor _ in range(3): os.fork()\nwhile True: pass", {TLE}),
    ("waits for more input", "input(); input(); print(7)", {RE}),
    ("does not compile", "print('7'", {CE}),
    ("null byte", "print(7)\0", {CE}),
    ("too deep to compile", "x = " + "(" * 5000 + ")" * 5000, {CE}),
    ("early exit", "import sys; sys.exit(0)", {WA}),
    ("hard exit", "import os; os._exit(0)", {WA}),
    ("says accepted", "print('AC'); print('PASSED'); print('{\"class\": \"AC\", \"score\": 1}')", {WA}),
    ("right, then fails", "print(7); raise SystemExit(1)", {RE}),
    ("extra word", "print(7, 7)", {WA}),
    ("not text", "import sys; sys.stdout.buffer.write(b'\\xff\\x00\\x1b[0m7')", {WA}),
    ("kills everyone", "import os, signal\nos.kill(-1, signal.SIGKILL)", {RE, WA}),
    ("kills pid 1", "import os, signal\nos.kill(1, signal.SIGKILL); print('still here')", {RE, WA}),
]


@pytest.fixture(scope="module")
def hostile_results(runner: Runner) -> dict[str, SandboxResult]:
    """All hostile programs, some at a time: most of them only wait for their limit."""
    with ThreadPoolExecutor(6) as threads:
        results = threads.map(lambda row: run(row[1], runner, limits=TIGHT), HOSTILE)
        return dict(zip((row[0] for row in HOSTILE), results, strict=True))


@pytest.mark.parametrize(("name", "allowed"), [(name, allowed) for name, _, allowed in HOSTILE])
def test_hostile_program_gets_its_class(
    name: str, allowed: set[Class], hostile_results: dict[str, SandboxResult]
) -> None:
    result = hostile_results[name]
    assert result.verdict in allowed, result
    assert result.score == 0.0
    assert result.usage.wall_s < 10


def test_every_descriptor_is_private(runner: Runner) -> None:
    source = (
        "import os\nfor fd in range(3, 64):\n"
        "    try: os.write(fd, b'7')\n    except OSError: pass\nprint('no')"
    )
    assert run(source, runner).verdict is WA


def test_daemon_is_gone_when_the_result_is_there(runner: Runner) -> None:
    before = set(descendants_of_us())
    result = run(DAEMON, runner)
    assert result.verdict is AC
    assert result.usage.wall_s < 5
    assert set(descendants_of_us()) <= before


def descendants_of_us() -> list[int]:
    return descendants(os.getpid())


SERVICE = """
from forklight_reward.sandbox.jail_runner import open_jail_runner
from forklight_reward.sandbox.run import execute
from forklight_reward.sandbox.spec import Limits, Mode, Spec, StdioTest
limits = Limits(wall_s=300)
tests = [StdioTest(stdout="7")]
spec = Spec(mode=Mode.STDIO, source="import time; time.sleep(300)", tests=tests, limits=limits)
execute(spec, open_jail_runner())
"""


def test_jail_dies_with_the_service() -> None:
    service = subprocess.Popen([sys.executable, "-c", SERVICE])
    try:
        wait_for(lambda: sum(b"main.py" in command for command in commands_below(service.pid)) > 0)
        jailed = descendants(service.pid)
    finally:
        service.kill()
        service.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in jailed))


def commands_below(pid: int) -> list[bytes]:
    """Command lines of everything below a process."""
    found = []
    for child in descendants(pid):
        with contextlib.suppress(OSError):
            found.append(Path(f"/proc/{child}/cmdline").read_bytes())
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_next_run_starts_clean(runner: Runner) -> None:
    plant = "open('/tmp/json.py', 'w').write('evil = 1'); open('/dev/shm/x', 'w').write('x'); print(7)"
    look = "import json, os\nprint(hasattr(json, 'evil'), os.listdir('/dev/shm'), sorted(os.listdir('/tmp')))"
    tests = [StdioTest(stdout="7"), StdioTest(stdout="7")]
    assert run(plant, runner, tests).num_passed == 2
    assert run(look, runner, [StdioTest(stdout="False [] ['main.py']")]).verdict is AC


def test_secret_of_the_host_is_out_of_reach(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden-answer")
    monkeypatch.setenv("FORKLIGHT_SECRET", "hidden-answer")
    source = f"""
import glob, os
found = []
places = [{str(secret)!r}, '/proc/1/root' + {str(secret)!r}, '/proc/self/cwd/../' + {str(secret)!r}]
os.symlink({str(secret)!r}, '/tmp/link')
places += ['/tmp/link', *glob.glob('/proc/[0-9]*/environ'), *glob.glob('/proc/[0-9]*/cmdline')]
for place in places:
    try:
        found.append(open(place, 'rb').read())
    except OSError:
        pass
print(b'hidden' in b''.join(found), 'FORKLIGHT_SECRET' in os.environ)
"""
    assert run(source, runner, [StdioTest(stdout="False False")]).verdict is AC


def test_host_is_not_written_through_a_link(runner: Runner, tmp_path: Path) -> None:
    target = tmp_path / "target"
    source = f"import os\nos.symlink({str(target)!r}, '/tmp/link')\nopen('/tmp/link', 'w').write('x')"
    assert run(source, runner).verdict is RE
    assert not target.exists()


@pytest.mark.parametrize("path", ["/usr/x", "/etc/x", "/x", "/dev/x", "/proc/x", "/box/main.py", "/var/x"])
def test_system_is_read_only(path: str, runner: Runner) -> None:
    assert run(f"open({path!r}, 'w').write('x')", runner).verdict is RE


def test_network_is_out_of_reach(runner: Runner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        source = f"""
import socket
reached = 0
for host in ('127.0.0.1', '169.254.169.254', '8.8.8.8'):
    try:
        socket.create_connection((host, {listener.getsockname()[1]}), 0.2); reached += 1
    except OSError:
        pass
print(reached)
"""
        assert run(source, runner, [StdioTest(stdout="0")]).verdict is AC


@pytest.mark.parametrize(
    "call",
    [
        "libc.mount(b'x', b'/box', b'tmpfs', 0, None)",
        "libc.unshare(0x10000000)",
        "libc.unshare(0x00020000)",
        "libc.chroot(b'/box')",
        "libc.ptrace(16, 1, 0, 0)",
        "libc.setns(0, 0)",
        "libc.memfd_create(b'x', 0)",
        "libc.setuid(0)",
        "libc.sethostname(b'x', 1)",
    ],
)
def test_privileged_call_is_refused(call: str, runner: Runner) -> None:
    source = f"import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nprint({call})"
    assert run(source, runner, [StdioTest(stdout="-1")]).verdict is AC


def test_clock_of_the_program_does_not_count(runner: Runner) -> None:
    source = "import time\ntime.time = time.monotonic = lambda: 0\ntime.sleep(60)"
    assert run(source, runner, limits=TIGHT).verdict is TLE


def test_series_counts_what_passed_and_names_the_first_failure(runner: Runner) -> None:
    tests = [StdioTest(stdin=str(n), stdout=str(n * n)) for n in range(5)]
    result = run("n = int(input()); print(n * n if n != 2 else 0)", runner, tests)
    assert (result.verdict, result.num_passed, result.num_tests, result.first_fail) == (WA, 4, 5, 2)


def test_series_ends_when_the_budget_of_the_whole_is_spent(runner: Runner) -> None:
    tests = [StdioTest(stdout="7")] * 50
    spec = Spec(mode=Mode.STDIO, source="import time; time.sleep(0.3); print(7)", tests=tests, limits=LIMITS)
    result = execute(spec, runner, budget_s=1.0)
    assert (result.verdict, result.num_tests) == (TLE, 50)
    assert 1 <= result.num_passed <= 3
    assert result.usage.wall_s < 3


def test_series_ends_at_the_first_limit(runner: Runner) -> None:
    tests = [StdioTest(stdout="7")] * 50
    result = run("while True: pass", runner, tests, TIGHT)
    assert (result.verdict, result.num_passed, result.first_fail) == (TLE, 0, 0)
    assert result.usage.wall_s < 3
