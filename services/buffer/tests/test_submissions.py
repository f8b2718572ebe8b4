"""Trajectories and verdicts at the door: accepted once, fenced, and never half."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from forklight.v1 import types_pb2
from forklight_buffer.live import PendingSample
from forklight_buffer.rehearsal import Rehearsal, Stage, mixed_reward, rehearse
from forklight_buffer.states import Outcome, State
from forklight_core import ids
from forklight_core.errors import FencedError, InvalidInputError, NotFoundError
from forklight_core.queues import Lease, Leased


async def first_task(play: Rehearsal) -> tuple[str, Leased]:
    await play.open()
    leased = (await play.take_tasks(most=1))[0]
    return types_pb2.GenerationTask.FromString(leased.body).envelope.group_id, leased


async def test_a_trajectory_is_a_duplicate_when_sent_twice(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        group, leased = await first_task(play)
        sample = ids.sample_id(group, 0)
        assert await play.submit(sample, leased.lease) is Outcome.ACCEPTED
        assert await play.submit(sample, leased.lease) is Outcome.DUPLICATE
        assert (await play.scoring.stats()).num_waiting == 1
        assert await play.buffer.intake.pending_samples(group, leased.lease) == [PendingSample(index=1)]


async def test_the_task_is_settled_when_the_last_sample_is_in(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        group, leased = await first_task(play)
        await play.submit(ids.sample_id(group, 1), leased.lease)
        assert await play.tasks.heartbeat([leased.lease]) == [leased.lease]
        await play.submit(ids.sample_id(group, 0), leased.lease)
        assert await play.tasks.heartbeat([leased.lease]) == []
        assert (await play.tasks.stats()).num_leased == 0
        assert await play.submit(ids.sample_id(group, 0), leased.lease) is Outcome.DUPLICATE


async def test_a_late_holder_is_fenced_when_the_lease_went_on(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        group, leased = await first_task(play)
        await play.tasks.release(leased.lease)
        taken = (await play.take_tasks(consumer="rollout-1", most=1))[0]
        assert taken.lease.entry_id == leased.lease.entry_id
        with pytest.raises(FencedError, match="rollout-1"):
            await play.submit(ids.sample_id(group, 0), leased.lease)
        with pytest.raises(FencedError):
            await play.buffer.intake.pending_samples(group, leased.lease)
        assert await play.submit(ids.sample_id(group, 0), taken.lease) is Outcome.ACCEPTED


async def test_a_lease_of_another_group_is_fenced(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        group, _ = await first_task(play)
        other = (await play.take_tasks(most=1))[0]
        with pytest.raises(FencedError):
            await play.submit(ids.sample_id(group, 0), other.lease)


@pytest.mark.parametrize("entry", ["", "no id", "9-9"])
async def test_a_lease_that_never_was_is_fenced(make_stage: Callable[..., Stage], entry: str) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        group, _ = await first_task(play)
        with pytest.raises(FencedError, match="nobody"):
            await play.submit(ids.sample_id(group, 0), Lease(entry_id=entry, consumer="", fence=0))


async def test_nonsense_is_refused_before_it_is_stored(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        group, leased = await first_task(play)
        sample = ids.sample_id(group, 0)

        async def send(change: Callable[[types_pb2.Trajectory], object]) -> None:
            trajectory = play.trajectory(sample)
            change(trajectory)
            await play.buffer.intake.submit_trajectory(trajectory, leased.lease)

        changes: list[tuple[str, Callable[[types_pb2.Trajectory], object]]] = [
            ("belongs to run", lambda found: setattr(found.envelope, "run_id", "other")),
            ("schema version", lambda found: setattr(found.envelope, "schema_version", 9)),
            ("is not of group", lambda found: setattr(found.envelope, "group_id", "other")),
            (
                "outside its group",
                lambda found: setattr(found.envelope, "sample_id", ids.sample_id(group, 2)),
            ),
            ("no payload", lambda found: found.ClearField("payload")),
            ("window is 10", lambda found: setattr(found, "num_response_tokens", 11)),
            ("version spans", lambda found: found.ClearField("version_spans")),
        ]
        for problem, change in changes:
            with pytest.raises(InvalidInputError, match=problem):
                await send(change)
        pending = await play.buffer.intake.pending_samples(group, leased.lease)
        assert [sample.index for sample in pending] == [0, 1]


async def test_a_sample_nobody_opened_is_not_found(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        _, leased = await first_task(play)
        stranger = ids.sample_id(ids.training_group_id(play.stage.run_id, 999), 0)
        with pytest.raises(NotFoundError):
            await play.submit(stranger, leased.lease)
        with pytest.raises(NotFoundError):
            await play.buffer.intake.submit_verdict(play.verdict(stranger, 1.0), leased.lease)


async def test_a_verdict_is_accepted_for_an_entry_that_was_put_back_at_the_end(
    make_stage: Callable[..., Stage],
) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        group, leased = await first_task(play)
        sample, other = ids.sample_id(group, 0), ids.sample_id(group, 1)
        await play.submit(sample, leased.lease)
        await play.submit(other, leased.lease)
        (first,) = await play.scoring.take("reward-0", wait_s=0, max_items=1)
        await play.scoring.put(first.body)
        second, again = await play.scoring.take("reward-1", wait_s=0, max_items=2)
        verdict, intake = play.verdict(sample, 1.0), play.buffer.intake
        with pytest.raises(FencedError, match="another entry"):
            await intake.submit_verdict(verdict, again.lease)  # the first one is still there
        await play.scoring.settle(first.lease)
        assert await intake.submit_verdict(verdict, again.lease) is Outcome.ACCEPTED
        assert await intake.submit_verdict(play.verdict(other, 0.0), second.lease) is Outcome.ACCEPTED
        stats = await play.scoring.stats()
        assert (stats.num_waiting, stats.num_leased) == (0, 0)


async def test_a_verdict_is_accepted_once_and_fenced(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        group, leased = await first_task(play)
        sample, other = ids.sample_id(group, 0), ids.sample_id(group, 1)
        intake = play.buffer.intake
        with pytest.raises(NotFoundError, match="no open sample"):
            await intake.submit_verdict(play.verdict(sample, 1.0), leased.lease)
        await play.submit(sample, leased.lease)
        await play.submit(other, leased.lease)
        first, second = await play.scoring.take("reward-0", wait_s=0, max_items=2)
        stale = replace(first.lease, fence=first.lease.fence + 1)
        with pytest.raises(FencedError):
            await intake.submit_verdict(play.verdict(sample, 1.0), stale)
        with pytest.raises(FencedError):
            await intake.submit_verdict(play.verdict(sample, 1.0), second.lease)
        assert await intake.submit_verdict(play.verdict(sample, 1.0), first.lease) is Outcome.ACCEPTED
        assert await intake.submit_verdict(play.verdict(sample, 0.0), first.lease) is Outcome.DUPLICATE
        live = await play.buffer.context.live.read_group(group)
        assert live is not None and live.samples[0].reward == 1.0
        with pytest.raises(InvalidInputError, match="finite"):
            await intake.submit_verdict(play.verdict(other, float("nan")), second.lease)


async def test_what_comes_after_the_end_is_dropped(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        group, leased = await first_task(play)
        samples = [ids.sample_id(group, index) for index in range(2)]
        for sample in samples:
            await play.submit(sample, leased.lease)
        entries = await play.scoring.take("reward-0", wait_s=0, max_items=2)
        for sample, entry in zip(samples, entries, strict=True):
            await play.buffer.intake.submit_verdict(play.verdict(sample, 1.0), entry.lease)
        await play.buffer.journal.flush()
        assert play.buffer.context.ledger.tallies() == {(State.FILTERED, "all_equal"): 2}
        assert await play.submit(samples[0], leased.lease) is Outcome.DROPPED
        verdict = play.verdict(samples[0], 0.0)
        assert await play.buffer.intake.submit_verdict(verdict, entries[0].lease) is Outcome.DROPPED


async def test_a_failure_is_reward_failed_and_never_a_zero(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.open()
        samples = await play.generate(most=1)
        await play.score(lambda _: None)
        await play.buffer.journal.flush()
        row = play.buffer.context.ledger.read_sample(samples[0])
        assert row is not None
        assert (row.state, row.reward) == (State.REWARD_FAILED, None)
        assert row.reason == "infra_error: no answer from the sandbox"


async def test_a_failure_is_infra_failed_when_the_blob_is_to_blame(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.open()
        samples = await play.generate(most=1)
        play.stage.blobs.delete(play.trajectory(samples[0]).payload.id)
        lost = play.stage.blobs.put(f"payload of {samples[0]}".encode())
        play.stage.blobs.delete(lost.id)
        await play.score(lambda sample: None if sample == samples[0] else 1.0)
        await play.buffer.journal.flush()
        row = play.buffer.context.ledger.read_sample(samples[0])
        assert row is not None and row.state is State.INFRA_FAILED
        assert row.reason.startswith("blob_lost: ")


async def test_the_blob_of_a_refused_trajectory_is_deleted_later(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        group, leased = await first_task(play)
        sample = ids.sample_id(group, 0)
        await play.submit(sample, leased.lease)
        again = play.trajectory(sample)
        other = play.stage.blobs.put(b"another generation of the same sample")
        again.payload.id, again.payload.size_bytes = other.id, other.size_bytes
        assert await play.buffer.intake.submit_trajectory(again, leased.lease) is Outcome.DUPLICATE
        assert await play.buffer.retention.clean() == 0
        play.stage.clock.advance(61)
        assert await play.buffer.retention.clean() == 1
        assert not play.stage.blobs.exists(other.id)
        assert play.stage.blobs.exists(play.trajectory(sample).payload.id)
        assert mixed_reward(sample) == 1.0
