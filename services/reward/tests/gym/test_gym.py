"""Items of reasoning-gym: made here, scored in jails; what an answer runs, it runs there."""

from __future__ import annotations

import importlib.metadata
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from forklight.v1 import types_pb2
from forklight_core.errors import InvalidInputError, UnavailableError
from forklight_core.wire import SCHEMA_VERSION, Session
from forklight_reward.front.reward import RewardPolicy
from forklight_reward.gym import catalogue
from forklight_reward.gym.guard import find_program
from forklight_reward.gym.item import GymItem, is_gym, make_item, read_item, wrap_spec
from forklight_reward.gym.score import run_scorer, score_answer
from forklight_reward.ports import Outcome, Part, Status
from forklight_reward.rehearsal import TaskMaker, local_scorer
from forklight_reward.sandbox.jail_runner import open_jail_runner
from forklight_reward.sandbox.result import Class
from forklight_reward.sandbox.runner import Ended, Job, Runner, Tier

UNMADE = GymItem(task="n_queens", seed=1, entry={"question": "q", "answer": "a"})


@pytest.fixture(scope="module")
def item() -> GymItem:
    """Of a task whose scorer evaluates what it is given."""
    pytest.importorskip("reasoning_gym", reason="the extra logic-rg is not installed")
    return make_item("n_queens", 3)


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    made = open_jail_runner()
    yield made
    made.close()


def right(item: GymItem) -> str:
    answer = item.entry["answer"]
    assert isinstance(answer, str)
    return answer


def test_the_gyms_own_scorer_decides_in_a_jail(item: GymItem, runner: Runner) -> None:
    assert score_answer(item, right(item), runner).verdict is Class.ACCEPTED
    assert score_answer(item, right(item)[::-1] + " Q", runner).verdict is Class.WRONG_ANSWER


def test_text_that_passes_every_guard_runs_in_the_jail_and_forges_nothing(
    item: GymItem, runner: Runner, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    marker = tmp_path / "was-here"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        attempts = [
            f"open({str(marker)!r}, 'w')",
            f"__import__('socket').create_connection(('127.0.0.1', {port}), 1)",
        ]
        tries = ",".join(f"(lambda: {each})" for each in attempts)
        says = "__import__('json').dumps({'score': 1.0, 'nonce': '0' * 32})"
        program = (
            "[__import__('builtins').exec('try: f()\\nexcept OSError: pass', {'f': f}) "
            f"for f in ({tries},)]"
            f" and print({says}) or __import__('os')._exit(0)"
        )
        result = run_scorer(item, program, runner)
        listener.settimeout(0.0)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert not marker.exists()
    assert (result.verdict, result.score) == (Class.RUNTIME_ERROR, 0.0)  # it ran, and ended with exit code 0
    assert "exit code 0" in result.evidence


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('id')",
        "().__class__",
        "exit()",
        "print (1)",
        "[open][0]('x')",
        "(lambda: 1)()",
        "'exi' + 't(' + ')'",
        "sin('()')",
        "f'{exit()}'",
        "'\\x65xit\\x28\\x29'",
        "x.is_real",
        "x. is_real",
        "[c for c in 'ab']",
        "\uff45xit()",
        "1;2",
        "a@b",
        "x" * 5000,
    ],
)
def test_guard_refuses_what_could_be_a_program(text: str) -> None:
    assert find_program(text)


@pytest.mark.parametrize(
    "text",
    [
        "_ Q _\nQ _ _",
        "[[0, 1], [1, 0]]",
        "['A', 'B']",
        "x**2 + 3*x*sin(x) + C",
        "(3 + 5)*2/7 - 1",
        "-1.5*log(x)",
    ],
)
def test_guard_lets_data_and_formulas_through(text: str) -> None:
    assert find_program(text) == ""


class NoRunner:
    """Port Runner that nobody may ask to run anything."""

    version = "none"
    tier = Tier.JAIL

    def run(self, job: Job) -> Ended:
        raise AssertionError("something was run")

    def close(self) -> None:
        """Nothing is held."""


def test_program_is_refused_before_any_jail(item: GymItem) -> None:
    assert score_answer(item, "__import__('os')._exit(0)", NoRunner()).verdict is Class.WRONG_ANSWER


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(catalogue, "version", is_missing)
    catalogue.package_folder.cache_clear()
    try:
        with pytest.raises(UnavailableError, match="logic-rg"):
            make_item("n_queens", 1)
        with pytest.raises(UnavailableError, match="logic-rg"):
            score_answer(UNMADE, "x", NoRunner())
    finally:
        catalogue.package_folder.cache_clear()


def test_weaker_tiers_than_a_jail_score_nothing(item: GymItem) -> None:
    weak = NoRunner()
    weak.tier = Tier.PROCESS
    with pytest.raises(UnavailableError, match="tier jail"):
        score_answer(item, right(item), weak)


@pytest.mark.parametrize("task", ["game_of_life_halting", "graph_color", "knight_swap", "../x"])
def test_tasks_that_cannot_be_trusted_are_refused(task: str) -> None:
    with pytest.raises(InvalidInputError, match="gym task"):
        make_item(task, 1)


def test_specification_is_read_strictly(item: GymItem) -> None:
    wrapped = wrap_spec(json.dumps(item.spec()))
    assert is_gym(wrapped)
    assert read_item(wrapped) == item
    for broken in (
        "",
        "{}",
        "[1]",
        json.dumps({**item.spec(), "release": "9"}),
        json.dumps({**item.spec(), "task": "composite"}),
    ):
        with pytest.raises(InvalidInputError, match="gym"):
            read_item(wrap_spec(broken))


class SandboxThatScores:
    """Port Sandbox: right when the source is the item's own answer."""

    async def execute(
        self,
        *,
        envelope: types_pb2.Envelope,
        spec_json: str,
        source: str,
        session: Session | None,
        timeout_s: float,
    ) -> Outcome:
        is_right = source == read_item(spec_json).entry["answer"]
        status = Status.OK if is_right else Status.WRONG
        return Outcome(
            status=status,
            parts={Part.CORRECT: float(is_right)},
            evidence="",
            worker="sandbox",
            worker_version="1",
        )


async def test_kind_gym_goes_to_the_sandbox_and_a_broken_item_is_nobodys_wrong_answer(
    item: GymItem, tasks: TaskMaker
) -> None:
    scorer = local_scorer(tasks, sandbox=SandboxThatScores(), policy=RewardPolicy(format_weight=0.5))

    async def score(text: str, spec_json: str) -> types_pb2.Verdict:
        spec = types_pb2.TaskSpec(schema_version=SCHEMA_VERSION, kind="gym", prompt="p", spec_json=spec_json)
        return await scorer.score_task(tasks.task(text, spec=spec), attempt=1)

    written = json.dumps(item.spec())
    assert (await score(f"<think>a</think>\\boxed{{{right(item)}}}", written)).score == 1.5
    assert (await score("<think>a</think>\\boxed{x}", written)).score == 0.0
    assert (await score("<think>a</think>nothing", written)).score == 0.0
    broken = await score(f"<think>a</think>\\boxed{{{right(item)}}}", "")
    assert broken.status == types_pb2.VERDICT_STATUS_INFRA_ERROR
    assert not broken.HasField("score")
