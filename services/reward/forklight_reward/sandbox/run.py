"""Executes a spec: runs its tests in jails, compares outside them, and gives one class for the whole
program.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from forklight_core.errors import InvalidInputError, UnavailableError
from forklight_reward.sandbox.compare import UnreadableValueError, read_json, same_json, same_tokens
from forklight_reward.sandbox.jail import Jail, open_jail
from forklight_reward.sandbox.launch import Job
from forklight_reward.sandbox.outcome import STARTED, compile_message, describe, failure_class
from forklight_reward.sandbox.process import Ended, run_job
from forklight_reward.sandbox.result import LIMIT_CLASSES, Class, SandboxResult, Usage, masked_json
from forklight_reward.sandbox.spec import FunctionCase, FunctionTests, Limits, Spec, StdioTest, parse_spec

BUDGET_WALLS = 10.0
BUDGET_A_TEST_S = 1.0


@dataclass(slots=True)
class Tally:
    """Tests so far; the first failure names the class of the program."""

    num_tests: int
    num_passed: int = 0
    first_fail: int | None = None
    verdict: Class = Class.ACCEPTED
    evidence: str = ""
    usage: Usage = field(default_factory=Usage)

    def enter(self, index: int, verdict: Class, evidence: str) -> None:
        """One test's class."""
        if verdict is Class.ACCEPTED:
            self.num_passed += 1
        elif self.first_fail is None:
            self.first_fail, self.verdict, self.evidence = index, verdict, evidence

    def result(self) -> SandboxResult:
        """The verdict on the program."""
        return SandboxResult(
            verdict=self.verdict,
            num_passed=self.num_passed,
            num_tests=self.num_tests,
            first_fail=self.first_fail,
            usage=self.usage,
            evidence=self.evidence,
        )


def total_budget_s(spec: Spec) -> float:
    """Seconds that all runs of one program may take together."""
    num_runs = len(spec.stdio_tests) or 1
    return min(num_runs, BUDGET_WALLS) * spec.limits.wall_s + BUDGET_A_TEST_S * num_runs


def execute(spec: Spec, jail: Jail, budget_s: float | None = None) -> SandboxResult:
    """Run a program against its tests. `budget_s` may shorten the program's own total budget."""
    deadline = time.monotonic() + min(
        total_budget_s(spec), budget_s if budget_s is not None else float("inf")
    )
    if spec.function_tests is not None:
        return run_function(spec, spec.function_tests, jail, deadline)
    if not spec.stdio_tests:
        raise InvalidInputError(
            f"sandbox spec: a program of mode {spec.mode} has no tests and gets no score; ask for its output"
        )
    return run_stdio(spec, jail, deadline)


def limits_until(limits: Limits, deadline: float) -> Limits:
    """The same limits, with the clock no later than the deadline."""
    return limits.model_copy(update={"wall_s": max(0.01, min(limits.wall_s, deadline - time.monotonic()))})


def run_stdio(spec: Spec, jail: Jail, deadline: float) -> SandboxResult:
    """One fresh jail a test; a limit ends the series, since the program has failed already."""
    tally = Tally(len(spec.stdio_tests))
    for index, test in enumerate(spec.stdio_tests):
        if time.monotonic() >= deadline:
            tally.enter(index, Class.TIME_LIMIT, "the budget of the whole submission is spent")
            break
        limits = limits_until(spec.limits, deadline)
        job = Job(
            source=spec.source.encode("utf-8", "replace"),
            mode="stdio",
            entry="",
            stdin=test.stdin.encode(),
            limits=limits,
        )
        ended = run_job(job, jail)
        tally.usage = tally.usage.plus(ended.usage)
        verdict, evidence = judge_output(ended, test, limits)
        tally.enter(index, verdict, evidence)
        if verdict in LIMIT_CLASSES or verdict is Class.COMPILE_ERROR:
            break
    return tally.result()


def judge_output(ended: Ended, test: StdioTest, limits: Limits) -> tuple[Class, str]:
    """The class of one test of mode stdio."""
    failure = failure_class(ended, limits)
    if failure is Class.COMPILE_ERROR:
        return failure, compile_message(ended)
    if failure is not None:
        return failure, describe(ended)
    if same_tokens(ended.stdout, test.stdout):
        return Class.ACCEPTED, ""
    return Class.WRONG_ANSWER, f"printed {ended.stdout[:80]!r}"


def run_function(spec: Spec, tests: FunctionTests, jail: Jail, deadline: float) -> SandboxResult:
    """All cases in one jail; each reply is compared here, in order."""
    tally = Tally(len(tests.cases))
    limits = limits_until(spec.limits, deadline)
    lines = "".join(json.dumps(case.args) + "\n" for case in tests.cases)
    job = Job(
        source=spec.source.encode("utf-8", "replace"),
        mode="function",
        entry=tests.entry,
        stdin=lines.encode(),
        limits=limits,
    )
    ended = run_job(job, jail)
    tally.usage = ended.usage
    failure = failure_class(ended, limits)
    if failure is Class.COMPILE_ERROR:
        tally.enter(0, failure, compile_message(ended))
        return tally.result()
    replies = ended.report.removeprefix(STARTED).splitlines()
    for index, case in enumerate(tests.cases):
        if index >= len(replies):
            tally.enter(index, failure or Class.RUNTIME_ERROR, f"no value for this case, {describe(ended)}")
            return tally.result()
        tally.enter(index, *judge_reply(replies[index], case))
    if failure is not None or len(replies) > len(tests.cases):
        tally.enter(
            len(tests.cases) - 1,
            failure or Class.WRONG_ANSWER,
            f"values for all cases, but then {describe(ended)}",
        )
    return tally.result()


def judge_reply(line: bytes, case: FunctionCase) -> tuple[Class, str]:
    """The class of one case of mode function."""
    try:
        reply = read_json(line)
    except UnreadableValueError as error:
        return Class.WRONG_ANSWER, f"not a plain value: {error}"
    if not isinstance(reply, dict) or "value" not in reply:
        raised = reply.get("error") if isinstance(reply, dict) else None
        return (Class.RUNTIME_ERROR, str(raised)[:200]) if raised else (Class.WRONG_ANSWER, "not a reply")
    if same_json(reply["value"], case.expected):
        return Class.ACCEPTED, ""
    return Class.WRONG_ANSWER, f"returned {str(reply['value'])[:80]}"


def run_spec_file(path: str) -> str:
    """Execute the spec in a file; one line of JSON. For the command line.

    UnavailableError when this machine makes no jails at all; a jail that fails under way gives a masked line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"sandbox spec {path} cannot be read: {error}") from error
    spec, jail = parse_spec(text), open_jail()
    try:
        return execute(spec, jail).to_json()
    except UnavailableError as error:
        return masked_json(str(error))
