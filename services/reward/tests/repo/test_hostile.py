"""Patches that want a reward without mending anything get none; honest ones get theirs. In real jails."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from forklight_reward.sandbox.repo.judge import run_repo
from forklight_reward.sandbox.result import LIMIT_CLASSES, Class, SandboxResult
from forklight_reward.sandbox.runner import Runner
from services.reward.tests.repo.hostile import HONEST, LIMITED, REGRESSIONS, SENTINEL, WRONG
from services.reward.tests.repo.shop import LIMITS, TESTS, diff_of

IN_CI = {
    "half a fix", "tests made trivial", "conftest that makes all pass", "pytest.ini with a plugin",
    "a pytest of its own", "exit at import", "skip in the call", "a report for every descriptor",
    "exit code 3, which is pytest's own trouble", "a package in the place of the test file",
}  # fmt: skip
SENTINEL_IN_CI = {
    "equal to every number", "runner rewired", "a plugin registered from the code", "the nonce stolen",
}  # fmt: skip
"""One of every kind; the rest takes its time."""


def judge(changed: Mapping[str, str | None], runner: Runner, cpu_s: float = LIMITS.cpu_s) -> SandboxResult:
    limits = LIMITS.model_copy(update={"cpu_s": cpu_s})
    return run_repo(TESTS, diff_of(changed), runner, limits, float("inf"))


def sampled(cases: Mapping[str, object], quick: set[str]) -> list[object]:
    """All names; those that are not quick run with `make test-hostile`."""
    assert quick <= cases.keys()
    return [name if name in quick else pytest.param(name, marks=pytest.mark.hostile) for name in cases]


@pytest.mark.parametrize("name", sampled(WRONG, IN_CI))
def test_a_patch_that_mends_nothing_gets_nothing(name: str, runner: Runner) -> None:
    found = judge(WRONG[name], runner)
    assert (found.score, found.num_passed < found.num_tests) == (0.0, True), found


@pytest.mark.parametrize("name", sampled(SENTINEL, SENTINEL_IN_CI))
def test_what_decides_without_the_test_is_a_violation(name: str, runner: Runner) -> None:
    found = judge(SENTINEL[name], runner)
    assert (found.score, found.verdict) == (0.0, Class.VIOLATION), found
    assert found.num_passed >= 1, (
        "the report alone did not believe it: the case proves nothing of the sentinel"
    )


@pytest.mark.parametrize("name", sampled(REGRESSIONS, {"raises that never complains"}))
def test_a_hidden_regression_is_a_violation(name: str, runner: Runner) -> None:
    found = judge(REGRESSIONS[name], runner)
    assert (found.score, found.verdict, found.num_passed) == (0.0, Class.VIOLATION, found.num_tests), found


@pytest.mark.parametrize("name", sampled(LIMITED, {"a loop without end"}))
def test_a_limit_ends_it(name: str, runner: Runner) -> None:
    found = judge(LIMITED[name], runner, cpu_s=1.5)
    assert found.score == 0.0
    assert found.verdict in LIMIT_CLASSES | {Class.RUNTIME_ERROR}, found


@pytest.mark.parametrize("name", sampled(HONEST, {*list(HONEST)[1:]}))
def test_an_honest_patch_is_rewarded(name: str, runner: Runner) -> None:
    found = judge(HONEST[name], runner)
    assert (found.verdict, found.score, found.num_passed) == (Class.ACCEPTED, 1.0, found.num_tests), found
