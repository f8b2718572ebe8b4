"""Programs in C++: compiled in a jail of its own, run in others, never outside."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import JsonValue

from forklight_core.errors import UnavailableError
from forklight_reward.sandbox.jail_runner import JailRunner, open_jail_runner
from forklight_reward.sandbox.program import run_program
from forklight_reward.sandbox.result import Class, SandboxResult
from forklight_reward.sandbox.run import execute
from forklight_reward.sandbox.runner import Ended, Job, Runner
from forklight_reward.sandbox.self_test import run_self_test
from forklight_reward.sandbox.spec import (
    FunctionCase,
    FunctionTests,
    Language,
    Limits,
    Mode,
    Spec,
    StdioTest,
)
from services.reward.tests.hostile_programs import AC, CE, MLE, OLE, RE, SV, TLE, WA

LIMITS = Limits(cpu_s=0.5, wall_s=2.0, memory_mb=128, pids=8, output_bytes=2**20, disk_mb=8)
SWITCH = r"""
#include <cstdio>
#include <cstdlib>
#include <csignal>
#include <cstring>
#include <thread>
#include <vector>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/wait.h>
static int deeper(int n) { volatile char room[4096]; room[0] = char(n); return deeper(n + 1) + room[0]; }
static int level(int n) { volatile char room[256]; room[0] = 1; return n ? level(n - 1) + room[0] : 0; }
int main() {
    char what[64] = "";
    if (std::scanf("%63s", what) != 1) return 9;
    const auto is = [&](const char* name) { return !std::strcmp(what, name); };
    if (is("sum")) std::printf("%d", 3 + 4);
    if (is("deep")) std::printf("%d", level(100000) - 99993);
    if (is("thread")) { std::thread t([] { std::printf("7"); }); t.join(); }
    if (is("child")) { if (!fork()) { std::printf("7"); std::exit(0); } wait(nullptr); }
    if (is("daemon")) { if (!fork()) { setsid(); sleep(60); } std::printf("7"); }
    if (is("loop")) for (volatile int i = 0;; i = i + 1) {}
    if (is("sleep")) sleep(60);
    if (is("forks")) for (;;) fork();
    if (is("children")) { for (int i = 0; i < 3; ++i) fork(); for (volatile int i = 0;; i = i + 1) {} }
    if (is("memory")) for (std::vector<char*> all;;) { all.push_back(new char[1 << 20]); std::memset(all.back(), 1, 1 << 20); }
    if (is("shared")) std::memset(mmap(nullptr, 200 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), 1, 200 << 20);
    if (is("stack")) std::printf("%d", deeper(0));
    if (is("flood")) for (;;) std::puts("7777777777777777777777777777777777777777");
    if (is("abort")) { std::printf("7"); std::fflush(stdout); std::abort(); }
    if (is("fault")) *reinterpret_cast<volatile int*>(8) = 7;
    if (is("exit")) std::_Exit(0);
    if (is("code")) { std::printf("7"); return 3; }
    if (is("deaf")) { for (int i = 1; i < 64; ++i) std::signal(i, SIG_IGN); for (volatile int i = 0;; i = i + 1) {} }
    if (is("shell")) return std::system("cat /etc/passwd /etc/hostname; ls /root /home");
    if (is("descriptors")) for (int fd = 3; fd < 1024; ++fd) if (write(fd, "7", 1) == 1) std::printf("8");
}
"""  # noqa: E501
SQUARE = r"""
#include <cstdio>
int main() { int n; std::scanf("%d", &n); std::printf("%d", n * n); }
"""
HONEST = ("sum", "deep", "thread", "child", "daemon")
HOSTILE: dict[str, set[Class]] = {
    "loop": {TLE}, "sleep": {TLE}, "forks": {TLE, RE, MLE, SV}, "children": {TLE}, "memory": {MLE, RE},
    "shared": {MLE, RE}, "stack": {RE}, "flood": {OLE}, "abort": {RE}, "fault": {RE}, "exit": {WA},
    "code": {RE}, "deaf": {TLE}, "shell": {WA, RE}, "descriptors": {WA}, "nothing": {WA},
}  # fmt: skip
REFUSED = {
    "no program": "int main() { return x; }",
    "a file of the host": '#include "SECRET"\nint main() {}',
    "itself": "#include __FILE__\nint main() {}",
    "nothing": " ;",
    "gigabytes of data": "int data[1 << 29] = {1};\nint main() { return data[5]; }",
    "gigabytes of assembly": 'asm(".rept 2000000000\\n.quad 1\\n.endr");\nint main() {}',
    "a file in assembly": 'asm(".incbin \\"SECRET\\"");\nint main() {}',
}
TEMPLATES = """
template<int A, int B> struct F {
    static const long long v = F<A - 1, B * 2>::v + F<A - 1, B * 2 + 1>::v;
};
"""
SLOW_TO_COMPILE = {
    "a file without end": '#include "/dev/zero"\nint main() {}',
    "templates": TEMPLATES + "template<int B> struct F<0, B> { static const long long v = B; };\n"
    "int main() { return F<24, 0>::v; }",
    "macros": "".join(f"#define A{n} A{n - 1} A{n - 1}\n" for n in range(1, 40))
    + "#define A0 1+\nint main() { return A39 1; }",
    "constants": "constexpr int f(int n) { return n < 2 ? n : f(n - 1) + f(n - 2); }\n"
    "int main() { constexpr int x = f(60); return x; }",
}


def spec_of(source: str, *words: str, expected: str = "7") -> Spec:
    tests = [StdioTest(stdin=word, stdout=expected) for word in words or ("",)]
    return Spec(mode=Mode.STDIO, language=Language.CPP, source=source, tests=tests, limits=LIMITS)


class CompilesOnce:
    """A runner that compiles the same source once; everything else runs as always."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._compiled: dict[bytes, Ended] = {}
        self.num_compiled = 0

    version = property(lambda self: self._runner.version)
    tier = property(lambda self: self._runner.tier)

    def run(self, job: Job) -> Ended:
        source = job.files.get("main.cpp")
        if source is None:
            return self._runner.run(job)
        self.num_compiled += source not in self._compiled
        self._compiled[source] = self._compiled.get(source) or self._runner.run(job)
        return self._compiled[source]

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def results(runner: Runner) -> dict[str, SandboxResult]:
    """One program of many behaviours, one run each."""
    once = CompilesOnce(runner)
    execute(spec_of(SWITCH, "sum"), once)
    names = [*HONEST, *HOSTILE]
    with ThreadPoolExecutor(6) as threads:
        found = threads.map(lambda name: execute(spec_of(SWITCH, name), once), names)
        named = dict(zip(names, found, strict=True))
    assert once.num_compiled == 1
    return named


