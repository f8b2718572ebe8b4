"""Proves that a task is one: without a patch its fault shows and nothing else, with the fix all is well."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pydantic import ValidationError

from forklight_core.errors import InvalidInputError
from forklight_reward.sandbox.repo.judge import repo_budget_s, run_repo, said
from forklight_reward.sandbox.repo.task import LIMITS, RepoTask
from forklight_reward.sandbox.repo.trial import run_ids
from forklight_reward.sandbox.result import Class
from forklight_reward.sandbox.runner import Runner
from forklight_reward.sandbox.spec import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCheck:
    """What was found; no problem means that the task may be used."""

    task_id: str
    problems: tuple[str, ...]
    num_runs: int
    wall_s: float


def limits_of(task: RepoTask) -> Limits:
    """The limits of one run."""
    try:
        return Limits.model_validate({**LIMITS, **task.limits})
    except ValidationError as error:
        raise InvalidInputError(f"task {task.id}: limits: {error.errors()[0]['msg']}") from error


def check_task(task: RepoTask, runner: Runner) -> TaskCheck:
    """Run every id without a patch, then judge the fix. UnavailableError when the sandbox failed."""
    started, limits, tests = time.monotonic(), limits_of(task), task.tests
    tree, problems = {**tests.files, **tests.hidden}, []
    for test_id in tests.f2p:
        trial = run_ids(tree, [test_id], runner, limits)
        if trial.passed(test_id):
            problems.append(f"fail-to-pass {test_id} passes without a patch")
        elif trial.limit is not None:
            problems.append(f"fail-to-pass {test_id} without a patch {said(trial)}")
    for test_id in tests.p2p:
        trial = run_ids(tree, [test_id], runner, limits)
        if not trial.passed(test_id):
            problems.append(f"pass-to-pass {test_id} does not pass without a patch: {said(trial)}")
    deadline = time.monotonic() + repo_budget_s(tests, limits)
    mended = run_repo(tests, task.fix, runner, limits, deadline)
    if mended.verdict is not Class.ACCEPTED:
        problems.append(f"with the known fix: {mended.verdict}, {mended.evidence}")
    return TaskCheck(
        task_id=task.id,
        problems=tuple(problems),
        num_runs=2 * (len(tests.f2p) + len(tests.p2p)),
        wall_s=time.monotonic() - started,
    )
