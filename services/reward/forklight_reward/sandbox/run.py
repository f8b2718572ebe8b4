"""Executes a spec: runs its tests in jails, compares outside them, and gives one class for the whole
program.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace

from pydantic import JsonValue

from forklight_core.errors import BusyError, InvalidInputError
from forklight_reward.sandbox.compare import UnreadableValueError, read_json, same_json, same_tokens
from forklight_reward.sandbox.cpp import REPLIES_NAME, CompileRefusedError
from forklight_reward.sandbox.outcome import compile_message, describe, failure_class, plain_text
from forklight_reward.sandbox.program import first_job
from forklight_reward.sandbox.repo.judge import repo_budget_s, run_repo
from forklight_reward.sandbox.result import LIMIT_CLASSES, Class, SandboxResult, Usage
from forklight_reward.sandbox.runner import Ended, Job, Runner
from forklight_reward.sandbox.spec import (
    MAX_SOURCE_BYTES,
    FunctionCase,
    FunctionTests,
    Language,
    Mode,
    Spec,
    StdioTest,
)

BUDGET_WALLS = 10.0
BUDGET_A_TEST_S = 1.0
OWN_SHARE = 0.5
"""Of the time a caller grants: a program that had less of it was not late, the machine was."""
GRACE = 1.2
"""How much later than its limit a run may end to be repeated: the neighbours may have been noisy."""


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
    if spec.repo_tests is not None:
        return repo_budget_s(spec.repo_tests, spec.limits)
    num_runs = len(spec.stdio_tests) or 1
    return min(num_runs, BUDGET_WALLS) * spec.limits.wall_s + BUDGET_A_TEST_S * num_runs


def own_budget_s(spec: Spec) -> float:
    """Seconds on the clock that its own runs may take together; making jails is not the program's time."""
    return min(len(spec.stdio_tests) or 1, BUDGET_WALLS) * spec.limits.wall_s


def refuse_source(spec: Spec) -> SandboxResult | None:
    """The verdict on what is no program at all: a stranger's answer is never an error of the author."""
    num_bytes = len(spec.source.encode("utf-8", "surrogatepass"))
    if spec.mode in (Mode.REPO, Mode.RUN) or (spec.source.strip() and num_bytes <= MAX_SOURCE_BYTES):
        return None
    tally = Tally(len(spec.stdio_tests) or (len(spec.function_tests.cases) if spec.function_tests else 0))
    why = (
        f"the source is larger than {MAX_SOURCE_BYTES} bytes"
        if spec.source.strip()
        else "the source is empty"
    )
    tally.enter(0, Class.COMPILE_ERROR, why)
    return tally.result()


@dataclass(slots=True, kw_only=True)
class Clock:
    """Time left: the program's own, and the caller's, who waits no longer than he granted."""

    own_s: float
    granted_s: float
    used_s: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def deadline(self) -> float:
        """When the run that starts now must end."""
        return min(self.started + self.granted_s, time.monotonic() + self.own_s - self.used_s)

    def spend(self, ended: Ended) -> None:
        """A run is over."""
        self.used_s += ended.usage.wall_s

    def is_over(self) -> bool:
        """True when no run can start. BusyError when the machine, not the program, took the caller's time."""
        if time.monotonic() < self.deadline():
            return False
        if self.used_s < min(self.own_s, OWN_SHARE * self.granted_s):
            raise BusyError(
                f"sandbox: of the {self.granted_s:.1f} s granted the program had {self.used_s:.1f}: "
                "this machine is too busy; try later or start more sandboxes"
            )
        return True


def execute(spec: Spec, runner: Runner, budget_s: float | None = None) -> SandboxResult:
    """Run a program against its tests. `budget_s` may shorten the program's own total budget."""
    now = time.monotonic()
    if (refusal := refuse_source(spec)) is not None:
        return refusal
    clock = Clock(own_s=own_budget_s(spec), granted_s=float("inf") if budget_s is None else budget_s)
    if spec.function_tests is not None:
        return run_function(spec, spec.function_tests, runner, clock)
    if spec.repo_tests is not None:
        answer = spec.source or spec.repo_tests.patch
        deadline = now + min(total_budget_s(spec), clock.granted_s)
        return run_repo(spec.repo_tests, answer, runner, spec.limits, deadline)
    if not spec.stdio_tests:
        raise InvalidInputError(
            f"sandbox spec: a program of mode {spec.mode} has no tests and gets no score; ask for its output"
        )
    return run_stdio(spec, runner, clock)