@pytest.mark.parametrize("name", HONEST)
def test_honest_program_is_accepted(name: str, results: dict[str, SandboxResult]) -> None:
    assert results[name].verdict is AC, results[name]


@pytest.mark.parametrize(("name", "allowed"), HOSTILE.items())
def test_hostile_program(name: str, allowed: set[Class], results: dict[str, SandboxResult]) -> None:
    assert results[name].verdict in allowed, results[name]


def test_one_compile_serves_all_tests(runner: Runner) -> None:
    once = CompilesOnce(runner)
    result = execute(spec_of(SQUARE, "1", "2", "3", expected="4"), once)
    assert (once.num_compiled, result.verdict, result.num_passed, result.first_fail) == (1, WA, 1, 0)


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_compiler_refuses_is_ce_and_shows_no_file(name: str, runner: Runner, tmp_path: Path) -> None:
    secret = tmp_path / "secret.h"
    secret.write_text("hidden-answer 42;\n")
    result = execute(spec_of(REFUSED[name].replace("SECRET", str(secret))), runner)
    assert (result.verdict, result.num_passed) == (CE, 0), result
    assert "hidden" not in result.to_json()


def test_text_of_a_file_in_the_jail_is_not_in_the_message(runner: Runner) -> None:
    result = execute(spec_of('#include "/usr/share/common-licenses/BSD"\nint main() {}'), runner)
    assert result.verdict is CE
    assert "Regents" not in result.evidence


@pytest.mark.hostile
@pytest.mark.parametrize("name", SLOW_TO_COMPILE)
def test_bomb_for_the_compiler_ends_soon(name: str, runner: Runner) -> None:
    result = execute(spec_of(SLOW_TO_COMPILE[name]), runner)
    assert result.verdict is not AC, result


