"""Held-out rounds: due with versions, apart from training, and able to finish the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from forklight.v1 import types_pb2
from forklight_buffer.app import buffer_journal
from forklight_buffer.rehearsal import Rehearsal, Stage, mixed_reward, rehearse, write_prompts
from forklight_buffer.states import Phase, State
from forklight_core.errors import InvalidInputError, PreconditionError

MakeStage = Callable[..., Stage]


@pytest.fixture
def make_evaluated(make_stage: MakeStage, tmp_path: Path) -> MakeStage:
    def make(**evaluation: object) -> Stage:
        holdout = write_prompts(tmp_path / "holdout.jsonl", 3)
        prompts = {"train": str(write_prompts(tmp_path / "train.jsonl", 8)), "holdout": str(holdout)}
        section = {"every_versions": 2, "num_prompts": 64, "temperature": 0.0} | evaluation
        return make_stage(prompts=prompts, evaluation=section)

    return make


def reward_of_evaluation(value: float) -> Callable[[str], float]:
    return lambda sample: value if "/e" in sample else mixed_reward(sample)


async def play_round(play: Rehearsal, value: float) -> None:
    await play.fill(reward_of_evaluation(value))
    await buffer_journal(play.buffer)()


async def test_a_round_is_held_when_its_version_is_due(make_evaluated: MakeStage) -> None:
    async with rehearse(make_evaluated()) as play:
        await play.restore()
        await play.announce(0)
        assert await play.open() == 3 + 6
        tasks = [types_pb2.GenerationTask.FromString(leased.body) for leased in await play.take_tasks(most=3)]
        assert [task.purpose for task in tasks] == [types_pb2.PURPOSE_EVALUATE] * 3
        assert [task.sampling.num_samples for task in tasks] == [1] * 3
        assert {task.sampling.temperature for task in tasks} == {0.0}
        assert [task.prompt_id for task in tasks] == ["p000", "p001", "p002"]


async def test_a_round_is_complete_when_all_its_samples_have_ended(make_evaluated: MakeStage) -> None:
    async with rehearse(make_evaluated()) as play:
        await play.restore()
        await play.announce(0)
        await play_round(play, 0.5)
        ledger = play.buffer.context.ledger
        assert ledger.tallies() == {(State.FILTERED, "evaluation"): 3}
        (finished,) = ledger.rounds(10)
        assert (finished.complete, finished.num_scored, finished.num_failed) == (True, 3, 0)
        assert finished.mean_reward == pytest.approx(0.5)
        await play.announce(1)
        await play.announce(2)
        await play.announce(2)
        await play.open()
        assert [(item.version, item.complete) for item in ledger.rounds(10)] == [(0, True), (2, False)]


async def test_failed_samples_are_counted_and_not_averaged(make_evaluated: MakeStage) -> None:
    async with rehearse(make_evaluated(goal_reward=0.9)) as play:
        await play.restore()
        await play.announce(0)
        await play.fill(lambda sample: None if sample.endswith("e000000-00000/s000") else 0.8)
        await buffer_journal(play.buffer)()
        (finished,) = play.buffer.context.ledger.rounds(10)
        assert (finished.num_scored, finished.num_failed) == (2, 1)
        assert finished.mean_reward == pytest.approx(0.8)
        assert play.buffer.context.ledger.control().phase is Phase.RUNNING


async def test_the_run_is_finished_when_a_round_reaches_the_goal(make_evaluated: MakeStage) -> None:
    async with rehearse(make_evaluated(goal_reward=0.75)) as play:
        await play.restore()
        await play.announce(0)
        await play.fill(mixed_reward)
        record = play.record(await play.batch(1))
        await play_round(play, 0.75)
        control = play.buffer.context.ledger.control()
        assert control.phase is Phase.FINISHED
        assert "mean reward of 1.0000, goal 0.75" in control.reason
        assert (await play.commit(record)).num_trained == 4
        assert (await play.lease(2)).phase is Phase.FINISHED
        assert await play.buffer.context.live.live_groups() == []


async def test_a_batch_in_flight_is_cancelled_when_a_finished_run_is_asked_for_it_again(
    make_evaluated: MakeStage,
) -> None:
    async with rehearse(make_evaluated()) as play:
        await play.restore()
        await play.announce(0)
        await play.fill()
        await play.batch(1)
        async with play.buffer.context.turn:
            await play.buffer.phases.set_phase(Phase.FINISHED, "enough")
        assert len(await play.buffer.context.live.live_groups()) == 2
        leasing = await play.lease(1)
        assert (leasing.batch, leasing.reason) == (None, "enough")
        assert await play.buffer.context.live.live_groups() == []
        assert play.buffer.context.ledger.tallies()[(State.CANCELLED, "run_finished")] == 12


async def test_nothing_is_opened_or_leased_when_the_run_is_paused(make_evaluated: MakeStage) -> None:
    async with rehearse(make_evaluated()) as play:
        await play.restore()
        await play.announce(0)
        await play.fill()
        async with play.buffer.context.turn:
            await play.buffer.phases.set_phase(Phase.PAUSED, "probabilities disagree")
        leasing = await play.lease(1)
        assert (leasing.phase, leasing.reason) == (Phase.PAUSED, "probabilities disagree")
        assert await play.open() == 0
        async with play.buffer.context.turn:
            await play.buffer.phases.set_phase(Phase.DRAINING, "going down")
        assert await play.open() == 0
        for step in (1, 2, 3):
            assert (await play.lease(step)).batch is not None
        assert "only groups that are open already can still come" in (await play.lease(4)).reason


async def test_a_phase_needs_its_reason(make_evaluated: MakeStage) -> None:
    async with rehearse(make_evaluated()) as play:
        for phase in (Phase.PAUSED, Phase.FINISHED):
            with pytest.raises(InvalidInputError, match="a reason is needed"):
                await play.buffer.phases.set_phase(phase, " ")


async def test_versions_never_go_back_and_never_change_their_weights(make_evaluated: MakeStage) -> None:
    async with rehearse(make_evaluated()) as play:
        await play.restore()
        assert await play.announce(3) == 3
        assert await play.announce(1) == 3
        assert await play.announce(3) == 3
        other = types_pb2.WeightsRef(version=3, manifest="weights/v3/manifest.json", manifest_id="b3:other")
        with pytest.raises(PreconditionError, match="a version is one set of weights"):
            await play.buffer.versions.announce(play.epoch, other)
        with pytest.raises(InvalidInputError, match="names no manifest"):
            await play.buffer.versions.announce(play.epoch, types_pb2.WeightsRef(version=4))
        await play.restore(version=3)
        assert await play.buffer.versions.announce(play.epoch, other) == 3
        newest = play.buffer.context.ledger.newest_weights()
        assert newest is not None and newest.manifest_id == "b3:other"
