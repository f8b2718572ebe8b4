"""Group assembly: dynamic sampling, too few scores, staleness, cancelled generations, and the credit they
give back.
"""

from __future__ import annotations

from collections.abc import Callable

from forklight.v1 import types_pb2
from forklight_buffer.rehearsal import Rehearsal, Stage, mixed_reward, rehearse, samples_of
from forklight_buffer.states import State
from forklight_core import ids


async def tallies_after(
    play: Rehearsal, reward: Callable[[str], float | None]
) -> dict[tuple[State, str], int]:
    await play.fill(reward)
    return play.buffer.context.ledger.tallies()


async def test_groups_are_filtered_and_refilled_when_all_rewards_are_equal(
    make_stage: Callable[..., Stage],
) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.restore()
        assert await tallies_after(play, lambda _: 1.0) == {(State.FILTERED, "all_equal"): 12}
        assert await play.open() == 6
        await play.generate()
        await play.score(mixed_reward)
        batch = await play.batch(1)
        groups = {ids.group_of(sample) for sample in samples_of(batch)}
        assert groups == {ids.training_group_id(play.stage.run_id, index) for index in (6, 7)}


async def test_groups_are_kept_when_dynamic_sampling_is_off(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage(in_memory=True, buffer={"dynamic_sampling": False})) as play:
        assert await tallies_after(play, lambda _: 0.0) == {}
        assert (await play.buffer.context.live.standing()).ready_groups == 6


async def test_the_scored_rest_is_filtered_when_too_few_are_scored(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(in_memory=True, sampling={"group_size": 3}, buffer={"min_scored_samples": 2})
    async with rehearse(stage) as play:

        def reward(sample: str) -> float | None:
            return 1.0 if sample.endswith("s000") else None

        assert await tallies_after(play, reward) == {
            (State.FILTERED, "too_few_scored"): 6,
            (State.REWARD_FAILED, "infra_error"): 12,
        }
        assert (await play.buffer.context.live.standing()).held_tokens == 0


async def test_a_group_is_ready_without_its_failed_samples_when_enough_are_scored(
    make_stage: Callable[..., Stage],
) -> None:
    async with rehearse(make_stage(in_memory=True, sampling={"group_size": 3})) as play:
        await play.restore()
        await play.fill(lambda sample: None if sample.endswith("s002") else mixed_reward(sample))
        batch = await play.batch(1)
        assert [sample[-4:] for sample in samples_of(batch)] == ["s000", "s001"] * 2
        await play.commit(play.record(batch))
        tallies = play.buffer.context.ledger.tallies()
        assert tallies == {(State.TRAINED, ""): 4, (State.REWARD_FAILED, "infra_error"): 6}


async def test_a_sample_is_cancelled_or_stale_at_once_when_it_arrives_so(
    make_stage: Callable[..., Stage],
) -> None:
    async with rehearse(make_stage(in_memory=True, buffer={"max_staleness": 0})) as play:
        await play.restore()
        await play.open()
        await play.announce(1)
        leased = (await play.take_tasks(most=1))[0]
        group = types_pb2.GenerationTask.FromString(leased.body).envelope.group_id
        old = play.trajectory(ids.sample_id(group, 0), version=0)
        await play.buffer.intake.submit_trajectory(old, leased.lease)
        cancelled = play.trajectory(ids.sample_id(group, 1))
        cancelled.finish_reason = types_pb2.FINISH_REASON_CANCELLED
        await play.buffer.intake.submit_trajectory(cancelled, leased.lease)
        await play.buffer.journal.flush()
        assert play.buffer.context.ledger.tallies() == {
            (State.STALE, "stale_on_arrival"): 1,
            (State.CANCELLED, "generation_cancelled"): 1,
        }
        assert (await play.scoring.stats()).num_waiting == 0


async def test_ready_groups_are_swept_when_they_became_stale(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage(in_memory=True, buffer={"max_staleness": 1})) as play:
        await play.restore()
        await play.announce(0)
        await play.fill()
        await play.announce(2)
        leasing = await play.lease(1)
        assert leasing.reason == "waiting for 2 more groups"
        assert play.buffer.context.ledger.tallies() == {(State.STALE, "stale_in_queue"): 8}
        await play.fill()
        assert len(samples_of(await play.batch(1))) == 4


async def test_reserved_credit_becomes_actual_tokens_when_samples_arrive(
    make_stage: Callable[..., Stage],
) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.open()
        live = play.buffer.context.live
        standing = await live.standing()
        assert (standing.held_tokens, standing.held_bytes) == (12 * 10, 12 * 10 * 16)
        samples = await play.generate(most=1)
        size = play.trajectory(samples[0]).payload.size_bytes
        standing = await live.standing()
        assert (standing.held_tokens, standing.held_bytes) == (10 * 10 + 2 * 5, 10 * 160 + 2 * size)
        await play.score(lambda _: 1.0)
        standing = await live.standing()
        assert (standing.held_tokens, standing.held_bytes) == (10 * 10, 10 * 160)
