"""Segments: another pod goes on from what was saved, and nothing that was saved is lost for nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from forklight.v1 import buffer_pb2, types_pb2
from forklight_buffer.keys import BufferKeys
from forklight_buffer.live import LiveSample, PendingSample
from forklight_buffer.rehearsal import Rehearsal, Stage, rehearse
from forklight_buffer.states import Outcome, Phase, State
from forklight_core import ids
from forklight_core.errors import FencedError, InvalidInputError, NotFoundError, UnavailableError
from forklight_core.queues import Lease, Leased, RunKeys

LEASE_S = 0.05


async def take(play: Rehearsal, consumer: str = "rollout-0") -> tuple[str, Leased]:
    """A task, and the id of its group's first sample."""
    leased = (await play.take_tasks(consumer=consumer, most=1))[0]
    group = types_pb2.GenerationTask.FromString(leased.body).envelope.group_id
    return ids.sample_id(group, 0), leased


async def take_over(play: Rehearsal, leased: Leased, consumer: str = "rollout-1") -> Lease:
    """The pod dies, another one has its task."""
    assert await play.tasks.release(leased.lease)
    return (await play.take_tasks(consumer=consumer, most=1))[0].lease


async def live_sample(play: Rehearsal, sample: str) -> LiveSample:
    group = await play.buffer.context.live.read_group(ids.group_of(sample))
    assert group is not None
    return group.samples[ids.sample_index(sample)]


def blob_exists(play: Rehearsal, segment: types_pb2.Segment) -> bool:
    return play.stage.blobs.exists(segment.payload.id)


async def saved_members(play: Rehearsal) -> int:
    keys = BufferKeys(RunKeys(play.stage.run_id))
    return int(await play.outside.redis.zcard(keys.saved))