FUNCTIONS = """
#include <array>
#include <deque>
#include <list>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>
#define int long long
using namespace std;
struct S {
    vector<string> f(const vector<int>& numbers, string text, map<string, double> names, bool loud) const {
        vector<string> out;
        for (int each : numbers) out.push_back(text + to_string(each + loud));
        for (auto& [name, value] : names) out.push_back(name + (value == 0.5 ? "half" : "other"));
        return out;
    }
};
using Shapes = tuple<set<int>, array<int, 2>, deque<double>>;
optional<Shapes> g(tuple<int, list<int>> both, optional<pair<int, char>> one) {
    if (!one) return nullopt;
    const auto& [first, rest] = both;
    return Shapes{{rest.begin(), rest.end()}, {first, one->first}, {0.5}};
}
int halve(int n) {
    if (n == 13) throw string("no");
    if (n % 2) throw std::runtime_error("odd");
    return n / 2;
}
signed main() { return 1; }
"""


def call(entry: str, cases: list[FunctionCase], runner: Runner, source: str = FUNCTIONS) -> SandboxResult:
    tests = FunctionTests(entry=entry, cases=cases)
    spec = Spec(mode=Mode.FUNCTION, language=Language.CPP, source=source, tests=tests, limits=LIMITS)
    return execute(spec, runner)


def test_function_takes_and_gives_typed_values(runner: Runner) -> None:
    once = CompilesOnce(runner)
    text = 'a\u00e9\U0001f600"\\\n\x01'
    args: list[JsonValue] = [[1, -(2**62)], text, {"q": 0.5, "": 1}, True]
    expected: JsonValue = [f"{text}2", f"{text}{1 - 2**62}", "other", "qhalf"]
    result = call("S.f", [FunctionCase(args=args, expected=expected)], once)
    assert result.verdict is AC, result


def test_function_takes_and_gives_values_of_many_shapes(runner: Runner) -> None:
    both: JsonValue = [7, [3, 1, 3]]
    cases = [
        FunctionCase(args=[both, [5, "x"]], expected=[[1, 3], [7, 5], [0.5]]),
        FunctionCase(args=[both, None], expected=None),
    ]
    result = call("g", cases, runner)
    assert result.verdict is AC, result


@pytest.mark.parametrize(
    ("argument", "expected", "verdict", "said"),
    [
        (8, 4, AC, ""),
        (8, 5, WA, "returned 4"),
        (7, 3, RE, "odd"),
        (13, 3, RE, "no std::exception"),
        (2**70, 3, RE, "fits the parameter"),
        ("8", 4, RE, "no number"),
        (8.5, 4, RE, "fits the parameter"),
    ],
)
def test_function_is_compared_outside(
    argument: JsonValue, expected: JsonValue, verdict: Class, said: str, runner: Runner, halves: CompilesOnce
) -> None:
    result = call("halve", [FunctionCase(args=[argument], expected=expected)], halves)
    assert result.verdict is verdict, result
    assert said in result.evidence


@pytest.fixture(scope="module")
def halves(runner: Runner) -> CompilesOnce:
    """Compiles the functions once for all their cases."""
    return CompilesOnce(runner)


def test_a_type_that_json_cannot_carry_does_not_compile(runner: Runner) -> None:
    result = call(
        "f", [FunctionCase(args=[1], expected=1)], runner, "int f(void* p) { return p != nullptr; }"
    )
    assert (result.verdict, "JSON cannot carry" in result.evidence) == (CE, True), result


def test_a_run_without_tests_is_compiled_too(runner: Runner) -> None:
    good = Spec(mode=Mode.RUN, language=Language.CPP, source="int main() { return 7; }", limits=LIMITS)
    bad = good.model_copy(update={"source": "int main() { return }"})
    assert run_program(good, runner).failure is RE
    refused = run_program(bad, runner)
    assert (refused.failure, b"error:" in refused.stderr) == (CE, True)


def test_a_missing_compiler_is_no_verdict_and_python_is_served(caplog: pytest.LogCaptureFixture) -> None:
    lacking = open_jail_runner(compiler="no-such-compiler")
    assert isinstance(lacking, JailRunner)
    try:
        with pytest.raises(UnavailableError, match=r"install g\+\+"):
            execute(spec_of("int main() {}"), lacking)
        run_self_test(lacking, compiler="no-such-compiler")
        assert "programs in C++ get no verdict here" in caplog.text
    finally:
        lacking.close()
