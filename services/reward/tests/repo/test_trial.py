"""What the jail of a repository run says of it, and who answers for one that does not come up."""

from __future__ import annotations

import pytest

from forklight_core.errors import UnavailableError
from forklight_reward.sandbox.repo.judge import Progress, p2p_sentinels, run_repo
from forklight_reward.sandbox.repo.spec import RepoTests
from forklight_reward.sandbox.repo.trial import Report, Trial, run_ids
from forklight_reward.sandbox.result import Class, Usage
from forklight_reward.sandbox.runner import Runner
from services.reward.tests.repo.shop import FILES, FIX, HIDDEN, LIMITS, TESTS

COPY = "diff --git a/big b/copy\nsimilarity index 100%\ncopy from big\ncopy to copy\n"
STARTS_OTHERS = """
import subprocess, sys, unittest
class TestRun(unittest.TestCase):
    def test_parts(self):
        for words in (["-m", "shop"], ["run.py"]):
            with self.subTest(words=words):
                said = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
                self.assertEqual(said.stdout, "2.00 EUR\\n")
"""
PROGRAM = "from shop.price import label\nprint(label(2))\n"


def trial_of(*reports: tuple[str, str], code: int = 1) -> Trial:
    kept = tuple(
        Report(node=node, phase="call", outcome=outcome, was_xfail=False) for node, outcome in reports
    )
    return Trial(exit_code=code, limit=None, reports=kept, message="", usage=Usage())


def test_a_sentinel_with_parts_that_pass_has_failed_when_the_whole_fails() -> None:
    assert trial_of(("t.py::a", "passed"), ("t.py::a", "failed")).failed(["t.py::a"])
    assert not trial_of(("t.py::a", "failed"), ("t.py::a", "passed")).failed(["t.py::a"])
    assert not trial_of(("t.py::a", "failed")).failed(["t.py::a", "t.py::b"])
    assert not trial_of(("t.py::a", "failed"), code=0).failed(["t.py::a"])


def test_sentinels_of_pass_to_pass_ids_run_for_cases_that_must_pass() -> None:
    body = "import pytest\n@pytest.mark.parametrize('n', [1, 2])\ndef test_n(n):\n    assert n\n"
    ids = ["test_a.py::test_n[1]"]
    tests = RepoTests(files={"test_a.py": body}, f2p=["test_a.py::test_f"], p2p=ids)
    assert [asked for _, asked in p2p_sentinels(tests.files, tests)] == [ids]


def test_a_patch_that_does_not_fit_on_the_disk_is_its_authors_fault(runner: Runner) -> None:
    """But a task that does not is nobody's wrong answer."""
    limits = LIMITS.model_copy(update={"disk_mb": 1})
    tests = TESTS.model_copy(update={"files": FILES | {"big": "x" * 600_000}})
    found = run_repo(tests, COPY, runner, limits, float("inf"))
    assert (found.verdict, found.score) == (Class.WRONG_ANSWER, 0.0), found
    large = TESTS.model_copy(update={"files": FILES | {"big": "x" * 1_200_000}})
    with pytest.raises(UnavailableError, match="did not start"):
        run_repo(large, FIX, runner, limits, float("inf"))


def test_interpreters_that_a_test_starts_find_the_tree(runner: Runner) -> None:
    tree = FILES | HIDDEN | {"test_run.py": STARTS_OTHERS, "shop/__main__.py": PROGRAM, "run.py": PROGRAM}
    trial = run_ids(tree, ["test_run.py::TestRun::test_parts"], runner, LIMITS)
    assert trial.passed("test_run.py::TestRun::test_parts"), trial


def test_what_a_patch_takes_away_is_gone(runner: Runner) -> None:
    body = "import os\ndef test_gone():\n    assert sorted(os.listdir('.')) == ['b', 't.py']\n"
    own = {"a/deep/x.py": "", "b/y.py": "", "t.py": body}
    tree = {"b/y.py": "", "t.py": body}
    assert run_ids(tree, ["t.py::test_gone"], runner, LIMITS, own).passed("t.py::test_gone")


def test_evidence_has_no_half_characters(runner: Runner) -> None:
    progress = Progress(runner=runner, limits=LIMITS, own={}, deadline=0, num_ids=1)
    progress.end(Class.WRONG_ANSWER, "half \ud800").evidence.encode()
