"""Redis and the ledger disagree after a crash: what each crash leaves behind, and how it is mended."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forklight.v1 import types_pb2
from forklight_buffer.audit import audit_run
from forklight_buffer.rehearsal import Rehearsal, Stage, mixed_reward, rehearse, samples_of
from forklight_buffer.rows import row_of_live
from forklight_buffer.states import Outcome, State
from forklight_core.errors import BusyError, UnavailableError
from forklight_core.redis_server import EmbeddedRedis, start_embedded

MakeStage = Callable[..., Stage]


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A server that the test may stop."""
    with start_embedded(tmp_path / "redis") as running:
        yield running


def roll_back(server: EmbeddedRedis, copy: Path) -> None:
    """The host died: Redis comes back with an older state of its folder."""
    server.process.terminate()
    server.process.wait()
    shutil.rmtree(server.folder / "appendonlydir")
    shutil.copytree(copy, server.folder / "appendonlydir")
    server.restart()


def copy_state(server: EmbeddedRedis, copy: Path) -> Path:
    """What is on disk now; everything acknowledged is in the file, because Redis writes before it replies."""
    shutil.copytree(server.folder / "appendonlydir", copy)
    return copy


async def everything_ends_once(play: Rehearsal, steps: range) -> None:
    """Go on to the end and let the audit judge."""
    stage = play.stage
    for step in steps:
        if (await play.lease(step)).batch is None:
            await play.fill()
        await play.train(step)
        await play.announce(step)
    report = audit_run(stage.folder, stage.redis_url)
    assert report.ok, report.to_table()
    assert report.num_samples == report.num_terminal + report.num_open


async def test_nothing_is_written_on_a_restarted_server_before_it_is_reconciled(
    make_stage: MakeStage, own_server: EmbeddedRedis
) -> None:
    async with rehearse(make_stage(redis_url=own_server.url)) as play:
        await play.restore()
        await play.fill()
        own_server.restart()
        noticed = []
        play.buffer.gate.on_close = lambda: noticed.append(True)
        with pytest.raises(UnavailableError, match="Redis restarted"):
            await play.lease(1)
        with pytest.raises(UnavailableError, match="reconciling"):
            await play.lease(1)
        assert noticed == [True]
        assert await play.buffer.recover() == 0
        assert (await play.lease(1)).batch is not None


async def test_all_is_there_when_redis_was_killed(make_stage: MakeStage, own_server: EmbeddedRedis) -> None:
    async with rehearse(make_stage(redis_url=own_server.url)) as play:
        await play.restore()
        await play.open()
        await play.generate(most=3)
        before = await play.buffer.context.live.open_counts()
        own_server.process.kill()
        own_server.process.wait()
        own_server.restart()
        assert await play.buffer.recover() == 0
        assert await play.buffer.context.live.open_counts() == before
        await everything_ends_once(play, range(1, 3))


async def test_lost_groups_are_opened_again_under_their_own_names_when_redis_rolled_back(
    make_stage: MakeStage, own_server: EmbeddedRedis, tmp_path: Path
) -> None:
    async with rehearse(make_stage(redis_url=own_server.url)) as play:
        await play.restore()
        copy = copy_state(own_server, tmp_path / "copy")
        await play.open()
        groups = await play.buffer.context.live.live_groups()
        samples = await play.generate()
        roll_back(own_server, copy)
        assert await play.buffer.recover() == 6
        assert await play.buffer.context.live.live_groups() == groups
        assert await play.open() == 0
        assert sorted(await play.generate()) == sorted(samples)
        await everything_ends_once(play, range(1, 3))


async def test_an_outstanding_batch_is_delivered_exactly_when_redis_forgot_it(
    make_stage: MakeStage, own_server: EmbeddedRedis, tmp_path: Path
) -> None:
    async with rehearse(make_stage(redis_url=own_server.url)) as play:
        await play.restore()
        await play.open()
        await play.generate()
        copy = copy_state(own_server, tmp_path / "copy")
        await play.score(mixed_reward)
        first, second = await play.batch(1), await play.batch(2)
        roll_back(own_server, copy)
        assert await play.buffer.recover() == 4
        assert await play.batch(1) == first
        assert await play.batch(2) == second
        await everything_ends_once(play, range(1, 4))


async def test_trained_samples_stay_trained_when_redis_rolled_back_behind_the_commit(
    make_stage: MakeStage, own_server: EmbeddedRedis, tmp_path: Path
) -> None:
    async with rehearse(make_stage(redis_url=own_server.url)) as play:
        await play.restore()
        await play.open()
        await play.generate()
        await play.score(lambda sample: 1.0 if "g00000005" in sample else mixed_reward(sample))
        copy = copy_state(own_server, tmp_path / "copy")
        record = await play.train(1)
        await play.announce(1)
        roll_back(own_server, copy)
        await play.buffer.recover()
        standing = await play.buffer.context.live.standing()
        assert (standing.step, standing.version, standing.ready_groups) == (1, 1, 3)
        assert not set(record.sample_ids) & set(samples_of(await play.batch(2)))
        await everything_ends_once(play, range(2, 5))


