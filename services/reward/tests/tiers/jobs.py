"""Jobs that every tier must end in the same way."""

from __future__ import annotations

from forklight_reward.sandbox.result import Class
from forklight_reward.sandbox.runner import Ended, Job, JobKind, Runner
from forklight_reward.sandbox.spec import Limits

LIMITS = Limits(cpu_s=1.0, wall_s=3.0, memory_mb=96, pids=8, output_bytes=65536, disk_mb=8)
ADD = b"def add(a, b):\n    return a + b\n"
CPP = b"#include <iostream>\nint main() { long x; std::cin >> x; std::cout << x * 2 << '\\n'; }\n"


def program(source: str, stdin: bytes = b"", limits: Limits = LIMITS) -> Job:
    """A job of kind PROGRAM."""
    return Job(kind=JobKind.PROGRAM, source=source.encode(), stdin=stdin, limits=limits)


def run_honest(runner: Runner) -> None:
    """Every kind of job gives what it should."""
    ended = runner.run(program("import sys; print(sys.stdin.read()[::-1]); sys.exit(3)", b"olleh"))
    assert (ended.stdout, ended.exit_code, ended.broke) == (b"hello\n", 3, None)
    called = runner.run(
        Job(kind=JobKind.FUNCTION, source=ADD, entry="add", stdin=b"[1, 2]\n[3, null]\n", limits=LIMITS)
    )
    first, second = called.report.splitlines()[-2:]
    assert first == b'{"value": 3}'
    assert second.startswith(b'{"error"')
    broken = runner.run(program("def"))
    assert b"compile_error" in broken.report


def run_command(runner: Runner) -> Ended:
    """Files are laid out, a command runs among them, what it left is collected; links are not followed."""
    script = "import os\nos.makedirs('out/deep')\ndata = open('in/x', 'rb').read()\n"
    script += "open('out/deep/a', 'wb').write(b'\\0' + data)\n"
    script += "os.symlink('/etc/passwd', 'out/link')\nprint(os.environ['SEED'])"
    ended = runner.run(
        Job(
            kind=JobKind.COMMAND,
            command=("python", "run.py"),
            files={"run.py": script.encode(), "in/x": b"abc"},
            environment={"SEED": "7"},
            collect=("out",),
            limits=LIMITS,
        )
    )
    assert (ended.stdout, ended.exit_code) == (b"7\n", 0), ended
    assert dict(ended.files) == {"out/deep/a": b"\0abc"}
    missing = runner.run(Job(kind=JobKind.COMMAND, command=("no-such-thing",), limits=LIMITS))
    assert missing.exit_code == 127
    assert b'"missing"' in missing.report
    return ended


HOSTILE = {
    "fork bomb": (
        "import os\nwhile True: os.fork()",
        {Class.VIOLATION, Class.TIME_LIMIT, Class.MEMORY_LIMIT},
    ),
    "flood": ("while True: print('x' * 4096)", {Class.OUTPUT_LIMIT}),
    "sleeper that ignores signals": (
        "import signal, time\nfor n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)\ntime.sleep(60)",
        {Class.TIME_LIMIT},
    ),
    "memory in children": (
        "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n"
        "        x = b'1' * (64 << 20); time.sleep(9)\nos.wait()",
        {Class.MEMORY_LIMIT},
    ),
    "processor in a session of its own": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        while True: pass\n    os._exit(0)\ntime.sleep(60)",
        {Class.TIME_LIMIT},
    ),
}
DAEMON = (
    "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(3600)\n"
    "    os._exit(0)\nprint('gone')"
)


def run_own_file(runner: Runner) -> None:
    """A file of the job is made executable and run, however it is named."""
    files = {"tool": b"#!/bin/sh\ncat; echo from $0\n"}
    for first in ("tool", "./tool"):
        job = Job(kind=JobKind.COMMAND, command=(first,), files=files, stdin=b"in ", limits=LIMITS)
        ended = runner.run(job)
        assert ended.stdout.startswith(b"in from "), ended
