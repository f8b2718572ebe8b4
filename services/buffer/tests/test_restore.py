"""After any crash, what the restored checkpoint has learned from is exactly what the ledger says: the whole
matrix.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from forklight_buffer.audit import audit_run
from forklight_buffer.records import Commit
from forklight_buffer.rehearsal import Rehearsal, Stage, rehearse, samples_of
from forklight_buffer.states import Phase, State
from forklight_core.errors import InvalidInputError, NotFoundError, PreconditionError

TRAINED = (State.TRAINED, "")


@pytest.fixture
def stage(make_stage: Callable[..., Stage]) -> Stage:
    """Far from every bound, so that many steps are ready."""
    return make_stage(buffer={"max_staleness": 9})


def trained_samples(play: Rehearsal) -> dict[str, tuple[str, int]]:
    """Every trained sample with its lineage and step."""
    rows = play.buffer.context.ledger._db.rows("SELECT * FROM samples WHERE state = 10")  # type: ignore[attr-defined]
    return {row["sample_id"]: (row["lineage"], row["step"]) for row in rows}


async def learn(play: Rehearsal, steps: range) -> list[Commit]:
    """Train and commit steps."""
    return [await play.train(step) for step in steps]


def check(stage: Stage, play: Rehearsal) -> None:
    """The audit finds nothing."""
    report = audit_run(stage.folder, stage.redis_url)
    assert report.ok, report.to_table()
    assert report.num_samples == report.num_terminal + report.num_open


async def test_nothing_changes_when_the_newest_checkpoint_is_restored(stage: Stage) -> None:
    async with rehearse(stage) as play:
        await play.restore()
        await play.fill()
        await learn(play, range(1, 3))
        outstanding = await play.batch(3)
    async with rehearse(stage) as play:
        restored = await play.restore(lineage="l0001", step=2)
        assert (restored.epoch, restored.lineage) == (2, "l0001")
        assert (restored.num_redelivered, restored.num_recovered) == (0, 0)
        assert await play.batch(3) == outstanding
        check(stage, play)


async def test_a_commit_is_recovered_when_it_was_lost_before_it_arrived(stage: Stage) -> None:
    async with rehearse(stage) as play:
        await play.restore()
        await play.fill()
        await learn(play, range(1, 2))
        record = play.record(await play.batch(2))
        restored = await play.restore(lineage="l0001", step=2, commits=(record,))
        assert (restored.lineage, restored.num_recovered, restored.num_redelivered) == ("l0001", 4, 0)
        assert {sample: trained_samples(play)[sample] for sample in record.sample_ids} == dict.fromkeys(
            record.sample_ids, ("l0001", 2)
        )
        again = await play.commit(record)
        assert (again.num_trained, again.num_duplicates) == (0, 4)
        await learn(play, range(3, 4))
        check(stage, play)


async def test_a_commit_is_known_when_only_its_reply_was_lost(stage: Stage) -> None:
    async with rehearse(stage) as play:
        await play.restore()
        await play.fill()
        records = await learn(play, range(1, 3))
        restored = await play.restore(lineage="l0001", step=2, commits=tuple(records))
        assert (restored.lineage, restored.num_recovered) == ("l0001", 0)
        assert (await play.commit(*records)).num_duplicates == 8
        check(stage, play)


async def test_steps_are_delivered_again_exactly_when_an_older_checkpoint_is_restored(stage: Stage) -> None:
    async with rehearse(stage) as play:
        await play.restore()
        await play.fill()
        records = await learn(play, range(1, 5))
        outstanding = await play.batch(5)
        restored = await play.restore(lineage="l0001", step=2)
        assert (restored.lineage, restored.num_redelivered, restored.num_recovered) == ("l0002", 8, 0)
        assert set(trained_samples(play)) == {
            sample for record in records[:2] for sample in record.sample_ids
        }
        for step in (3, 4):
            assert tuple(samples_of(await play.batch(step))) == records[step - 1].sample_ids
        assert await play.batch(5) == outstanding
        check(stage, play)
        await learn(play, range(3, 6))
        assert {lineage for lineage, step in trained_samples(play).values() if step > 2} == {"l0002"}
        assert audit_run(stage.folder, stage.redis_url).num_rollbacks == 8
        check(stage, play)


async def test_everything_is_delivered_again_when_a_trainer_starts_fresh(stage: Stage) -> None:
    async with rehearse(stage) as play:
        await play.restore()
        await play.announce(0)
        await play.fill()
        records = await learn(play, range(1, 4))
        await play.announce(3)
        restored = await play.restore()
        assert (restored.lineage, restored.num_redelivered) == ("l0002", 12)
        assert trained_samples(play) == {}
        assert play.buffer.context.ledger.control().version == 0
        for step in (1, 2, 3):
            assert tuple(samples_of(await play.batch(step))) == records[step - 1].sample_ids
        check(stage, play)


async def test_samples_end_as_infra_failed_when_their_payload_is_gone(stage: Stage) -> None:
    async with rehearse(stage) as play:
        await play.restore()
        await play.fill()
        records = await learn(play, range(1, 4))
        gone = records[1].sample_ids[:3]
        for sample in gone:
            row = play.buffer.context.ledger.read_sample(sample)
            assert row is not None
            stage.blobs.delete(row.payload_id)
        restored = await play.restore(lineage="l0001", step=1)
        assert restored.num_redelivered == 5
        tallies = play.buffer.context.ledger.tallies()
        assert tallies[(State.INFRA_FAILED, "blob_lost")] == 3
        assert TRAINED in tallies and tallies[TRAINED] == 4
        new_step_two = samples_of(await play.batch(2))
        assert not set(gone) & set(new_step_two)
        await learn(play, range(2, 4))
        check(stage, play)


async def test_the_given_up_line_can_be_taken_up_again(stage: Stage) -> None:
    """Fork at 2, learn on, then restore a checkpoint of the first line after all."""
    async with rehearse(stage) as play:
        await play.restore()
        await play.fill()
        first = await learn(play, range(1, 5))
        await play.restore(lineage="l0001", step=2)
        await learn(play, range(3, 4))
        restored = await play.restore(lineage="l0001", step=4)
        assert restored.lineage == "l0003"
        assert trained_samples(play) == {
            sample: ("l0001", record.step) for record in first for sample in record.sample_ids
        }
        assert restored.num_recovered == 8
        check(stage, play)
        await learn(play, range(5, 6))
        check(stage, play)


async def test_groups_are_ready_again_when_the_step_they_were_for_is_learned_otherwise(stage: Stage) -> None:
    """The fork learned other samples at step 2; the first line comes back, and those samples must not be
    lost.
    """
    async with rehearse(stage) as play:
        await play.restore()
        await play.fill()
        record = play.record(await play.batch(1))
        await play.commit(record)
        first = play.record(await play.batch(2))
        await play.commit(first)
        await play.restore(lineage="l0001", step=1)
        for sample in first.sample_ids:
            await play.buffer.batches.report_lost(epoch=play.epoch, sample_id=sample, reason="gone")
        other = await play.train(2)
        assert not set(other.sample_ids) & set(first.sample_ids)
        await play.restore(lineage="l0001", step=2)
        assert set(trained_samples(play)) == set(record.sample_ids) | set(first.sample_ids)
        check(stage, play)
        assert set(samples_of(await play.batch(3))) == set(other.sample_ids)


async def test_a_lost_sample_is_trained_when_a_checkpoint_that_learned_it_comes_back(stage: Stage) -> None:
    """Learned, not committed; a trainer of an older checkpoint reports it lost; the newer one is restored."""
    async with rehearse(stage) as play:
        await play.restore()
        await play.fill()
        record = play.record(await play.batch(1))
        await play.restore()
        lost = record.sample_ids[0]
        await play.buffer.batches.report_lost(epoch=play.epoch, sample_id=lost, reason="gone")
        restored = await play.restore(lineage="l0001", step=1, commits=(record,))
        assert restored.num_recovered == 4
        assert set(trained_samples(play)) == set(record.sample_ids)
        await play.buffer.journal.flush()
        check(stage, play)


async def test_a_checkpoint_with_a_step_nobody_recorded_is_refused(stage: Stage) -> None:
    async with rehearse(stage) as play:
        await play.restore()
        await play.fill()
        record = play.record(await play.batch(1))
        with pytest.raises(PreconditionError, match="step 2 is neither in the ledger"):
            await play.restore(lineage="l0001", step=2, commits=(record,))
        with pytest.raises(PreconditionError, match="'l0009', which the ledger"):
            await play.restore(lineage="l0009", step=0)
        with pytest.raises(InvalidInputError, match="has no lineage"):
            await play.restore(step=3)
        stranger = Commit(
            lineage="l0001", step=1, batch_id="b", sample_ids=(f"{stage.run_id}/g99999999/s000",)
        )
        with pytest.raises(NotFoundError, match="never opened"):
            await play.restore(lineage="l0001", step=1, commits=(stranger,))
        assert play.buffer.context.ledger.control().epoch == 1


async def test_a_restore_may_be_repeated_when_its_reply_was_lost(stage: Stage) -> None:
    async with rehearse(stage) as play:
        await play.restore()
        await play.fill()
        await learn(play, range(1, 4))
        for epoch in (2, 3, 4):
            restored = await play.restore(lineage="l0001", step=1)
            assert (restored.epoch, restored.lineage) == (epoch, "l0002")
        await learn(play, range(2, 4))
        check(stage, play)


async def test_a_finished_run_goes_on_when_an_older_checkpoint_is_restored(
    make_stage: Callable[..., Stage],
) -> None:
    stage = make_stage(trainer={"steps": 2})
    async with rehearse(stage) as play:
        await play.restore()
        await play.fill()
        await learn(play, range(1, 3))
        assert play.buffer.context.ledger.control().phase is Phase.FINISHED
        await play.restore(lineage="l0001", step=1)
        assert play.buffer.context.ledger.control().phase is Phase.RUNNING
        await learn(play, range(2, 3))
        assert play.buffer.context.ledger.control().phase is Phase.FINISHED
        check(stage, play)


async def test_what_was_left_out_stays_left_out_when_the_commit_is_recovered(stage: Stage) -> None:
    async with rehearse(stage) as play:
        await play.restore()
        await play.fill()
        whole = play.record(await play.batch(1))
        part = Commit(lineage="l0001", step=1, batch_id=whole.batch_id, sample_ids=whole.sample_ids[:3])
        assert (await play.restore(lineage="l0001", step=1, commits=(part,))).num_recovered == 3
        assert play.buffer.context.ledger.tallies() == {TRAINED: 3, (State.FILTERED, "left_out"): 1}
        check(stage, play)


async def test_the_bound_is_that_of_the_restored_checkpoint_when_steps_were_given_up(stage: Stage) -> None:
    """Groups delivered again count as leased, so rolling back does not let a burst of new groups in."""
    async with rehearse(stage) as play:
        await play.restore()
        await play.announce(0)
        await play.fill()
        await learn(play, range(1, 4))
        for version in (1, 2, 3):
            await play.announce(version)
        await play.open()
        before = await play.buffer.context.live.standing()
        await play.restore(lineage="l0001", step=1, version=1)
        after = await play.buffer.context.live.standing()
        assert (after.version, after.step, after.leased_groups) == (1, 1, 4)
        assert after.open_groups == before.open_groups
        assert await play.open() == 0
