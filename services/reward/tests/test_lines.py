"""Bounded lines and their hints, other addresses for other tries, nothing begun that cannot be done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forklight.v1 import reward_pb2, reward_pb2_grpc, types_pb2
from forklight_core.errors import BusyError, ForklightError, UnavailableError
from forklight_core.retry import retry_async
from forklight_core.rpc import Registration, open_channel, serve
from forklight_reward import app
from forklight_reward.adapters.memory import LocalJudge, LocalVerifier
from forklight_reward.front.attempts import Attempts
from forklight_reward.front.fleet import fleet_of
from forklight_reward.front.keys import Content
from forklight_reward.front.lanes import Lanes, WorkClass, class_of
from forklight_reward.front.scorer import Scorer
from forklight_reward.judge.rule import RuleJudge
from forklight_reward.ports import Outcome, Status
from forklight_reward.rehearsal import NoSandbox, TaskMaker, local_scorer, math_spec, spec_of
from forklight_reward.servicer import RewardServicer
from forklight_reward.slots import Line, Slots

RIGHT = r"<think>6 * 7</think> \boxed{42}"


async def test_a_line_says_when_to_come_back_and_begins_nothing_too_late() -> None:
    line = Line(2, name="test", max_waiting=2)
    for _ in range(3):
        async with line.hold():
            await asyncio.sleep(0.1)
    async with line.hold(), line.hold():
        assert 0.03 < line.expected_wait_s < 0.2
        with pytest.raises(BusyError, match="the wait is about") as caught:
            async with line.hold(0.001):
                pass
        assert caught.value.retry_after_s == pytest.approx(line.expected_wait_s, rel=0.01)
        waiting = [asyncio.create_task(line.hold().__aenter__()) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="wait already"):
            async with line.hold():
                pass
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
    assert (line.num_running, line.num_room) == (0, 4)


async def test_long_jobs_leave_a_slot_to_the_others() -> None:
    slots = Slots(2, name="test")
    long = slots.most_but_one("long")
    try:
        async with slots.hold(1.0, long):
            waiting = asyncio.create_task(slots.hold(30.0, long).__aenter__())
            await asyncio.sleep(0)
            async with slots.hold(1.0):
                assert (slots.num_running, long.num_running, long.num_waiting) == (2, 1, 1)
            waiting.cancel()
            await asyncio.wait([waiting])
        assert (slots.num_running, long.num_running) == (0, 0)
    finally:
        slots.close()


def test_code_that_is_a_repository_has_a_line_of_its_own() -> None:
    kinds = [
        ("math", ""),
        ("logic", ""),
        ("code", "{}"),
        ("code", '{"mode": "repo"}'),
        ("judge", ""),
        ("?", ""),
    ]
    found = [class_of(*kind) for kind in kinds]
    assert found == ["rules", "rules", "code", "repo", "judge", "rules"]


async def test_a_full_door_is_resource_exhausted_with_a_hint_that_callers_obey(tasks: TaskMaker) -> None:
    lanes = Lanes(1)
    door = Registration(
        reward_pb2_grpc.add_RewardServicer_to_server,
        RewardServicer(local_scorer(tasks), lanes),
        app.service_name("Reward"),
    )
    async with serve("127.0.0.1:0", [door]) as server, open_channel(server.address) as channel:
        stub = reward_pb2_grpc.RewardStub(channel)
        envelope = tasks.task(RIGHT).envelope
        ask = reward_pb2.ScoreRequest(envelope=envelope, spec=math_spec(), response=RIGHT)
        judged = reward_pb2.ScoreRequest(envelope=envelope, spec=spec_of("judge", gold="a"), response="a")
        async with lanes.hold(WorkClass.RULES):
            await asyncio.sleep(0.25)  # so that the line knows how long a place is held
        async with lanes.hold(WorkClass.RULES):
            with pytest.raises(BusyError, match="the caller has") as caught:
                await stub.Score(ask, timeout=0.6)
            assert caught.value.retry_after_s is not None and caught.value.retry_after_s > 0.2
            assert (await stub.Score(judged, timeout=5)).verdict.score == 1.0  # another class is not held up
            started = time.monotonic()
            calls = 0

            async def call() -> None:
                nonlocal calls
                calls += 1
                await stub.Score(ask, timeout=0.6)

            with pytest.raises(BusyError):
                await retry_async(call, deadline_s=1.0)
            assert calls <= 5  # hints of 0.25 s and more; without them it would be seven and more
            assert time.monotonic() - started < 1.5
        assert (await stub.Score(ask, timeout=5)).verdict.score == 1.0


class NamedVerifier:
    """Notes who was asked; fails as it is told."""

    def __init__(self, name: str, asked: list[str], failure: ForklightError | Outcome | None) -> None:
        self.name, self.asked, self.failure = name, asked, failure

    async def verify(
        self, *, envelope: types_pb2.Envelope, gold: str, response: str, timeout_s: float
    ) -> Outcome:
        self.asked.append(self.name)
        if isinstance(self.failure, ForklightError):
            raise self.failure
        if self.failure is not None:
            return self.failure
        return await LocalVerifier().verify(
            envelope=envelope, gold=gold, response=response, timeout_s=timeout_s
        )


def scorer_over(tasks: TaskMaker, verifiers: Sequence[NamedVerifier], attempts: Attempts) -> Scorer:
    plain = local_scorer(tasks)
    fleet = fleet_of(verifiers, [NoSandbox()], [LocalJudge(RuleJudge())])
    return Scorer(run_id=plain.run_id, blobs=plain.blobs, fleet=fleet, policy=plain.policy, attempts=attempts)


NO_SCORE = Outcome(status=Status.INFRA_ERROR, parts={}, evidence="broken", worker="w")


@pytest.mark.parametrize(
    "failure", [UnavailableError("away"), BusyError("full", retry_after_s=0.01), NO_SCORE]
)
async def test_a_worker_that_fails_is_left_for_another(
    failure: ForklightError | Outcome, tasks: TaskMaker
) -> None:
    asked: list[str] = []
    verifiers = [NamedVerifier("bad", asked, failure), NamedVerifier("good", asked, None)]
    scorer = scorer_over(tasks, verifiers, Attempts(max_attempts=3, timeout_s=5.0))
    made = [tasks.task(f"<think>{number}</think> {RIGHT}") for number in range(12)]
    verdicts = [await scorer.score_task(task, attempt=1) for task in made]
    assert {verdict.score for verdict in verdicts} == {1.0}
    assert asked.count("good") == 12
    assert 0 < asked.count("bad") < 12  # samples begin at different addresses


async def test_no_try_is_begun_after_the_deadline(tasks: TaskMaker) -> None:
    asked: list[str] = []
    scorer = scorer_over(
        tasks, [NamedVerifier("bad", asked, NO_SCORE)], Attempts(max_attempts=3, timeout_s=5.0)
    )
    request = reward_pb2.ScoreRequest(envelope=tasks.task(RIGHT).envelope, spec=math_spec(), response=RIGHT)
    verdict = await scorer.score_request(request, left_s=0.05)
    assert (verdict.num_attempts, verdict.mask, asked) == (0, True, [])
    assert "deadline" in verdict.evidence


@given(
    st.lists(st.text(max_size=4), min_size=5, max_size=5), st.integers(0, 4), st.text(min_size=1, max_size=2)
)
@settings(max_examples=80, deadline=None)
def test_work_keys_hang_on_every_field_and_on_where_it_ends(fields: list[str], index: int, more: str) -> None:
    def key(kind: str, version: str, spec: str, response: str, rest: str) -> str:
        content = Content(kind=kind, spec_hash=spec, response_hash=response, circumstances=rest)
        return content.work_key(version)

    found = key(*fields)
    assert found == key(*fields)
    assert key(*fields[:index], fields[index] + more, *fields[index + 1 :]) != found
    if index < 4 and fields[index]:  # the same letters, cut at another place
        shifted = [*fields]
        shifted[index], shifted[index + 1] = fields[index][:-1], fields[index][-1] + fields[index + 1]
        assert key(*shifted) != found
