"""Runs test ids against one tree in one fresh place, and reads what came of them, trusting little."""

from __future__ import annotations

import marshal
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forklight_core.errors import UnavailableError
from forklight_reward.sandbox.compare import UnreadableValueError, read_json
from forklight_reward.sandbox.outcome import describe, failure_class
from forklight_reward.sandbox.repo import harness
from forklight_reward.sandbox.repo.spec import test_file
from forklight_reward.sandbox.result import LIMIT_CLASSES, Class, Usage
from forklight_reward.sandbox.runner import Ended, Job, JobKind, Runner
from forklight_reward.sandbox.spec import Limits

READY = b"ready\n"
MARSHAL_FORMAT = 2
PHASES = ("setup", "call", "teardown")
INTERNAL_ERROR = 3
Tree = Mapping[str, str]
CONTROL = {"test_control.py": "def test_control():\n    assert 6 * 7 == 42\n"}
CONTROL_ID = "test_control.py::test_control"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One phase of one test, as the jail tells it."""

    node: str
    phase: str
    outcome: str
    was_xfail: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What came of a run of ids."""

    exit_code: int
    limit: Class | None
    """The limit that the run broke."""
    reports: tuple[Report, ...] | None
    """None: it ended without one, or what it wrote is no report of the driver."""
    message: str
    usage: Usage

    def passed(self, test_id: str) -> bool:
        """Exit code 0 and three phases of this one test, all passed: no skip, no expected failure."""
        reports = self.reports or ()
        own = [report for report in reports if report.node == test_id]
        return (
            self.exit_code == 0
            and len(own) == len(reports)
            and [report.phase for report in own if report.phase != "call"] == ["setup", "teardown"]
            and any(report.phase == "call" for report in own)
            and all(report.outcome == "passed" and not report.was_xfail for report in own)
        )

    def failed(self, test_ids: Sequence[str]) -> bool:
        """Exit code 1 and the call of every one of these tests failed; parts of it (subtests) may pass."""
        calls = {report.node: report for report in self.reports or () if report.phase == "call"}
        return (
            self.exit_code == 1
            and calls.keys() == set(test_ids)
            and all(report.outcome == "failed" and not report.was_xfail for report in calls.values())
        )

    @property
    def verdict(self) -> Class:
        """The class of a test that did not pass."""
        if self.limit is not None:
            return self.limit
        return Class.WRONG_ANSWER if 0 <= self.exit_code <= 5 else Class.RUNTIME_ERROR


def base_id(test_id: str) -> str:
    """An id without its case."""
    return test_id.partition("[")[0]


def run_ids(
    tree: Tree, test_ids: Sequence[str], runner: Runner, limits: Limits, own: Tree | None = None
) -> Trial:
    """Run ids together in one process; nothing else of the tree's tests is collected.

    `own` is the task's own tree, where `tree` has been changed by somebody else.
    UnavailableError when the harness itself or the task's tree did not work: nobody gets a verdict from that.
    """
    trial = attempt(tree, test_ids, runner, limits, tree if own is None else own)
    if trial.exit_code == INTERNAL_ERROR and not attempt(
        CONTROL, [CONTROL_ID], runner, limits, CONTROL
    ).passed(CONTROL_ID):
        raise UnavailableError(f"sandbox: pytest fails on a test of our own too: {trial.message}")
    return trial


def attempt(tree: Tree, test_ids: Sequence[str], runner: Runner, limits: Limits, own: Tree) -> Trial:
    """One job. What differs from the task's own tree is read only when the jail is up."""
    nonce = secrets.token_hex(16)
    task = {
        "modules": harness.packed_modules(),
        "magic": harness.magic(),
        "options": harness.options(),
        "tree": dict(own),
        "paths": import_paths(tree, test_ids),
        "ids": list(test_ids),
        "nonce": nonce,
    }
    changes: dict[str, str | None] = {path: None for path in own if path not in tree}
    changes |= {path: text for path, text in tree.items() if own.get(path) != text}
    stdin = marshal.dumps(task, MARSHAL_FORMAT) + marshal.dumps(changes, MARSHAL_FORMAT)
    job = Job(kind=JobKind.PROGRAM, source=harness.driver_source(), stdin=stdin, limits=limits)
    ended = runner.run(job)
    if not ended.stdout.startswith(READY):
        raise UnavailableError(
            "sandbox: pytest did not start, before any file of the answer was there "
            f"({ended.broke or describe(ended)}); limits of a repository task need about 1 s and 128 MiB more"
        )
    return read_trial(ended, nonce, limits)


def import_paths(tree: Tree, test_ids: Sequence[str]) -> list[str]:
    """Where modules are imported from: the tree, its src folder, folders of tests that are no packages."""
    paths = ["", *(["src"] if any(path.startswith("src/") for path in tree) else [])]
    for test_id in test_ids:
        folder = test_file(test_id).rpartition("/")[0]
        if folder and f"{folder}/__init__.py" not in tree:
            paths.append(folder)
    return list(dict.fromkeys(paths))


def read_trial(ended: Ended, nonce: str, limits: Limits) -> Trial:
    """The report must be the one line after `ready`, with the job's own nonce; else there is none."""
    failure = failure_class(ended, limits)
    trial = Trial(
        exit_code=ended.exit_code,
        limit=failure if failure in LIMIT_CLASSES else None,
        reports=None,
        message=describe(ended),
        usage=ended.usage,
    )
    lines = ended.stdout.removeprefix(READY).split(b"\n")
    if failure in LIMIT_CLASSES or len(lines) != 2 or lines[1]:
        return trial
    try:
        line = read_json(lines[0])
        if not isinstance(line, list) or len(line) != 4 or line[0] != nonce or line[1] != ended.exit_code:
            return trial
        reports, message = read_reports(line[2]), str(line[3])[:300]
    except (UnreadableValueError, TypeError, ValueError, RecursionError):
        return trial
    return Trial(
        exit_code=ended.exit_code,
        limit=None,
        reports=reports,
        message=message,
        usage=ended.usage,
    )


def read_reports(items: object) -> tuple[Report, ...]:
    """All reports of a run."""
    if not isinstance(items, list):
        raise TypeError("reports are a list")
    return tuple(map(read_report, items))


def read_report(item: object) -> Report:
    """One report of four plain values."""
    if not isinstance(item, list) or len(item) != 4:
        raise ValueError("a report has four fields")
    return Report(node=str(item[0]), phase=str(item[1]), outcome=str(item[2]), was_xfail=bool(item[3]))