async def test_another_pod_goes_on_from_what_was_saved(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.open()
        sample, leased = await take(play)
        first, second = play.segment(sample, 0, tokens=3), play.segment(sample, 3, tokens=2)
        assert (await play.save(sample, first, leased.lease)).num_saved_tokens == 3
        assert (await play.save(sample, second, leased.lease)).num_saved_tokens == 5
        lease = await take_over(play, leased)
        pending = await play.buffer.intake.pending_samples(ids.group_of(sample), lease)
        assert [found.index for found in pending] == [0, 1]
        assert [(found.start, found.num_tokens, found.payload_id) for found in pending[0].segments] == [
            (0, 3, first.payload.id),
            (3, 2, second.payload.id),
        ]
        assert pending[1] == PendingSample(index=1)
        with pytest.raises(FencedError, match="rollout-1"):
            await play.save(sample, play.segment(sample, 5), leased.lease)
        now = await play.save(sample, play.segment(sample, 5), lease)
        assert (now.outcome, now.num_saved_tokens) == (Outcome.ACCEPTED, 7)


async def test_a_segment_is_saved_once_and_only_where_the_last_one_ends(
    make_stage: Callable[..., Stage],
) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.open()
        sample, leased = await take(play)
        first = play.segment(sample, 0, tokens=3)
        await play.save(sample, first, leased.lease)
        again = await play.save(sample, first, leased.lease)
        assert (again.outcome, again.num_saved_tokens) == (Outcome.DUPLICATE, 3)
        for start, tag in ((4, ""), (2, ""), (0, "drawn otherwise")):
            with pytest.raises(InvalidInputError, match="3 tokens of the response are saved"):
                await play.save(sample, play.segment(sample, start, tokens=3, tag=tag), leased.lease)
        with pytest.raises(InvalidInputError, match="window of 10"):
            await play.save(sample, play.segment(sample, 3, tokens=8), leased.lease)
        with pytest.raises(InvalidInputError, match="has no tokens"):
            await play.save(sample, play.segment(sample, 3, tokens=0), leased.lease)
        with pytest.raises(InvalidInputError, match="no payload blob"):
            await play.save(sample, types_pb2.Segment(start=3, num_tokens=1), leased.lease)
        await play.save(sample, play.segment(sample, 3, tokens=7), leased.lease)
        assert (await play.save(sample, first, leased.lease)).outcome is Outcome.DUPLICATE
        assert (await live_sample(play, sample)).num_saved_tokens == 10


async def test_only_the_holder_of_the_group_saves_and_only_known_samples(
    make_stage: Callable[..., Stage],
) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.open()
        sample, _ = await take(play)
        other, leased = await take(play)
        with pytest.raises(FencedError):
            await play.save(sample, play.segment(sample, 0), leased.lease)
        with pytest.raises(FencedError, match="nobody"):
            await play.save(sample, play.segment(sample, 0), Lease(entry_id="9-9", consumer="", fence=0))
        with pytest.raises(FencedError):
            await play.buffer.segments.drop(sample, 0, leased.lease)
        stranger = ids.sample_id(ids.training_group_id(play.stage.run_id, 999), 0)
        for name in (stranger, ids.sample_id(ids.group_of(other), 2)):
            with pytest.raises(NotFoundError):
                await play.save(name, play.segment(name, 0), leased.lease)
            with pytest.raises(NotFoundError):
                await play.buffer.segments.drop(name, 0, leased.lease)
        assert await saved_members(play) == 0


async def test_segments_end_with_the_trajectory_and_their_blobs_go_later(
    make_stage: Callable[..., Stage],
) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.restore()
        await play.open()
        sample, leased = await take(play)
        segments = [play.segment(sample, start) for start in (0, 2)]
        for segment in segments:
            await play.save(sample, segment, leased.lease)
        assert await saved_members(play) == 1
        assert await play.submit(sample, leased.lease) is Outcome.ACCEPTED
        assert (await live_sample(play, sample)).segments == ()
        assert await saved_members(play) == 0
        late = play.segment(sample, 4)
        assert (await play.save(sample, late, leased.lease)).outcome is Outcome.DROPPED
        assert (await play.buffer.segments.drop(sample, 0, leased.lease)).outcome is Outcome.DROPPED
        await play.submit(ids.sample_id(ids.group_of(sample), 1), leased.lease)
        await play.score(lambda _: None)
        await play.buffer.journal.flush()
        assert await play.buffer.retention.clean() == 0
        play.stage.clock.advance(61)
        await play.buffer.retention.clean()
        assert not any(blob_exists(play, segment) for segment in (*segments, late))


async def test_a_segment_that_is_the_whole_trajectory_is_not_thrown_away_with_the_list(
    make_stage: Callable[..., Stage],
) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.restore()
        await play.open()
        sample, leased = await take(play)
        trajectory = play.trajectory(sample)
        whole = types_pb2.Segment(start=0, num_tokens=5, payload=trajectory.payload)
        await play.save(sample, whole, leased.lease)
        assert await play.buffer.intake.submit_trajectory(trajectory, leased.lease) is Outcome.ACCEPTED
        assert (await play.save(sample, whole, leased.lease)).outcome is Outcome.DROPPED
        await play.submit(ids.sample_id(ids.group_of(sample), 1), leased.lease)
        await play.score(lambda name: 1.0 if name == sample else None)
        await play.buffer.journal.flush()
        group = await play.buffer.context.live.read_group(ids.group_of(sample))
        assert group is None or not group.discards
        discarded = play.buffer.context.ledger._db.rows("SELECT * FROM discards")  # type: ignore[attr-defined]
        assert discarded == []


async def test_what_cannot_be_read_is_dropped_from_there_on_and_generated_again(
    make_stage: Callable[..., Stage],
) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.open()
        sample, leased = await take(play)
        segments = [play.segment(sample, start) for start in (0, 2, 4)]
        for segment in segments:
            await play.save(sample, segment, leased.lease)
        lease = await take_over(play, leased)
        drop = play.buffer.segments.drop
        with pytest.raises(FencedError):
            await drop(sample, 2, leased.lease)
        with pytest.raises(InvalidInputError, match="begins where a saved one starts"):
            await drop(sample, 3, lease)
        now = await drop(sample, 2, lease)
        assert (now.outcome, now.num_saved_tokens, now.num_dropped_tokens) == (Outcome.ACCEPTED, 2, 4)
        assert [blob_exists(play, segment) for segment in segments] == [True, False, False]
        assert (await drop(sample, 2, lease)).outcome is Outcome.DUPLICATE
        again = play.segment(sample, 2)  # the same bytes: it is deterministic
        assert again.payload.id == segments[1].payload.id
        assert (await play.save(sample, again, lease)).num_saved_tokens == 4
        play.stage.clock.advance(61)
        await play.buffer.journal.flush()
        await play.buffer.retention.clean()
        assert blob_exists(play, again)
        assert (await drop(sample, 0, lease)).num_saved_tokens == 0
        assert await saved_members(play) == 0
        assert (await live_sample(play, sample)).state is State.QUEUED


async def test_a_saved_response_too_old_is_swept_and_the_rest_of_its_group_goes_on(
    make_stage: Callable[..., Stage],
) -> None:
    stage = make_stage(in_memory=True, buffer={"max_staleness": 1}, sampling={"group_size": 3})
    async with rehearse(stage) as play:
        await play.restore()
        await play.open()
        sample, leased = await take(play)
        group = ids.group_of(sample)
        old, young = ids.sample_id(group, 0), ids.sample_id(group, 1)
        await play.save(old, play.segment(old, 0, version=0), leased.lease)
        await play.save(young, play.segment(young, 0, version=1), leased.lease)
        await play.announce(1)
        await play.lease(1)
        assert (await live_sample(play, old)).state is State.QUEUED
        await play.save(old, play.segment(old, 2, version=1), leased.lease)
        await play.announce(2)
        await play.lease(1)
        row = play.buffer.context.ledger.read_sample(old)
        assert row is not None and (row.state, row.reason) == (State.STALE, "stale_unfinished")
        now = await play.save(old, play.segment(old, 4, version=2), leased.lease)
        assert now.outcome is Outcome.DROPPED
        pending = await play.buffer.intake.pending_samples(group, leased.lease)
        assert [(found.index, len(found.segments)) for found in pending] == [(1, 1), (2, 0)]
        assert await saved_members(play) == 1


async def test_dropping_the_oldest_tokens_makes_a_response_young_again(
    make_stage: Callable[..., Stage],
) -> None:
    async with rehearse(make_stage(in_memory=True, buffer={"max_staleness": 0})) as play:
        await play.restore()
        await play.open()
        sample, leased = await take(play)
        for start, version in ((0, 3), (2, 1)):
            await play.save(sample, play.segment(sample, start, version=version), leased.lease)
        await play.buffer.segments.drop(sample, 2, leased.lease)
        await play.announce(3)
        await play.lease(1)
        assert (await live_sample(play, sample)).num_saved_tokens == 2
        await play.announce(4)
        await play.lease(1)
        assert (await live_sample(play, sample)).state is State.STALE


async def test_an_evaluation_never_becomes_stale(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(in_memory=True, buffer={"max_staleness": 0})
    held_out = stage.run_file.prompts.model_copy(update={"holdout": stage.run_file.prompts.train})
    rounds = stage.run_file.evaluation.model_copy(update={"every_versions": 1, "num_prompts": 1})
    stage = stage.with_run_file(stage.run_file.model_copy(update={"prompts": held_out, "evaluation": rounds}))
    async with rehearse(stage) as play:
        await play.restore()
        await play.announce(1)
        await play.open()
        tasks = {
            types_pb2.GenerationTask.FromString(leased.body).purpose: leased
            for leased in await play.take_tasks()
        }
        leased = tasks[types_pb2.PURPOSE_EVALUATE]
        group = types_pb2.GenerationTask.FromString(leased.body).envelope.group_id
        sample = ids.sample_id(group, 0)
        await play.save(sample, play.segment(sample, 0), leased.lease)
        for version in (2, 3):
            await play.announce(version)
            await play.lease(1)
        assert (await live_sample(play, sample)).num_saved_tokens == 2
        assert await saved_members(play) == 0


async def die_holding(play: Rehearsal, *, save: bool) -> Leased:
    """A pod takes the task once its last holder's lease is over, perhaps saves a segment, and dies."""
    leased = (await play.tasks.take("dies", wait_s=10.0, max_items=1))[0]
    if save:
        await play.go_on(leased, tokens=1)
    return leased


async def reap_until(play: Rehearsal, done: Callable[[], bool]) -> None:
    end = time.monotonic() + 10.0
    while not done():
        await play.buffer.reaper.reap()
        assert time.monotonic() < end


async def test_a_task_waits_again_instead_of_dying_while_its_responses_grow(
    make_stage: Callable[..., Stage],
) -> None:
    stage = make_stage(in_memory=True, buffer={"lease_s": LEASE_S, "max_deliveries": 2, "max_open_groups": 1})
    async with rehearse(stage) as play:
        await play.open()
        events = play.stage.folder / "events.jsonl"
        for num_renewed in (1, 2):
            before = await die_holding(play, save=True)
            last = await die_holding(play, save=False)
            assert (before.lease.entry_id, last.lease.fence) == (last.lease.entry_id, 2)
            await reap_until(
                play,
                lambda count=num_renewed: (
                    events.exists() and events.read_text().count("task_renewed") == count
                ),
            )
            sample = ids.sample_id(types_pb2.GenerationTask.FromString(last.body).envelope.group_id, 0)
            with pytest.raises(FencedError):
                await play.save(sample, play.segment(sample, num_renewed), last.lease)
        assert (await live_sample(play, sample)).num_saved_tokens == 2
        for _ in range(2):  # now nothing grows any more: the task is what kills its holders
            last = await die_holding(play, save=False)
        await reap_until(play, lambda: "dead_letter" in events.read_text())
        await play.buffer.journal.flush()
        assert play.buffer.context.ledger.tallies() == {(State.INFRA_FAILED, "dead_letter"): 2}
        assert last.lease.fence == 2


async def test_saving_again_what_was_dropped_is_no_progress(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.open()
        sample, leased = await take(play)
        key = BufferKeys(RunKeys(play.stage.run_id)).group_prefix + ids.group_of(sample)
        redis = play.outside.redis
        await play.save(sample, play.segment(sample, 0), leased.lease)
        assert await redis.hget(key, "moved") == b"1"
        await redis.hdel(key, "moved")
        await play.buffer.segments.drop(sample, 0, leased.lease)
        await play.save(sample, play.segment(sample, 0), leased.lease)
        assert await redis.hget(key, "moved") is None
        await play.save(sample, play.segment(sample, 2), leased.lease)
        assert await redis.hget(key, "moved") == b"1"


async def test_segments_outlive_the_buffer_and_show_in_its_listing(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.restore()
        await play.open()
        sample, leased = await take(play)
        await play.save(sample, play.segment(sample, 0, tokens=4), leased.lease)
        await play.restart_buffer()
        await play.restore()
        pending = await play.buffer.intake.pending_samples(ids.group_of(sample), leased.lease)
        assert pending[0].segments[0].num_tokens == 4
        request = buffer_pb2.ListSamplesRequest(group_id=ids.group_of(sample))
        listed = (await play.buffer.inspection.list_samples(request)).samples
        assert [found.num_saved_tokens for found in listed] == [4, 0]
        async with play.buffer.context.turn:
            await play.buffer.phases.set_phase(Phase.FINISHED, "enough")
        listed = (await play.buffer.inspection.list_samples(request)).samples
        assert [found.num_saved_tokens for found in listed] == [0, 0]
        assert await saved_members(play) == 0


async def test_a_segment_that_grows_is_not_stuck(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(
        make_stage(in_memory=True, buffer={"watchdog_s": 10.0, "max_open_groups": 1})
    ) as play:
        await play.open()
        sample, leased = await take(play)
        play.stage.clock.advance(11)
        await play.save(sample, play.segment(sample, 0), leased.lease)
        stuck = await play.buffer.watchdog.find_stuck()
        assert [found.sample_id for found in stuck] == [ids.sample_id(ids.group_of(sample), 1)]


async def test_nothing_is_saved_while_the_buffer_reconciles(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.open()
        sample, leased = await take(play)
        play.buffer.gate.close()
        with pytest.raises(UnavailableError, match="try again"):
            await play.save(sample, play.segment(sample, 0), leased.lease)
        await play.buffer.recover()
        assert (await play.save(sample, play.segment(sample, 0), leased.lease)).outcome is Outcome.ACCEPTED


async def test_bytes_that_were_discarded_once_are_kept_when_they_are_saved_again(
    make_stage: Callable[..., Stage],
) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.open()
        sample, leased = await take(play)
        segment, ledger = play.segment(sample, 0), play.buffer.context.ledger
        ledger.discard_payloads([segment.payload.id], play.stage.clock())
        await play.save(sample, segment, leased.lease)
        play.stage.clock.advance(61)
        assert await play.buffer.retention.clean() == 0
        ledger.discard_payloads(
            [segment.payload.id], play.stage.clock() - 61
        )  # and Redis went back behind it
        await play.restart_buffer()
        assert await play.buffer.retention.clean() == 0
        assert blob_exists(play, segment)