def run_timed(job: Job, runner: Runner, clock: Clock) -> tuple[Ended, Class | None]:
    """One run and the class of its failure. One that ends a little late is repeated, alone."""
    limits = job.limits

    def run(*, alone: bool) -> tuple[Ended, Class | None]:
        wall_s = max(0.01, min(limits.wall_s * GRACE, clock.deadline() - time.monotonic()))
        patient = limits.model_copy(update={"cpu_s": limits.cpu_s * GRACE, "wall_s": wall_s})
        ended = runner.run(replace(job, limits=patient, alone=alone))
        clock.spend(ended)
        return ended, failure_class(ended, limits)

    ended, failure = run(alone=False)
    if failure is Class.TIME_LIMIT and ended.broke is None and not clock.is_over():
        again, failure = run(alone=True)
        ended = replace(again, usage=again.usage.plus(ended.usage))
    return ended, failure


def run_stdio(spec: Spec, runner: Runner, clock: Clock) -> SandboxResult:
    """One fresh jail a test; a limit ends the series, since the program has failed already."""
    tally = Tally(len(spec.stdio_tests))
    try:
        template = first_job(spec, runner)
    except CompileRefusedError as error:
        tally.enter(0, Class.COMPILE_ERROR, str(error))
        return tally.result()
    for index, test in enumerate(spec.stdio_tests):
        if clock.is_over():
            tally.enter(index, Class.TIME_LIMIT, "the budget of the whole submission is spent")
            break
        job = replace(template, stdin=test.stdin.encode("utf-8", "surrogatepass"))
        ended, failure = run_timed(job, runner, clock)
        tally.usage = tally.usage.plus(ended.usage)
        verdict, evidence = judge_output(ended, test, failure)
        tally.enter(index, verdict, evidence)
        if verdict in LIMIT_CLASSES or verdict is Class.COMPILE_ERROR:
            break
    return tally.result()


def judge_output(ended: Ended, test: StdioTest, failure: Class | None) -> tuple[Class, str]:
    """The class of one test of mode stdio."""
    if failure is Class.COMPILE_ERROR:
        return failure, compile_message(ended)
    if failure is not None:
        return failure, describe(ended)
    if same_tokens(ended.stdout, test.stdout):
        return Class.ACCEPTED, ""
    return Class.WRONG_ANSWER, f"printed {ended.stdout[:80]!r}"


def run_function(spec: Spec, tests: FunctionTests, runner: Runner, clock: Clock) -> SandboxResult:
    """All cases in one jail; each reply is compared here, in order."""
    tally = Tally(len(tests.cases))
    try:
        template = first_job(spec, runner)
    except CompileRefusedError as error:
        tally.enter(0, Class.COMPILE_ERROR, str(error))
        return tally.result()
    lines = "".join(json.dumps(case.args) + "\n" for case in tests.cases)
    ended, failure = run_timed(replace(template, stdin=lines.encode()), runner, clock)
    tally.usage = ended.usage
    if failure is Class.COMPILE_ERROR:
        tally.enter(0, failure, compile_message(ended))
        return tally.result()
    said = ended.files.get(REPLIES_NAME, b"") if spec.language is Language.CPP else ended.report
    judge_replies(tally, said.split(b"\n"), tests, failure, describe(ended))
    return tally.result()


def judge_replies(
    tally: Tally, replies: list[bytes], tests: FunctionTests, failure: Class | None, end: str
) -> None:
    """One reply a case, each with its end of line, and nothing more."""
    rest = replies.pop()
    for index, case in enumerate(tests.cases):
        if index >= len(replies):
            tally.enter(index, failure or Class.RUNTIME_ERROR, f"no value for this case, {end}")
            return
        tally.enter(index, *judge_reply(replies[index], case))
    if failure is not None or rest or len(replies) > len(tests.cases):
        tally.num_passed = min(tally.num_passed, len(tests.cases) - 1)
        tally.enter(len(tests.cases) - 1, failure or Class.WRONG_ANSWER, f"values for all cases, then {end}")


def judge_reply(line: bytes, case: FunctionCase) -> tuple[Class, str]:
    """The class of one case of mode function."""
    try:
        reply = read_json(line)
    except UnreadableValueError as error:
        return Class.WRONG_ANSWER, f"not a plain value: {error}"
    if not isinstance(reply, dict) or "value" not in reply:
        raised = reply.get("error") if isinstance(reply, dict) else None
        return (Class.RUNTIME_ERROR, short_text(raised)) if raised else (Class.WRONG_ANSWER, "not a reply")
    if same_json(reply["value"], case.expected):
        return Class.ACCEPTED, ""
    return Class.WRONG_ANSWER, f"returned {short_text(reply['value'])}"


def short_text(value: JsonValue) -> str:
    """A value for people, bounded; what strangers sent may nest deeply."""
    try:
        return plain_text(str(value)[:200])
    except (RecursionError, ValueError):
        return f"a {type(value).__name__} that cannot be shown"
