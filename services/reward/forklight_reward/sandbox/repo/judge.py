"""Judges a patch: applies it on text, runs every id by itself, then the sentinels, and gives one class."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from forklight_core.errors import InvalidInputError, UnavailableError
from forklight_reward.sandbox.outcome import plain_text
from forklight_reward.sandbox.repo.diff import ForbiddenPatchError, MalformedPatchError
from forklight_reward.sandbox.repo.patch import apply_answer
from forklight_reward.sandbox.repo.sentinel import make_sentinel
from forklight_reward.sandbox.repo.spec import RepoTests, test_file
from forklight_reward.sandbox.repo.trial import Tree, Trial, base_id, run_ids
from forklight_reward.sandbox.result import Class, SandboxResult, Usage
from forklight_reward.sandbox.runner import Runner
from forklight_reward.sandbox.spec import Limits

MAX_SENTINELS = 8
MAX_TOGETHER = 50
MAX_WALLS = 10
DEADLINE_SLACK_S = 1.0
START_S = 3.0
SLOW = 0.5
"""Of the clock's limit of a run, on the mean."""
EVIDENCE_CHARACTERS = 400


@dataclass(slots=True)
class Progress:
    """What has been seen of one patch so far."""

    runner: Runner
    limits: Limits
    own: Tree
    """The task's tree with its hidden tests, without a patch."""
    deadline: float
    num_ids: int
    own_deadline: float = float("inf")
    num_passed: int = 0
    num_runs: int = 0
    usage: Usage = field(default_factory=Usage)

    def run(self, tree: Tree, ids: Sequence[str]) -> Trial | None:
        """One run, no longer than what is left; None when nothing is."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            return None
        limits = self.limits.model_copy(update={"wall_s": max(0.01, min(self.limits.wall_s, left))})
        trial = run_ids(tree, ids, self.runner, limits, self.own)
        self.usage = self.usage.plus(trial.usage)
        self.num_runs += 1
        return trial

    def end(self, verdict: Class, evidence: str, first_fail: int | None = None) -> SandboxResult:
        """The verdict on the patch."""
        return SandboxResult(
            verdict=verdict,
            num_passed=self.num_passed,
            num_tests=self.num_ids,
            first_fail=first_fail,
            usage=self.usage,
            evidence=plain_text(evidence[:EVIDENCE_CHARACTERS]),
        )

    def too_late(self, first_fail: int | None = None) -> SandboxResult:
        """The budget of the whole submission is spent.

        UnavailableError when it is the caller's that ran out, and not because the runs were slow.
        """
        is_slow = self.usage.wall_s > SLOW * self.limits.wall_s * self.num_runs
        if self.deadline < self.own_deadline and not is_slow:
            raise UnavailableError(
                f"sandbox: the caller's time was over after {self.num_runs} runs of {self.num_ids} ids and "
                "their sentinels: give repository tasks more time (reward.timeout_s) or fewer ids"
            )
        return self.end(Class.TIME_LIMIT, "the budget of the whole submission is spent", first_fail)


def repo_budget_s(tests: RepoTests, limits: Limits) -> float:
    """Seconds that a submission may take: ten whole runs, and the start of each on a busy machine."""
    num_sentinels = min(MAX_SENTINELS, len(set(map(base_id, tests.f2p)))) + 1
    num_runs = len(tests.f2p) + len(tests.p2p) + num_sentinels
    return min(num_runs, MAX_WALLS) * limits.wall_s + START_S * num_runs


def run_repo(tests: RepoTests, answer: str, runner: Runner, limits: Limits, deadline: float) -> SandboxResult:
    """The verdict on an answer. UnavailableError when the sandbox failed, never because of the patch."""
    progress = Progress(
        runner=runner,
        limits=limits,
        own={**tests.files, **tests.hidden},
        deadline=deadline,
        num_ids=len(tests.f2p) + len(tests.p2p),
        own_deadline=time.monotonic() + repo_budget_s(tests, limits) - DEADLINE_SLACK_S,
    )
    if not answer.strip():
        return progress.end(Class.COMPILE_ERROR, "there is no patch")
    try:
        patched = apply_answer(answer, tests.files, tests.protection)
    except ForbiddenPatchError as error:
        return progress.end(Class.VIOLATION, f"patch refused: {error}")
    except MalformedPatchError as error:
        return progress.end(Class.COMPILE_ERROR, f"patch does not apply: {error}")
    result = judge_tree({**patched.tree, **tests.hidden}, tests, progress)
    if patched.ignored and result.verdict is not Class.ACCEPTED:
        kept = ", ".join(patched.ignored[:5])
        return progress.end(
            result.verdict,
            f"{result.evidence[:250]} (kept as the task has it: {kept})",
            result.first_fail,
        )
    return result


def judge_tree(tree: Tree, tests: RepoTests, progress: Progress) -> SandboxResult:
    """Fail-to-pass ids, their sentinels, pass-to-pass ids, theirs; up to the first that is wrong."""
    return (
        judge_ids(tree, tests.f2p, progress, "fail-to-pass")
        or judge_sentinels(f2p_sentinels(tree, tests), progress)
        or judge_ids(tree, tests.p2p, progress, "pass-to-pass")
        or judge_sentinels(p2p_sentinels(tree, tests), progress)
        or progress.end(Class.ACCEPTED, "")
    )


def judge_ids(tree: Tree, ids: Sequence[str], progress: Progress, kind: str) -> SandboxResult | None:
    """None when every id passes."""
    for test_id in ids:
        index = progress.num_passed
        trial = progress.run(tree, [test_id])
        if trial is None:
            return progress.too_late(index)
        if not trial.passed(test_id):
            return progress.end(trial.verdict, f"{kind} {test_id}: {said(trial)}", index)
        progress.num_passed += 1
    return None


def judge_sentinels(
    sentinels: Iterator[tuple[Tree, Sequence[str]]], progress: Progress
) -> SandboxResult | None:
    """None when every sentinel fails, as it must."""
    for tree, ids in sentinels:
        trial = progress.run(tree, ids)
        if trial is None:
            return progress.too_late()
        if not trial.failed(ids):
            return progress.end(
                trial.limit or Class.VIOLATION,
                f"a test that must fail did not fail at {', '.join(ids[:3])}: {said(trial)}",
            )
    return None


def said(trial: Trial) -> str:
    """Why a run is not counted, for people."""
    if trial.limit is not None:
        return f"ran into a limit, {trial.limit}"
    if trial.reports is None:
        return f"ended without a report: {trial.message}"
    outcomes = [
        "expected failure" if report.was_xfail else report.outcome
        for report in trial.reports
        if report.outcome != "passed" or report.was_xfail
    ]
    return f"exit code {trial.exit_code}, {outcomes[0] if outcomes else 'not seen'}: {trial.message}"


def f2p_sentinels(tree: Tree, tests: RepoTests) -> Iterator[tuple[Tree, Sequence[str]]]:
    """Falsified twins of fail-to-pass tests, each by itself and under the name of the true one."""
    by_function = {base_id(test_id): test_id for test_id in tests.f2p}
    chosen = secrets.SystemRandom().sample(sorted(by_function), min(MAX_SENTINELS, len(by_function)))
    for function in chosen:
        yield falsify(tree, [function]), [by_function[function]]


def p2p_sentinels(tree: Tree, tests: RepoTests) -> Iterator[tuple[Tree, Sequence[str]]]:
    """Falsified twins of pass-to-pass tests, all together."""
    by_function = {base_id(test_id): test_id for test_id in tests.p2p}
    others = sorted(by_function.keys() - set(map(base_id, tests.f2p)))
    if others:
        together = secrets.SystemRandom().sample(others, min(MAX_TOGETHER, len(others)))
        # One case of each, which must pass: others may be skipped, or expected to fail.
        yield falsify(tree, together), [by_function[function] for function in together]


def falsify(tree: Tree, functions: Sequence[str]) -> Tree:
    """The tree with some tests made to fail."""
    changed = dict(tree)
    for function in functions:
        path = test_file(function)
        try:
            changed[path] = make_sentinel(changed[path], function)
        except (SyntaxError, ValueError, RecursionError) as error:  # a file of the task, never of the patch
            raise InvalidInputError(f"repository task: {path} cannot be read as Python: {error}") from error
    return changed
