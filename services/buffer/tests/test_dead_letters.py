"""Entries nobody finishes: buried with a reason, listed, and redriven as new groups for the same prompts."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from forklight.v1 import types_pb2
from forklight_buffer.audit import audit_run
from forklight_buffer.rehearsal import Rehearsal, Stage, rehearse
from forklight_buffer.states import Phase, State
from forklight_core.errors import NotFoundError, PreconditionError

LEASE_S = 0.05


@pytest.fixture
def stage(make_stage: Callable[..., Stage]) -> Stage:
    return make_stage(buffer={"lease_s": LEASE_S, "max_deliveries": 2, "max_open_groups": 2})


async def reap_something(play: Rehearsal) -> None:
    """Poll until a lease has expired."""
    end = time.monotonic() + 10.0
    while not await play.buffer.reaper.reap():
        assert time.monotonic() < end


async def take_until_refused(play: Rehearsal, queue_name: str) -> None:
    """Two holders in a row take every entry and die."""
    queue = play.tasks if queue_name == "tasks" else play.scoring
    for holder in ("dies-first", "dies-second"):
        assert await queue.take(holder, wait_s=10.0, max_items=64)
    await reap_something(play)


async def test_a_task_is_buried_when_its_holders_keep_dying(stage: Stage) -> None:
    async with rehearse(stage) as play:
        await play.open()
        await take_until_refused(play, "tasks")
        await play.buffer.reaper.reap()
        await play.buffer.journal.flush()
        assert play.buffer.context.ledger.tallies() == {(State.INFRA_FAILED, "dead_letter"): 4}
        letters = await play.buffer.dead_letters.list_letters(0)
        assert [(letter.queue, letter.num_deliveries, letter.sample_id) for letter in letters] == [
            ("tasks", 2, "")
        ] * 2
        assert "delivered 2 times from tasks" in letters[0].reason
        assert (await play.tasks.stats()).num_leased == 0
        assert await play.tasks.take("late", wait_s=0.0, max_items=1) == []
        assert len(await play.buffer.dead_letters.list_letters(1)) == 1


async def test_a_scoring_task_is_buried_as_reward_failed(stage: Stage) -> None:
    async with rehearse(stage) as play:
        await play.open()
        samples = await play.generate(most=1)
        await take_until_refused(play, "scoring")
        await play.buffer.journal.flush()
        for sample in samples:
            row = play.buffer.context.ledger.read_sample(sample)
            assert row is not None and (row.state, row.reward) == (State.REWARD_FAILED, None)
        letters = await play.buffer.dead_letters.list_letters(0)
        assert sorted(letter.sample_id for letter in letters) == sorted(samples)


async def test_a_scoring_task_that_was_put_back_under_another_id_ends_all_the_same(stage: Stage) -> None:
    async with rehearse(stage) as play:
        await play.open()
        samples = await play.generate(most=1)
        for leased in await play.scoring.take("reward-0", wait_s=0.0, max_items=len(samples)):
            await play.scoring.put(leased.body)
            await play.scoring.settle(leased.lease)
        await take_until_refused(play, "scoring")
        await play.buffer.journal.flush()
        rows = [play.buffer.context.ledger.read_sample(sample) for sample in samples]
        assert [row.state for row in rows if row is not None] == [State.REWARD_FAILED] * len(samples)


async def test_what_is_in_keeps_its_place_when_the_rest_of_the_group_is_buried(
    make_stage: Callable[..., Stage],
) -> None:
    stage = make_stage(
        buffer={"lease_s": LEASE_S, "max_deliveries": 1, "max_open_groups": 2},
        sampling={"group_size": 3},
    )
    async with rehearse(stage) as play:
        await play.open()
        leased = (await play.take_tasks(most=1))[0]
        group = types_pb2.GenerationTask.FromString(leased.body).envelope.group_id
        for index in (0, 2):
            await play.submit(f"{group}/s{index:03d}", leased.lease)
        await reap_something(play)
        await play.score(lambda sample: float(sample.endswith("0")))
        assert (await play.buffer.context.live.standing()).ready_groups == 1


async def test_an_entry_is_spared_when_its_holder_is_alive(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(buffer={"lease_s": 60.0, "max_deliveries": 2})
    async with rehearse(stage) as play:
        await play.open()
        for leased in await play.take_tasks():
            await play.tasks.release(leased.lease)
        leases = [leased.lease for leased in await play.take_tasks(consumer="second")]
        assert {lease.fence for lease in leases} == {2}
        assert await play.buffer.reaper.reap() == 0
        assert await play.tasks.heartbeat(leases) == leases


async def test_poison_is_buried_without_a_group(stage: Stage) -> None:
    async with rehearse(stage) as play:
        await play.scoring.put(b"\xff no message")
        await take_until_refused(play, "scoring")
        letters = await play.buffer.dead_letters.list_letters(0)
        assert [(letter.group_id, letter.sample_id) for letter in letters] == [("", "")]
        assert await play.buffer.dead_letters.redrive([]) == 0


async def test_prompts_get_new_groups_once_when_letters_are_redriven(stage: Stage) -> None:
    async with rehearse(stage) as play:
        await play.open()
        await take_until_refused(play, "tasks")
        await play.buffer.reaper.reap()
        await play.buffer.journal.flush()
        ledger = play.buffer.context.ledger
        old = [ledger.read_group(f"{stage.run_id}/g{index:08d}") for index in range(2)]
        with pytest.raises(NotFoundError, match="'tasks:9-9' does not exist"):
            await play.buffer.dead_letters.redrive(["tasks:9-9"])
        assert await play.buffer.dead_letters.redrive([]) == 2
        assert await play.buffer.dead_letters.redrive([]) == 0
        new = [ledger.read_group(f"{stage.run_id}/g{index:08d}") for index in range(2, 4)]
        assert [row.prompt_id for row in new if row] == [row.prompt_id for row in old if row]
        assert [row.redrive_of for row in new if row] == [row.group_id for row in old if row]
        assert ledger.tallies() == {(State.INFRA_FAILED, "dead_letter"): 4}
        assert await play.buffer.opener.redrive([row.group_id for row in old if row]) == 0
        before = ledger.next_position()
        await play.fill()
        await play.open()
        third = ledger.read_group(f"{stage.run_id}/g{4:08d}")
        assert third is not None and third.position == before == 2
        assert audit_run(stage.folder, stage.redis_url).ok


async def test_nothing_is_redriven_when_the_run_is_not_running(stage: Stage) -> None:
    async with rehearse(stage) as play:
        async with play.buffer.context.turn:
            await play.buffer.phases.set_phase(Phase.PAUSED, "later")
        with pytest.raises(PreconditionError, match="the run is paused"):
            await play.buffer.dead_letters.redrive([])
