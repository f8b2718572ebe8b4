"""Functions called in a jail and compared outside it, and specs that are refused."""

from __future__ import annotations

import json

import pytest
from pydantic import JsonValue

from forklight_core.errors import InvalidInputError
from forklight_reward.sandbox.compare import UnreadableValueError, read_json, same_json
from forklight_reward.sandbox.result import Class, SandboxResult
from forklight_reward.sandbox.run import execute
from forklight_reward.sandbox.runner import Runner
from forklight_reward.sandbox.spec import FunctionCase, FunctionTests, Limits, Mode, Spec, parse_spec

LIMITS = Limits(cpu_s=1.0, wall_s=1.5, memory_mb=128, pids=8, output_bytes=2**21, disk_mb=8)
AC, WA, CE, RE = Class.ACCEPTED, Class.WRONG_ANSWER, Class.COMPILE_ERROR, Class.RUNTIME_ERROR
TLE, MLE, OLE = Class.TIME_LIMIT, Class.MEMORY_LIMIT, Class.OUTPUT_LIMIT


def call(source: str, runner: Runner, *, expected: JsonValue = 7, entry: str = "f") -> SandboxResult:
    """f(3, 4) must give `expected`."""
    tests = FunctionTests(entry=entry, cases=[FunctionCase(args=[3, 4], expected=expected)])
    return execute(Spec(mode=Mode.FUNCTION, source=source, tests=tests, limits=LIMITS), runner)


@pytest.mark.parametrize(
    ("source", "entry", "expected"),
    [
        ("def f(a, b): return a + b", "f", 7),
        ("class S:\n    def f(self, a, b): return a + b", "S.f", 7),
        ("class S:\n    @staticmethod\n    def f(a, b): return a + b", "S.f", 7),
        ("def f(a, b): return (a, [b])", "f", [3, [4]]),
        (
            "def f(a, b): return {'sum': a + b, 'half': a / 2, 'none': None}",
            "f",
            {"sum": 7, "half": 1.5, "none": None},
        ),
        ("def f(a, b): print('chatter'); return 0.1 + 0.2", "f", 0.3),
        ("def f(a, b): return a + b\nif __name__ == '__main__': raise SystemExit('tests of my own')", "f", 7),
        (
            "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(a, b): return P(7).x",
            "f",
            7,
        ),
    ],
)
def test_right_function_is_accepted(source: str, entry: str, expected: JsonValue, runner: Runner) -> None:
    result = call(source, runner, entry=entry, expected=expected)
    assert result.verdict is AC, result


EQUAL_STRING = "class E(str):\n    def __eq__(self, other): return True\n    __hash__ = None\n"
PATCHED_BUILTINS = "import builtins\nbuiltins.isinstance = lambda *a: True\n"
FORGED_REPLY = "import os\ndef f(a, b):\n    os.write(5, b'{\"value\": 8}\\n')\n    return 8"
SECOND_REPLY = """
import os
def f(a, b):
    for fd in range(3, 1024):
        try:
            os.write(fd, b'{"value": 7}\\n')
        except OSError:
            pass
    return 7
"""
EQUAL_TO_ALL = "class E(int):\n    def __eq__(self, other): return True\n    __hash__ = None\n"
PATCHED_JSON = "import json, json.encoder\njson.dumps = lambda *a, **k: '{\"value\": 8}'\n"


@pytest.mark.parametrize(
    ("name", "source", "allowed"),
    [
        ("wrong", "def f(a, b): return a * b", {WA}),
        ("overridden equality", EQUAL_TO_ALL + "def f(a, b): return E(1)", {WA}),
        ("equal string", EQUAL_STRING + "def f(a, b): return E('7')", {WA}),
        ("true for one", "def f(a, b): return True", {WA}),
        ("float for int", "def f(a, b): return 7.0", {WA}),
        ("string for int", "def f(a, b): return '7'", {WA}),
        ("none", "def f(a, b): pass", {WA}),
        ("not a number", "def f(a, b): return float('nan')", {RE, WA}),
        ("raises", "def f(a, b): raise ValueError('no')", {RE}),
        ("exits in the call", "import sys\ndef f(a, b): sys.exit(0)", {RE}),
        ("exits hard in the call", "import os\ndef f(a, b): os._exit(0)", {RE}),
        ("exits at import", "import os\nos._exit(0)", {RE}),
        ("no such function", "def g(a, b): return 7", {RE}),
        ("does not compile", "def f(a, b) return 7", {CE}),
        ("json patched", PATCHED_JSON + "def f(a, b): return 8", {WA}),
        ("json patched to say what is right", PATCHED_JSON.replace("8", "7") + "def f(a, b): return 8", {WA}),
        ("builtins patched", PATCHED_BUILTINS + "def f(a, b): return 8", {WA, RE}),
        ("a set", "def f(a, b): return {7}", {RE}),
        ("a cycle", "def f(a, b):\n    x = []\n    x.append(x)\n    return x", {RE, WA}),
        ("deep nesting", "def f(a, b, x=0):\n    for _ in range(200_000): x = [x]\n    return x", {RE, WA}),
        ("a huge value", "def f(a, b): return 'x' * (64 << 20)", {OLE, MLE, RE, TLE}),
        ("a huge integer", "def f(a, b): return 10 ** 100_000", {RE, WA}),
        ("endless", "def f(a, b):\n    while True: pass", {TLE}),
        ("forges a reply by hand", FORGED_REPLY, {WA, RE}),
        ("replies twice", SECOND_REPLY, {WA, RE}),
        ("garbage at exit", "import atexit, os\ndef f(a, b): return 8\n"
         "atexit.register(lambda: [os.write(fd, b'AC') for fd in (1, 2)])", {WA}),
    ],
)  # fmt: skip
def test_wrong_or_hostile_function_is_not_accepted(
    name: str, source: str, allowed: set[Class], runner: Runner
) -> None:
    result = call(source, runner)
    assert result.verdict in allowed, result
    assert result.score == 0.0


