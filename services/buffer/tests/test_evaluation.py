"""Held-out rounds: due with versions, apart from training, and able to finish the run."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from forklight.v1 import types_pb2
from forklight_buffer.app import buffer_journal
from forklight_buffer.rehearsal import Rehearsal, Stage, mixed_reward, rehearse
from forklight_buffer.states import Outcome, Phase, RoundState, State
from forklight_core.errors import FencedError, InvalidInputError, PreconditionError
from forklight_core.queues import Lease

MakeStage = Callable[..., Stage]


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


async def test_a_round_has_a_queue_of_its_own(make_evaluated: MakeStage) -> None:
    async with rehearse(make_evaluated()) as play:
        await play.restore()
        await play.announce(0)
        await play.open()
        for queue, purpose, number in (
            (play.evaluate, types_pb2.PURPOSE_EVALUATE, 3),
            (play.tasks, types_pb2.PURPOSE_TRAIN, 6),
        ):
            tasks = [
                types_pb2.GenerationTask.FromString(leased.body)
                for leased in await queue.take("rollout-0", wait_s=0.0, max_items=64)
            ]
            assert [task.purpose for task in tasks] == [purpose] * number
        status = await play.buffer.inspection.status()
        queues = {queue.name: (queue.num_waiting, queue.num_leased) for queue in status.queues}
        assert queues == {"tasks": (0, 6), "evaluate": (0, 3), "scoring": (0, 0)}


async def test_a_round_of_several_samples_a_prompt_says_pass_at_k_with_intervals(
    make_evaluated: MakeStage,
) -> None:
    stage = make_evaluated(
        samples_per_prompt=4, pass_at=(1, 4, 2), temperature=1.0, confidence=0.9, pass_threshold=0.5
    )
    # Prompt 0: all right; prompt 1: one of three right, one failed; prompt 2: none right.
    rewards: dict[str, list[float | None]] = {
        "00000": [1.0, 1.0, 1.0, 1.0],
        "00001": [0.5, 0.25, None, 0.0],
        "00002": [0.0, 0.0, 0.0, 0.0],
    }
    async with rehearse(stage) as play:
        await play.restore()
        await play.announce(0)
        await play.open()
        taken = await play.take_tasks(most=3)
        tasks = [types_pb2.GenerationTask.FromString(leased.body) for leased in taken]
        assert [task.sampling.num_samples for task in tasks] == [4] * 3
        assert len({task.sampling.seed for task in tasks}) == 3
        for leased in taken:
            await play.evaluate.release(leased.lease)
        running = (await play.buffer.inspection.status()).evaluations[0]
        assert (running.num_samples, running.complete, len(running.pass_at)) == (0, False, 0)
        await play.generate()
        await play.score(lambda sample: rewards[sample[-10:-5]][int(sample[-3:])] if "/e" in sample else 0.0)
        await play.buffer.journal.flush()
        await buffer_journal(play.buffer)()
        (result,) = (await play.buffer.inspection.status()).evaluations
    assert (result.num_samples, result.num_failed, result.complete, result.cut) == (11, 1, True, False)
    assert (result.num_prompts, result.samples_per_prompt, result.num_scored_prompts) == (3, 4, 3)
    assert result.mean_reward == pytest.approx(4.75 / 11)
    assert result.confidence == 0.9
    assert 0.0 <= result.reward_low < result.mean_reward < result.reward_high <= 1.0
    found = {each.k: (each.value, each.num_prompts) for each in result.pass_at}
    assert list(found) == [1, 2, 4]
    assert found[1] == (pytest.approx((1 + 1 / 3 + 0) / 3), 3)
    assert found[2] == (pytest.approx((1 + 2 / 3 + 0) / 3), 3)
    assert found[4] == (pytest.approx((1 + 0) / 2), 2)  # of prompt 1 there are only three samples
    assert all(each.low <= each.value <= each.high for each in result.pass_at)


async def test_a_third_round_is_skipped_counted_and_said_while_two_are_open(
    make_evaluated: MakeStage,
) -> None:
    async with rehearse(make_evaluated(every_versions=1)) as play:
        await play.restore()
        for version in (0, 1, 2, 3):
            await play.announce(version)
            await play.open()
        ledger = play.buffer.context.ledger
        assert [(item.version, item.state) for item in ledger.rounds(9)] == [
            (0, RoundState.OPEN),
            (1, RoundState.OPEN),
        ]
        status = await play.buffer.inspection.status()
        assert status.num_skipped_evaluations == 2
        assert [(event.id, event.severity) for event in status.events] == [
            ("evaluation-skipped-v2", types_pb2.SEVERITY_WARNING),
            ("evaluation-skipped-v3", types_pb2.SEVERITY_WARNING),
        ]
        assert "the rounds of versions 0 and 1 are still open" in status.events[0].title
        assert (await play.evaluate.stats()).num_waiting == 6
        await play_round(play, 1.0)
        await play.announce(3)  # a trainer that starts again says its version again: now there is room
        await play.open()
        assert [(item.version, item.complete) for item in ledger.rounds(9)] == [
            (0, True), (1, True), (3, False),
        ]  # fmt: skip
        assert (await play.buffer.inspection.status()).num_skipped_evaluations == 1


async def test_training_goes_on_while_rounds_are_open(make_evaluated: MakeStage) -> None:
    async with rehearse(make_evaluated(every_versions=1)) as play:
        await play.restore()
        await play.announce(0)
        await play.open()
        for step in (1, 2, 3):
            for leased in await play.tasks.take("rollout-0", wait_s=0.0, max_items=64):
                group = types_pb2.GenerationTask.FromString(leased.body).envelope.group_id
                for index in range(2):
                    await play.submit(f"{group}/s{index:03d}", leased.lease)
            await play.score(mixed_reward)
            await play.train(step)
            await play.announce(step)
            await play.open()
        assert [(item.version, item.complete) for item in play.buffer.context.ledger.rounds(9)] == [
            (0, False), (1, False),
        ]  # fmt: skip


async def test_a_round_is_cut_when_the_run_ends_first_and_never_reaches_the_goal(
    make_evaluated: MakeStage,
) -> None:
    stage = make_evaluated(goal_reward=0.5, samples_per_prompt=2, temperature=1.0)
    async with rehearse(stage) as play:
        await play.restore()
        await play.announce(0)
        await play.open()
        leased = (await play.take_tasks(most=1))[0]
        group = types_pb2.GenerationTask.FromString(leased.body).envelope.group_id
        for index in range(2):
            await play.submit(f"{group}/s{index:03d}", leased.lease)
        await play.score(lambda _: 1.0)
        async with play.buffer.context.turn:
            await play.buffer.phases.set_phase(Phase.FINISHED, "enough")
        await buffer_journal(play.buffer)()
        (result,) = (await play.buffer.inspection.status()).evaluations
        assert (result.complete, result.cut, result.num_samples) == (False, True, 2)
        assert not result.pass_at and not result.HasField("reward_low")
        async with play.buffer.context.turn:
            await play.buffer.phases.set_phase(Phase.RUNNING, "")
        await play.buffer.evaluator.close_rounds()
        control = play.buffer.context.ledger.control()
        assert (control.phase, control.reason) == (Phase.RUNNING, "")


BUSY = {"buffer": {"lease_s": 0.05, "max_deliveries": 2, "max_open_groups": 1}}


async def test_an_evaluation_lease_is_fenced_redelivered_and_renewed_like_any_other(
    make_evaluated: MakeStage,
) -> None:
    async with rehearse(make_evaluated(sections=BUSY, num_prompts=1)) as play:
        await play.restore()
        await play.announce(0)
        await play.open()
        (first,) = await play.evaluate.take("dies-first", wait_s=0.0, max_items=9)
        group = types_pb2.GenerationTask.FromString(first.body).envelope.group_id
        sample = f"{group}/s000"
        await play.save(sample, play.segment(sample, 0), first.lease)
        await play.evaluate.release(first.lease)
        (second,) = await play.evaluate.take("goes-on", wait_s=10.0, max_items=1)
        assert (second.lease.entry_id, second.lease.fence) == (first.lease.entry_id, 2)
        with pytest.raises(FencedError, match=r"goes-on \(delivery 2\)"):
            await play.submit(sample, first.lease)
        (pending,) = await play.buffer.intake.pending_samples(group, second.lease)
        assert pending.segments[0].num_tokens == 2
        other = Lease(entry_id=second.lease.entry_id, consumer="goes-on", fence=2, queue="tasks")
        await play.save(sample, play.segment(sample, 2), other)  # the buffer itself knows whose entry it is
        end = time.monotonic() + 10.0
        while not (
            await play.evaluate.stats()
        ).num_waiting:  # its response grew: it waits again, as a new entry
            assert time.monotonic() < end
            assert await play.buffer.reaper.reap() == 0
        (again,) = await play.evaluate.take("third", wait_s=0.0, max_items=9)
        assert again.lease.fence == 1
        assert await play.submit(sample, again.lease) is Outcome.ACCEPTED
        assert (await play.evaluate.stats()).num_leased == 0


async def test_evaluation_tasks_are_buried_with_the_name_of_their_queue(make_evaluated: MakeStage) -> None:
    async with rehearse(make_evaluated(sections=BUSY)) as play:
        await play.restore()
        await play.announce(0)
        await play.open()
        for holder in ("dies-first", "dies-second"):
            assert len(await play.evaluate.take(holder, wait_s=10.0, max_items=9)) == 3
        buried, end = 0, time.monotonic() + 10.0
        while buried < 3:
            assert time.monotonic() < end
            buried += await play.buffer.reaper.reap()
        letters = await play.buffer.dead_letters.list_letters(0)
        assert {letter.queue for letter in letters} == {"evaluate"}
        assert all(letter.id.startswith("evaluate:") for letter in letters)
        await buffer_journal(play.buffer)()
        (finished,) = play.buffer.context.ledger.rounds(9)
        assert (finished.complete, finished.num_scored, finished.num_failed) == (True, 0, 3)
        assert (await play.buffer.inspection.status()).evaluations[0].num_failed == 3
        assert await play.buffer.dead_letters.redrive([]) == 0
