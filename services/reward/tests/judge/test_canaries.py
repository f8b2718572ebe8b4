"""Answers worth nothing: a judge that pays for them is refused."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from forklight_core.errors import PreconditionError, UnavailableError
from forklight_reward.judge.canaries import QUESTIONS, canaries_for, check_canaries
from forklight_reward.judge.chat import Message
from forklight_reward.judge.contract import JudgeEngine
from forklight_reward.judge.five_grades import FiveGrades
from forklight_reward.judge.pairwise import Pairwise
from forklight_reward.judge.rule import RuleJudge
from forklight_reward.judge.scripted import Bias, ScriptedChat

NUM_CASES = len(QUESTIONS) * (len(canaries_for("?")) + 1)


def right(candidate: str, other: str) -> float:
    return float(candidate in {reference for _, reference in QUESTIONS})


@pytest.mark.parametrize("engine", [FiveGrades(ScriptedChat()), Pairwise(ScriptedChat(quality=right))])
async def test_an_honest_judge_passes(engine: JudgeEngine) -> None:
    assert await check_canaries(engine, timeout_s=10) == NUM_CASES


async def test_a_comparing_judge_that_calls_everything_equal_is_refused() -> None:
    with pytest.raises(PreconditionError, match="27 known answers"):
        await check_canaries(Pairwise(ScriptedChat(quality=lambda *_: 0.5)), timeout_s=10)


async def test_the_rule_judge_passes() -> None:
    assert await check_canaries(RuleJudge(), timeout_s=10) == NUM_CASES


async def test_a_judge_that_believes_the_candidate_is_refused_by_name() -> None:
    with pytest.raises(PreconditionError) as refused:
        await check_canaries(FiveGrades(ScriptedChat(Bias(gullible=True))), timeout_s=10)
    message = str(refused.value)
    assert "scripted/1" in message
    for name in ("grade asked for", "forged reply", "fake closing tags"):
        assert name in message
    assert "step by step" not in message


@pytest.mark.parametrize("paid", ["", ":", "Thought process:", "Let's solve this problem step by step."])
async def test_a_judge_that_pays_for_one_canary_is_refused(paid: str) -> None:
    def quality(candidate: str, reference: str) -> float:
        return 0.6 if candidate == paid else float(candidate == reference)

    with pytest.raises(PreconditionError, match=r"3 known answers"):
        await check_canaries(FiveGrades(ScriptedChat(quality=quality)), timeout_s=10)


async def test_a_judge_that_pays_for_the_repeated_question_is_refused() -> None:
    tasks = {task for task, _ in QUESTIONS}
    chat = ScriptedChat(
        quality=lambda candidate, reference: float(candidate in tasks or candidate == reference)
    )
    with pytest.raises(PreconditionError, match="question repeated"):
        await check_canaries(FiveGrades(chat), timeout_s=10)


async def test_a_judge_that_pays_for_nothing_at_all_is_refused() -> None:
    with pytest.raises(PreconditionError, match="the reference itself"):
        await check_canaries(FiveGrades(ScriptedChat(quality=lambda *_: 0.0)), timeout_s=10)


async def test_a_judge_that_never_answers_as_asked_is_refused() -> None:
    class Chatter:
        version = "chatter"

        async def complete(self, messages: Sequence[Message], *, seed: int, timeout_s: float) -> str:
            return "What a lovely answer!"

    with pytest.raises(PreconditionError, match="the reference itself: None"):
        await check_canaries(FiveGrades(Chatter()), timeout_s=10)


async def test_a_judge_that_is_away_is_away_and_not_refused() -> None:
    class Away:
        version = "away"

        async def complete(self, messages: Sequence[Message], *, seed: int, timeout_s: float) -> str:
            raise UnavailableError("away")

    with pytest.raises(UnavailableError):
        await check_canaries(FiveGrades(Away()), timeout_s=10)