def test_deep_value_written_by_hand_is_refused_outside() -> None:
    with pytest.raises(UnreadableValueError):
        read_json(b"[" * 200_000 + b"]" * 200_000)


@pytest.mark.parametrize("line", [b"NaN", b"Infinity", b"-Infinity", b"\xff", b"{", b"1" * 5000])
def test_value_that_is_not_plain_is_refused(line: bytes) -> None:
    with pytest.raises(UnreadableValueError):
        read_json(line)


@pytest.mark.parametrize(
    ("value", "expected", "same"),
    [
        (1, True, False),
        (True, 1, False),
        (1.0, 1, False),
        (1, 1.0, True),
        (True, 1.0, False),
        (0.1 + 0.2, 0.3, True),
        (10**400, 1.0, False),
        ([1, [2]], [1, [2]], True),
        ([1], [1, 1], False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": True}, {"a": 1}, False),
        ("1", 1, False),
        (None, 0, False),
    ],
)
def test_values_are_compared_by_type_and_value(value: JsonValue, expected: JsonValue, same: bool) -> None:
    assert same_json(value, expected) is same


def test_argument_changed_in_place_does_not_change_what_is_expected(runner: Runner) -> None:
    tests = FunctionTests(entry="f", cases=[FunctionCase(args=[[3, 1]], expected=[1, 3])] * 2)
    source = "def f(x):\n    x.append(9)\n    return x"
    result = execute(Spec(mode=Mode.FUNCTION, source=source, tests=tests, limits=LIMITS), runner)
    assert (result.verdict, result.num_passed) == (WA, 0)


def test_a_method_gets_a_new_object_for_each_call(runner: Runner) -> None:
    tests = FunctionTests(entry="S.f", cases=[FunctionCase(args=[n], expected=[n]) for n in range(3)])
    source = "class S:\n    def __init__(self): self.found = []\n    def f(self, n):\n"
    source += "        self.found.append(n)\n        return self.found"
    result = execute(Spec(mode=Mode.FUNCTION, source=source, tests=tests, limits=LIMITS), runner)
    assert (result.verdict, result.num_passed) == (AC, 3), result


def test_expected_values_are_not_in_the_jail(runner: Runner) -> None:
    source = """
import gc, glob
def f(a, b):
    seen = [open(p, 'rb').read() for p in glob.glob('/proc/[0-9]*/cmdline')]
    seen += [repr(o).encode() for o in gc.get_objects() if isinstance(o, (dict, list, str, int))]
    return b'918273645' in b''.join(seen)
"""
    tests = FunctionTests(
        entry="f",
        cases=[
            FunctionCase(args=[3, 4], expected=False),
            FunctionCase(args=[3, 4], expected=918273 * 1000 + 645),
        ],
    )
    result = execute(Spec(mode=Mode.FUNCTION, source=source, tests=tests, limits=LIMITS), runner)
    assert (result.num_passed, result.first_fail) == (1, 1)


def test_cases_count_and_keyword_arguments_work(runner: Runner) -> None:
    cases = [FunctionCase(args={"a": n, "b": 1}, expected=n + 1 if n != 1 else 0) for n in range(3)]
    spec = Spec(
        mode=Mode.FUNCTION,
        source="def f(a, b): return a + b",
        tests=FunctionTests(entry="f", cases=cases),
        limits=LIMITS,
    )
    result = execute(spec, runner)
    assert (result.verdict, result.num_passed, result.num_tests, result.first_fail) == (WA, 2, 3, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"language": "pascal"}, "language"),
        (
            {
                "language": "cpp",
                "mode": "function",
                "tests": {"entry": "f", "cases": [{"args": {"a": 1}, "expected": 1}]},
            },
            "no names in cpp",
        ),
        ({"mode": "magic"}, "mode"),
        ({"tests": []}, "tests"),
        ({"tests": {"entry": "f", "cases": [{"args": [], "expected": 1}]}}, "must be a list"),
        ({"mode": "function"}, "must be {entry, cases}"),
        ({"mode": "run", "tests": None, "source": " "}, "source is empty"),
        ({"surprise": 1}, "surprise"),
        ({"limits": {"cpu_s": -1}}, "cpu_s"),
    ],
)
def test_bad_spec_is_refused_with_the_reason(change: dict[str, JsonValue], message: str) -> None:
    spec: dict[str, JsonValue] = {
        "mode": "stdio",
        "source": "print(7)",
        "tests": [{"stdin": "", "stdout": "7"}],
    }
    with pytest.raises(InvalidInputError, match=message):
        parse_spec(json.dumps(spec | change))


def test_spec_that_is_not_json_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="not JSON"):
        parse_spec("{")