async def test_all_is_opened_again_when_redis_lost_its_folder(
    make_stage: MakeStage, own_server: EmbeddedRedis
) -> None:
    async with rehearse(make_stage(redis_url=own_server.url)) as play:
        await play.restore()
        await play.announce(0)
        await play.fill()
        record = await play.train(1)
        outstanding = await play.batch(2)
        own_server.process.kill()
        own_server.process.wait()
        shutil.rmtree(own_server.folder / "appendonlydir")
        own_server.restart()
        assert await play.buffer.recover() == 4
        assert await play.batch(2) == outstanding
        assert play.buffer.context.ledger.read_sample(record.sample_ids[0]) is not None
        await everything_ends_once(play, range(2, 5))


async def test_a_commit_is_finished_when_the_buffer_died_after_the_ledger_had_it(
    make_stage: MakeStage,
) -> None:
    stage = make_stage()
    async with rehearse(stage) as play:
        await play.restore()
        await play.fill()
        record = play.record(await play.batch(1))
        trained, left_out = await play.buffer.batches.commit_rows(record)
        play.buffer.context.ledger.enter_commit(record, trained, left_out, 0.0)
    async with rehearse(stage) as play:
        standing = await play.buffer.context.live.standing()
        assert (standing.step, standing.leased_groups) == (1, 0)
        await play.buffer.journal.flush()
        assert len(await play.buffer.context.live.live_groups()) == 4
        await play.restore(lineage="l0001", step=1)
        await everything_ends_once(play, range(2, 4))


async def test_a_decision_is_journalled_when_the_buffer_died_before_the_ledger_had_it(
    make_stage: MakeStage,
) -> None:
    stage = make_stage()
    async with rehearse(stage) as play:
        await play.open()
        await play.generate()
        await play.score(lambda _: 1.0)
    async with rehearse(stage) as play:
        assert play.buffer.context.ledger.tallies() == {}
        assert await play.buffer.journal.flush() == 12
        assert await play.buffer.journal.flush() == 0
        assert play.buffer.context.ledger.tallies() == {(State.FILTERED, "all_equal"): 12}


async def test_a_group_is_forgotten_when_the_buffer_died_after_the_ledger_had_it(
    make_stage: MakeStage,
) -> None:
    stage = make_stage()
    async with rehearse(stage) as play:
        await play.open()
        await play.generate(most=1)
        await play.score(lambda _: 1.0)
        live = play.buffer.context.live
        group = await live.read_group(f"{stage.run_id}/g00000000")
        assert group is not None
        play.buffer.context.ledger.enter_samples([row_of_live(group, sample) for sample in group.samples])
    async with rehearse(stage) as play:
        await play.buffer.journal.flush()
        assert len(await play.buffer.context.live.live_groups()) == 5
        assert play.buffer.context.ledger.conflicts() == []


async def test_a_rewind_is_finished_when_the_buffer_died_before_redis_knew(make_stage: MakeStage) -> None:
    stage = make_stage(buffer={"max_staleness": 5})
    async with rehearse(stage) as play:
        await play.restore()
        await play.fill()
        records = [await play.train(step) for step in (1, 2, 3)]
        ledger = play.buffer.context.ledger
        rewind = ledger.plan_rewind("l0001", 1, ())
        ledger.apply_rewind(rewind, [], epoch=7, version=0, window=0, at=0.0)
    async with rehearse(stage) as play:
        restored = await play.restore(lineage="l0001", step=1)
        assert (restored.epoch, restored.lineage) == (8, "l0002")
        for step in (2, 3):
            assert tuple(samples_of(await play.batch(step))) == records[step - 1].sample_ids
        await everything_ends_once(play, range(2, 6))


async def test_samples_end_when_their_prompt_was_removed_from_the_file(
    make_stage: MakeStage, own_server: EmbeddedRedis, tmp_path: Path
) -> None:
    stage = make_stage(redis_url=own_server.url)
    async with rehearse(stage) as play:
        copy = copy_state(own_server, tmp_path / "copy")
        await play.open()
    (tmp_path / "train.jsonl").write_text('{"id": "new", "prompt": "?", "kind": "math", "gold": "1"}\n')
    roll_back(own_server, copy)
    async with rehearse(stage) as play:
        assert play.buffer.context.ledger.tallies() == {(State.INFRA_FAILED, "prompt_lost"): 12}
        assert await play.open() == 6
        assert "prompt_lost" in (tmp_path / "events.jsonl").read_text()


async def test_a_full_redis_refuses_new_work_and_lets_old_work_end(
    make_stage: MakeStage, own_server: EmbeddedRedis
) -> None:
    async with rehearse(make_stage(redis_url=own_server.url)) as play:
        await play.open()
        leased = (await play.take_tasks(most=1))[0]
        samples = await play.generate(most=1)
        await play.outside.redis.config_set("maxmemory", "1")
        group = types_pb2.GenerationTask.FromString(leased.body).envelope.group_id
        with pytest.raises(BusyError, match="Redis is full"):
            await play.submit(f"{group}/s000", leased.lease)
        assert sorted(await play.score(lambda _: 1.0)) == sorted(samples)
        assert await play.buffer.journal.flush() == 2
        await play.outside.redis.config_set("maxmemory", "0")
        assert await play.submit(f"{group}/s000", leased.lease) is Outcome.ACCEPTED


async def test_a_redis_that_is_not_in_charge_is_unavailable_for_a_while(
    make_stage: MakeStage, own_server: EmbeddedRedis
) -> None:
    async with rehearse(make_stage(redis_url=own_server.url)) as play:
        await play.outside.redis.replicaof("127.0.0.1", "1")
        with pytest.raises(UnavailableError):
            await play.open()
        await play.outside.redis.replicaof("NO", "ONE")
        assert await play.open() == 6
