"""What people ask: status, samples by page, what is stuck and where; and blobs that are deleted in time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from forklight.v1 import buffer_pb2, types_pb2
from forklight_buffer.rehearsal import Rehearsal, Stage, rehearse, samples_of
from forklight_core import ids
from forklight_core.errors import InvalidInputError

MakeStage = Callable[..., Stage]


async def list_all(play: Rehearsal, *, limit: int = 3, **chosen: object) -> list[buffer_pb2.SampleRecord]:
    found: list[buffer_pb2.SampleRecord] = []
    after = ""
    while True:
        request = buffer_pb2.ListSamplesRequest(run_id="r", limit=limit, after=after, **chosen)  # type: ignore[arg-type]
        reply = await play.buffer.inspection.list_samples(request)
        found += reply.samples
        after = reply.next
        if not after:
            return found


async def test_every_sample_is_counted_once_wherever_it_is(make_stage: MakeStage) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.restore()
        await play.announce(0)
        await play.open()
        await play.generate(most=5)
        await play.score(lambda sample: 1.0 if "g00000000" in sample else float(sample.endswith("0")), most=8)
        await play.train(1)
        status = await play.buffer.inspection.status()
        counts = {
            (types_pb2.SampleState.Name(item.state)[13:], item.reason): item.num_samples
            for item in status.counts
        }
        assert counts == {
            ("QUEUED", ""): 2,
            ("GENERATED", ""): 2,
            ("READY", ""): 2,
            ("FILTERED", "all_equal"): 2,
            ("TRAINED", ""): 4,
        }
        assert [(item.name, item.num_waiting, item.num_leased) for item in status.queues] == [
            ("tasks", 1, 0),
            ("evaluate", 0, 0),
            ("scoring", 2, 0),
        ]
        assert (status.num_open_groups, status.num_ready_groups, status.step, status.version) == (2, 1, 1, 0)
        assert status.credit_tokens == 1_000_000_000 - 2 * 10 - 4 * 5
        assert status.weights.manifest_id == "b3:" + "0" * 64
        assert status.lineage == "l0001"


async def test_status_says_who_holds_entries(make_stage: MakeStage) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.restore()
        await play.announce(0)
        await play.open()
        for pod in ("pod-a", "pod-b"):
            assert await play.tasks.take(pod, wait_s=1, max_items=1)
        tasks = (await play.buffer.inspection.status()).queues[0]
        assert {(each.name, each.num_leased) for each in tasks.holders} == {("pod-a", 1), ("pod-b", 1)}


async def test_samples_are_listed_by_page_open_and_ended_alike(make_stage: MakeStage) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.restore()
        await play.fill(lambda sample: 1.0 if "g00000003" in sample else float(sample.endswith("0")))
        batch = await play.batch(1)
        await play.commit(play.record(batch))
        names = [item.sample_id for item in await list_all(play)]
        run = play.stage.run_id
        assert names == [
            ids.sample_id(ids.training_group_id(run, group), i) for group in range(6) for i in range(2)
        ]
        trained = await list_all(play, state=types_pb2.SAMPLE_STATE_TRAINED)
        assert [item.sample_id for item in trained] == samples_of(batch)
        assert {(item.lineage, item.step) for item in trained} == {("l0001", 1)}
        ready = await list_all(play, state=types_pb2.SAMPLE_STATE_READY)
        assert len(ready) == 6 and all(item.payload.id for item in ready)
        group = await list_all(play, group_id=f"{run}/g00000003")
        assert [(item.state, item.reason, item.reward) for item in group] == [
            (types_pb2.SAMPLE_STATE_FILTERED, "all_equal", 1.0)
        ] * 2
        with pytest.raises(InvalidInputError, match="state 77 is not known"):
            await list_all(play, state=77)


async def test_what_is_stuck_is_named_with_place_holder_and_time(make_stage: MakeStage) -> None:
    async with rehearse(make_stage(in_memory=True, buffer={"watchdog_s": 100.0})) as play:
        await play.restore()
        await play.fill(lambda sample: None if "g00000005/s000" in sample else float(sample.endswith("0")))
        await play.batch(1)
        play.stage.clock.advance(101)
        assert await play.buffer.watchdog.watch() == 10
        stuck = {item.sample_id[-13:]: item.where for item in await play.buffer.watchdog.find_stuck()}
        assert stuck["g00000000/s000"[-13:]] == "batch of step 1, held by the trainer"
        assert stuck["g00000003/s001"[-13:]].startswith("ready groups")


async def test_what_waits_in_a_queue_is_named_with_its_entry(make_stage: MakeStage) -> None:
    stage = make_stage(in_memory=True, buffer={"watchdog_s": 100.0, "max_open_groups": 3})
    async with rehearse(stage) as play:
        await play.open()
        await play.generate(most=1)
        await play.scoring.take("reward-7", wait_s=0, max_items=1)
        await play.score(lambda _: 1.0)
        await play.take_tasks(consumer="rollout-7", most=1)
        play.stage.clock.advance(99)
        assert await play.buffer.watchdog.find_stuck() == []
        play.stage.clock.advance(2)
        where = [item.where for item in await play.buffer.watchdog.find_stuck()]
        assert len(where) == 6
        assert "queue scoring" in where[0] and "held by reward-7 (delivery 1)" in where[0]
        assert where[1].endswith("waits for 1 other samples")
        assert "queue tasks" in where[2] and "held by rollout-7 (delivery 1)" in where[2]
        assert where[4].endswith("nobody takes it")


async def test_payloads_stay_while_a_kept_checkpoint_may_need_them(make_stage: MakeStage) -> None:
    stage = make_stage(
        buffer={"max_staleness": 9}, checkpoints={"keep_last": 2}, trainer={"checkpoint_every_steps": 1}
    )
    async with rehearse(stage) as play:
        await play.restore()
        await play.fill(lambda sample: 1.0 if "g00000000" in sample else float(sample.endswith("0")))
        records = [await play.train(step) for step in range(1, 5)]
        assert await play.buffer.retention.clean() == 0
        stage.clock.advance(61)
        assert await play.buffer.retention.clean() == 2 + 2 * 4
        assert await play.buffer.retention.clean() == 0
        kept = {sample: step for step, record in enumerate(records, 1) for sample in record.sample_ids}
        for sample, step in kept.items():
            row = play.buffer.context.ledger.read_sample(sample)
            assert row is not None and stage.blobs.exists(row.payload_id) == (step > 2)
        restored = await play.restore(lineage="l0001", step=2)
        assert restored.num_redelivered == 8
        assert (await play.restore(lineage="l0001", step=0)).num_redelivered == 0
