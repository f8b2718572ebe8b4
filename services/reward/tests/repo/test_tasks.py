"""The tasks that come along are tasks, and a task that is none is told apart. In real jails."""

from __future__ import annotations

import pytest

from forklight_core.errors import InvalidInputError, UnavailableError
from forklight_reward.sandbox.repo.check import check_task, limits_of
from forklight_reward.sandbox.repo.judge import run_repo
from forklight_reward.sandbox.repo.patch import apply_answer
from forklight_reward.sandbox.repo.spec import RepoTests
from forklight_reward.sandbox.repo.task import RepoTask, find_task, packaged_names
from forklight_reward.sandbox.result import Class
from forklight_reward.sandbox.runner import Ended, Job, Runner
from services.reward.tests.repo.shop import F2P, FILES, FIX, HIDDEN, LIMITS, P2P, TESTS, diff_of

IN_CI = ("line-diff",)
FIXED_IN_CI = ("intervals", "event-bus")
MARKED = [
    name if name in IN_CI else pytest.param(name, marks=pytest.mark.hostile) for name in packaged_names()
]


def test_there_are_twenty_and_their_fixes_fit() -> None:
    assert len(packaged_names()) == 20
    for name in packaged_names():
        task = find_task(name)
        found = apply_answer(task.fix, task.tests.files, task.tests.protection)
        assert task.id == name
        assert found.tree != task.tests.files
        assert not found.ignored
        assert task.tests.f2p
        assert task.tests.p2p


def test_neither_prompt_nor_spec_gives_anything_away() -> None:
    for name in packaged_names():
        task = find_task(name)
        prompt, spec = task.prompt(), str(task.spec())
        assert task.issue.strip() in prompt
        assert not any(text in prompt for text in task.tests.hidden.values() if text)
        added = [line[1:] for line in task.fix.splitlines() if line.startswith("+") and len(line) > 20]
        assert not any(line in spec and line not in str(task.tests.files) for line in added[1:]), name


@pytest.mark.parametrize("name", MARKED)
def test_a_task_is_proven(name: str, runner: Runner) -> None:
    assert check_task(find_task(name), runner).problems == ()


@pytest.mark.parametrize("name", FIXED_IN_CI)
def test_the_known_fix_is_rewarded(name: str, runner: Runner) -> None:
    task = find_task(name)
    found = run_repo(task.tests, task.fix, runner, limits_of(task), float("inf"))
    assert (found.verdict, found.num_passed) == (Class.ACCEPTED, found.num_tests), found


def test_what_is_no_task_is_told(runner: Runner) -> None:
    tests = RepoTests(files=FILES, hidden=HIDDEN, f2p=P2P[:1], p2p=F2P)
    task = RepoTask(id="swapped", issue="x", fix=diff_of({"shop/notes.md": "x\n"}), tests=tests)
    problems = "\n".join(check_task(task, runner).problems)
    assert f"fail-to-pass {P2P[0]} passes without a patch" in problems
    assert f"pass-to-pass {F2P[0]} does not pass without a patch" in problems
    assert "with the known fix: WA" in problems


class FailingRunner:
    """Real jails, but how each run ended comes back changed: what infrastructure does when it fails."""

    def __init__(self, runner: Runner, exit_code: int, stdout: bytes) -> None:
        self._runner, self._exit_code, self._stdout = runner, exit_code, stdout
        self.version, self.tier = runner.version, runner.tier

    def run(self, job: Job) -> Ended:
        ended = self._runner.run(job)
        return Ended(
            exit_code=self._exit_code, broke=None, stdout=self._stdout, stderr=b"", report=b"",
            usage=ended.usage,
        )  # fmt: skip

    def close(self) -> None:
        """Nothing is held."""


@pytest.mark.parametrize(("exit_code", "stdout"), [(1, b""), (137, b""), (3, b"ready\n")])
def test_a_broken_harness_is_no_verdict(exit_code: int, stdout: bytes, runner: Runner) -> None:
    with pytest.raises(UnavailableError):
        run_repo(TESTS, FIX, FailingRunner(runner, exit_code, stdout), LIMITS, float("inf"))


def test_the_callers_deadline_is_no_verdict(runner: Runner) -> None:
    with pytest.raises(UnavailableError, match="caller's time"):
        run_repo(TESTS, FIX, runner, LIMITS, 0.0)


@pytest.mark.parametrize("name", ["nothing", "nothing.toml", "../x"])
def test_unknown_tasks(name: str) -> None:
    with pytest.raises(InvalidInputError):
        find_task(name)
