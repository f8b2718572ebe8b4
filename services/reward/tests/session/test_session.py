"""Sessions in real jails: what a command sees, what stays of it, and what it comes to as a patch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forklight_core.errors import InvalidInputError, UnavailableError
from forklight_core.wire import Session
from forklight_reward.sandbox.jail_runner import open_jail_runner
from forklight_reward.sandbox.repo.patch import apply_answer
from forklight_reward.sandbox.repo.paths import protect
from forklight_reward.sandbox.result import Class
from forklight_reward.sandbox.runner import Ended, Job, Runner, Tier
from forklight_reward.sandbox.session.play import Sessions
from forklight_reward.sandbox.session.tree import changes_between, fenced

FILES = {"src/sums.py": "def total(numbers):\n    return sum(numbers[1:])\n", "NOTES": "no newline"}
WORKSPACE = json.dumps(FILES)
TIMEOUT_S = 20.0


class Counting:
    """Port Runner: the jails of this machine, counted."""

    tier, version = Tier.JAIL, "test"

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.num_jobs = 0
        self.is_away = False

    def run(self, job: Job) -> Ended:
        self.num_jobs += 1
        if self.is_away:
            raise UnavailableError("no jail")
        return self._runner.run(job)

    def close(self) -> None:
        self._runner.close()


@pytest.fixture(scope="module")
def runner() -> Iterator[Counting]:
    try:
        counting = Counting(open_jail_runner())
    except UnavailableError as error:
        pytest.skip(str(error))
    yield counting
    counting.close()


def session(*commands: str, timeout_s: float = TIMEOUT_S) -> Session:
    return Session(commands=commands, timeout_s=timeout_s)


def test_a_command_sees_what_those_before_it_left(runner: Counting) -> None:
    sessions, before = Sessions(runner), runner.num_jobs
    edit = "sed -i 's/.1:.//' src/sums.py && mkdir new && printf 2 > new/x && echo t > /tmp/t && rm NOTES"
    look = "cat src/sums.py new/x; ls -a . /tmp; exit 3"
    assert sessions.act(WORKSPACE, session(edit)).failure is None
    run = sessions.act(WORKSPACE, session(edit, look))
    assert run.failure is Class.RUNTIME_ERROR
    assert (
        run.stdout
        == b"def total(numbers):\n    return sum(numbers)\n2.:\n.\n..\nnew\nsrc\n\n/tmp:\n.\n..\nwork\n"
    )
    assert runner.num_jobs - before == 2
    patch = sessions.patch(WORKSPACE, session(edit, look))
    assert runner.num_jobs - before == 2  # it was known
    assert Sessions(runner).patch(WORKSPACE, session(edit, look)) == patch  # a sandbox that knows nothing
    assert runner.num_jobs - before == 4
    patched = apply_answer(fenced(patch), FILES, protect(FILES, {}, []))
    assert patched.tree == {
        "src/sums.py": "def total(numbers):\n    return sum(numbers)\n",
        "new/x": "2",
    }


def test_a_command_that_breaks_a_limit_changes_nothing(runner: Counting) -> None:
    sessions = Sessions(runner)
    slow = session("echo x > made; sleep 60", timeout_s=0.5)
    assert sessions.act(WORKSPACE, slow).failure is Class.TIME_LIMIT
    assert sessions.patch(WORKSPACE, slow) == ""
    loud = session("echo x > made; yes")
    assert sessions.act(WORKSPACE, loud).failure is Class.OUTPUT_LIMIT
    assert sessions.patch(WORKSPACE, loud) == ""


def test_what_is_no_plain_file_of_the_folder_does_not_stay(runner: Counting) -> None:
    hostile = (
        "ln -s /etc/passwd link; mkfifo pipe; mkdir .git __pycache__; echo x > .git/config; "
        "echo x > __pycache__/a.pyc;"
        "ln -s / root; echo x > ../outside; printf '\\377\\376' > bytes; python3 -c \"open('a\\nb', 'w')\""
    )
    assert Sessions(runner).act(WORKSPACE, session(hostile)).failure is None
    assert Sessions(runner).patch(WORKSPACE, session(hostile)) == ""


def test_a_jail_that_is_away_is_no_answer(runner: Counting) -> None:
    sessions = Sessions(runner)
    runner.is_away = True
    try:
        with pytest.raises(UnavailableError):
            sessions.act(WORKSPACE, session("echo 1 > a"))
    finally:
        runner.is_away = False
    assert "a" in sessions.patch(WORKSPACE, session("echo 1 > a"))


@pytest.mark.parametrize(
    ("workspace", "wrong", "problem"),
    [
        ("{", session("ls"), "not JSON"),
        ('{"a": 1}', session("ls"), "object of path to text"),
        ('{"../a": ""}', session("ls"), "'..'"),
        ("{}", session(), "no command"),
        ("{}", session("a\0b"), "NUL"),
        ("{}", session("ls", timeout_s=0.0), "timeout_s"),
        ("{}", session(*["ls"] * 1001), "at most 1000"),
    ],
)
def test_impossible_sessions_are_refused(
    runner: Counting, workspace: str, wrong: Session, problem: str
) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        Sessions(runner).act(workspace, wrong)


def test_an_empty_workspace_is_a_folder_too(runner: Counting) -> None:
    made = session("echo 1 > a")
    assert Sessions(runner).act("{}", made).failure is None
    assert "+++ b/a\n" in Sessions(runner).patch("{}", replace(made, timeout_s=19.0))


TEXT = st.text(st.sampled_from('ab \n\r\t~`+-@\\"\x0c\u2028\u00e9'), max_size=40)
TREES = st.dictionaries(st.sampled_from(["a", "b/c", "d e", 'q"x', "\u00e9/f.py"]), TEXT, max_size=4)


@settings(deadline=None, max_examples=150)
@given(before=TREES, after=TREES)
def test_changes_give_the_folder_when_applied(before: dict[str, str], after: dict[str, str]) -> None:
    encoded = [{path: text.encode() for path, text in tree.items()} for tree in (before, after)]
    patch = changes_between(*encoded)
    assert (patch == "") == (before == after)
    if patch:
        assert apply_answer(fenced(patch), before, protect(before, {}, [])).tree == after
