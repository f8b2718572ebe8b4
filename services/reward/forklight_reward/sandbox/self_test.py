"""Escape attempts against this machine's own jails. A sandbox that has not passed them does not serve."""

from __future__ import annotations

import logging
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from forklight_core.errors import UnavailableError
from forklight_reward.sandbox.cpp import MissingCompilerError
from forklight_reward.sandbox.result import Class, SandboxResult
from forklight_reward.sandbox.run import execute
from forklight_reward.sandbox.runner import Runner
from forklight_reward.sandbox.spec import FunctionCase, FunctionTests, Language, Limits, Mode, Spec, StdioTest

logger = logging.getLogger(__name__)

LIMITS = Limits(cpu_s=1.0, wall_s=2.0, memory_mb=128, pids=8, output_bytes=65536, disk_mb=8)
NO = "no"

_LIBC = "import ctypes; libc = ctypes.CDLL(None, use_errno=True); "
ATTEMPTS = {
    "writes to the system": "open('/usr/escape', 'w')",
    "mounts": _LIBC + "assert libc.mount(b'x', b'/box', b'tmpfs', 0, None) == 0",
    "makes a user namespace": _LIBC + "assert libc.unshare(0x10000000) == 0",
    "becomes root": "import os; os.setuid(0)",
}
BREAKERS = {
    "fills memory": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "fills memory in children": (
        "import os, time\nfor _ in range(4):\n"
        "    if os.fork() == 0:\n        x = b'1' * (64 << 20); time.sleep(9)\nos.wait()"
    ),
    "forks without end": "import os\nwhile True: os.fork()",
    "fills the disk": "f = open('x', 'wb')\nwhile True: f.write(b'x' * 65536)",
    "prints without end": "while True: print('x' * 4096)",
    "burns the processor": "while True: pass",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One check and what it does."""

    name: str
    passes: Callable[[Runner], bool]


def run_program(source: str, runner: Runner, expected: str = NO) -> SandboxResult:
    """One program without input."""
    return execute(
        Spec(mode=Mode.STDIO, source=source, tests=[StdioTest(stdout=expected)], limits=LIMITS), runner
    )


def accepts_honest_programs(runner: Runner) -> bool:
    """What is right is accepted, in both modes."""
    source = "def add(a, b):\n    return a + b\n"
    tests = FunctionTests(entry="add", cases=[FunctionCase(args=[20, 22], expected=42)])
    call = execute(Spec(mode=Mode.FUNCTION, source=source, tests=tests, limits=LIMITS), runner)
    return (
        run_program("print(6 * 7)", runner, "42").verdict is Class.ACCEPTED and call.verdict is Class.ACCEPTED
    )


def accepts_honest_cpp(runner: Runner) -> bool:
    """A program is compiled and run. Without a compiler Python is served, and C++ tasks get no verdict."""
    source = '#include <cstdio>\nint main() { return std::printf("%d", 6 * 7) < 0; }\n'
    limits = LIMITS.model_copy(update={"memory_mb": 256})
    tests = [StdioTest(stdout="42")]
    spec = Spec(mode=Mode.STDIO, language=Language.CPP, source=source, tests=tests, limits=limits)
    try:
        return execute(spec, runner).verdict is Class.ACCEPTED
    except MissingCompilerError as error:
        logger.warning("programs in C++ get no verdict here", extra={"reason": str(error)})
        return True


def cannot_read_host_files(runner: Runner) -> bool:
    """A file that the whole world may read is still not there."""
    with tempfile.NamedTemporaryFile("w", suffix=".secret") as secret:
        secret.write("secret")
        secret.flush()
        source = (
            f"import os\npath = {secret.name!r}\nfor root in ('', '/proc/1/root', '/proc/1/cwd'):\n"
            "    try:\n        print(open(root + path).read())\n"
            "    except OSError:\n        pass\nprint('no')"
        )
        return run_program(source, runner).verdict is Class.ACCEPTED


def cannot_see_environment(runner: Runner) -> bool:
    """No process in the jail has a variable of ours."""
    source = (
        "import glob\nfor path in glob.glob('/proc/[0-9]*/environ'):\n    try:\n"
        "        assert b'FORKLIGHT' not in open(path, 'rb').read()\n"
        "    except PermissionError:\n        pass\nprint('no')"
    )
    return run_program(source, runner).verdict is Class.ACCEPTED


def cannot_reach_network(runner: Runner) -> bool:
    """A listener on this machine's loopback is out of reach."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        source = (
            "import socket\ntry:\n"
            f"    socket.create_connection(('127.0.0.1', {port}), 1)\n    print('connected')\n"
            "except OSError:\n    print('no')"
        )
        return run_program(source, runner).verdict is Class.ACCEPTED


def _refused(source: str) -> Callable[[Runner], bool]:
    guarded = f"try:\n    {source}\n    print('yes')\nexcept (OSError, AssertionError):\n    print('no')"
    return lambda runner: run_program(guarded, runner).verdict is Class.ACCEPTED


def _stopped(source: str) -> Callable[[Runner], bool]:
    return lambda runner: (
        run_program(source, runner).verdict not in (Class.ACCEPTED, Class.COMPILE_ERROR, Class.WRONG_ANSWER)
    )


def all_checks(*, compiler: str) -> list[Check]:
    """Every check, honest programs first."""
    in_cpp = [Check("accepts an honest program in C++", accepts_honest_cpp)] if compiler else []
    return [
        Check("accepts honest programs", accepts_honest_programs),
        *in_cpp,
        Check("reads host files", cannot_read_host_files),
        Check("sees the service's environment", cannot_see_environment),
        Check("reaches the network", cannot_reach_network),
        *(Check(name, _refused(source)) for name, source in ATTEMPTS.items()),
        *(Check(name, _stopped(source)) for name, source in BREAKERS.items()),
    ]


def run_self_test(runner: Runner, *, compiler: str = "") -> None:
    """UnavailableError names every check that did not hold."""
    checks = all_checks(compiler=compiler)
    failed = [check.name for check in checks if not check.passes(runner)]
    if failed:
        raise UnavailableError(
            f"sandbox self-test failed: {', '.join(failed)}; "
            "this machine's jails do not hold, so no program is run"
        )
    logger.info("sandbox self-test passed", extra={"num_checks": len(checks), "runner": runner.version})
