"""Leases and commits: exact re-delivery, order, and what a lost reply does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from forklight_buffer.rehearsal import Stage, mixed_reward, rehearse, samples_of
from forklight_buffer.states import Outcome, Phase, State
from forklight_core.errors import FencedError, InvalidInputError, NotFoundError, PreconditionError


async def test_a_batch_is_delivered_again_exactly_when_the_buffer_is_restarted(
    make_stage: Callable[..., Stage],
) -> None:
    stage = make_stage(buffer={"max_staleness": 4})
    async with rehearse(stage) as play:
        await play.restore()
        await play.fill()
        first, second = await play.batch(1), await play.batch(2)
        assert not set(samples_of(first)) & set(samples_of(second))
    async with rehearse(stage) as play:
        await play.restore()
        assert await play.batch(2) == second
        assert await play.batch(1) == first


async def test_an_older_trainer_is_fenced_when_a_newer_one_restored(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.restore()
        await play.fill()
        record = play.record(await play.batch(1))
        await play.restore()
        play.epoch -= 1
        with pytest.raises(FencedError, match="another trainer restored"):
            await play.lease(1)
        with pytest.raises(FencedError, match="another trainer restored"):
            await play.commit(record)
        with pytest.raises(FencedError, match="another trainer restored"):
            await play.announce(1)
        with pytest.raises(FencedError, match="another trainer restored"):
            await play.buffer.batches.report_lost(
                epoch=play.epoch, sample_id=record.sample_ids[0], reason="gone"
            )


async def test_steps_are_refused_when_they_are_out_of_order(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.restore()
        await play.fill()
        with pytest.raises(PreconditionError, match="step 2 cannot be leased before step 1"):
            await play.lease(2)
        record = play.record(await play.batch(1))
        with pytest.raises(PreconditionError, match="step 1 is missing"):
            await play.commit(replace(record, step=2))
        await play.commit(record)
        with pytest.raises(PreconditionError, match="step 1 is committed already"):
            await play.lease(1)
        with pytest.raises(PreconditionError, match="2 others"):
            await play.commit(replace(record, sample_ids=record.sample_ids[:2]))
        with pytest.raises(PreconditionError, match="lineage 'other'"):
            await play.commit(replace(record, step=2, lineage="other"))


async def test_a_commit_of_strangers_is_refused(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.restore()
        await play.fill()
        record = play.record(await play.batch(1))
        stranger = f"{play.stage.run_id}/g00000005/s000"
        with pytest.raises(PreconditionError, match="not delivered with 1 of its samples"):
            await play.commit(replace(record, sample_ids=(*record.sample_ids[1:], stranger)))
        with pytest.raises(PreconditionError, match="names a sample twice"):
            await play.commit(replace(record, sample_ids=record.sample_ids + record.sample_ids[:1]))
        assert play.buffer.context.ledger.tallies() == {}


async def test_what_the_trainer_left_out_is_filtered(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.restore()
        await play.fill()
        record = play.record(await play.batch(1))
        await play.commit(replace(record, sample_ids=record.sample_ids[:3]))
        tallies = play.buffer.context.ledger.tallies()
        assert tallies == {(State.TRAINED, ""): 3, (State.FILTERED, "left_out"): 1}
        standing = await play.buffer.context.live.standing()
        assert (standing.leased_groups, standing.ready_groups) == (0, 4)


async def test_a_batch_goes_on_without_a_lost_sample(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage(in_memory=True, sampling={"group_size": 4})) as play:
        await play.restore()
        await play.fill()
        lost = samples_of(await play.batch(1))[0]
        report = play.buffer.batches.report_lost
        assert await report(epoch=1, sample_id=lost, reason="blob is corrupt") is Outcome.ACCEPTED
        assert await report(epoch=1, sample_id=lost, reason="blob is corrupt") is Outcome.DUPLICATE
        batch = await play.batch(1)
        assert len(samples_of(batch)) == 7 and lost not in samples_of(batch)
        await play.commit(play.record(batch))
        tallies = play.buffer.context.ledger.tallies()
        assert tallies == {(State.TRAINED, ""): 7, (State.INFRA_FAILED, "blob_lost"): 1}
        with pytest.raises(InvalidInputError, match="is in no batch"):
            await report(epoch=1, sample_id=f"{play.stage.run_id}/g00000004/s000", reason="x")
        with pytest.raises(NotFoundError):
            await report(epoch=1, sample_id=f"{play.stage.run_id}/g00000999/s000", reason="x")
        assert await report(epoch=1, sample_id=samples_of(batch)[0], reason="x") is Outcome.DROPPED


async def test_a_new_batch_is_made_when_a_whole_batch_was_lost(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.restore()
        await play.fill()
        lost = samples_of(await play.batch(1))
        for sample in lost[::2]:
            await play.buffer.batches.report_lost(epoch=1, sample_id=sample, reason="gone")
        batch = await play.batch(1)
        assert len(samples_of(batch)) == 4 and not set(lost) & set(samples_of(batch))
        tallies = play.buffer.context.ledger.tallies()
        assert tallies == {(State.INFRA_FAILED, "blob_lost"): 2, (State.FILTERED, "too_few_scored"): 2}


async def test_a_second_terminal_state_is_refused_and_recorded(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.restore()
        await play.fill()
        record = play.record(await play.batch(1))
        lost = record.sample_ids[0]
        await play.buffer.batches.report_lost(epoch=1, sample_id=lost, reason="gone")
        with pytest.raises(PreconditionError, match=f"{lost} is infra_failed"):
            await play.commit(record)
        conflicts = play.buffer.context.ledger.conflicts()
        assert {(item.sample_id, item.kept, item.refused) for item in conflicts} == {
            (record.sample_ids[0], State.INFRA_FAILED, State.TRAINED),
            (record.sample_ids[1], State.FILTERED, State.TRAINED),
        }
        assert play.buffer.context.ledger.control().step == 0


async def test_the_run_is_finished_when_the_last_step_is_committed(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage(in_memory=True, trainer={"steps": 1})) as play:
        await play.restore()
        await play.fill()
        await play.train(1)
        leasing = await play.lease(2)
        assert (leasing.batch, leasing.phase, leasing.reason) == (
            None,
            Phase.FINISHED,
            "all 1 steps are done",
        )
        tallies = play.buffer.context.ledger.tallies()
        assert tallies == {(State.TRAINED, ""): 4, (State.CANCELLED, "run_finished"): 8}
        assert await play.buffer.context.live.live_groups() == []
        with pytest.raises(PreconditionError, match=r"raise trainer\.steps"):
            await play.buffer.phases.set_phase(Phase.RUNNING, "")


async def test_the_run_goes_on_when_more_steps_are_asked_for(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(trainer={"steps": 1})
    async with rehearse(stage) as play:
        await play.restore()
        await play.fill()
        await play.train(1)
    trainer = stage.run_file.trainer.model_copy(update={"steps": 2})
    more = stage.with_run_file(stage.run_file.model_copy(update={"trainer": trainer}))
    async with rehearse(more) as play:
        await play.buffer.resume_after_start()
        await play.restore(lineage="l0001", step=1)
        await play.announce(1)
        await play.fill()
        await play.train(2)
        assert play.buffer.context.ledger.control().phase is Phase.FINISHED


async def test_a_waiting_trainer_is_answered_when_the_groups_become_ready(
    make_stage: Callable[..., Stage],
) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.restore()
        await play.open()
        waiting = asyncio.create_task(play.lease(1, wait_s=20.0))
        await play.generate()
        await play.score(mixed_reward)
        leasing = await asyncio.wait_for(waiting, 10.0)
        assert leasing.batch is not None
