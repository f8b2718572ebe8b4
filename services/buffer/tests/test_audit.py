"""The audit: nothing to say of a sound run, and every kind of violation found when it is planted."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from forklight_buffer.audit import Kind, audit_run
from forklight_buffer.audit.__main__ import main
from forklight_buffer.audit.reading import read_live_groups
from forklight_buffer.keys import BufferKeys
from forklight_buffer.records import Commit
from forklight_buffer.rehearsal import Rehearsal, Stage, rehearse
from forklight_buffer.states import Phase, State
from forklight_core.errors import DataLossError, NotFoundError, UnavailableError
from forklight_core.ports import free_ports
from forklight_core.queues.keys import RunKeys


@pytest_asyncio.fixture
async def trained(make_stage: Callable[..., Stage]) -> AsyncIterator[Rehearsal]:
    """Three steps learned, one of them given up and learned again, one batch outstanding."""
    async with rehearse(make_stage(buffer={"max_staleness": 5})) as play:
        await play.restore()
        await play.fill(lambda sample: 1.0 if "g00000001" in sample else float(sample.endswith("0")))
        records = [await play.train(step) for step in (1, 2, 3)]
        await play.restore(lineage="l0001", step=2)
        records[2] = await play.train(3)
        await play.batch(4)
        await play.buffer.journal.flush()
        write_checkpoint(play.stage.folder, "l0002", 3, records[2:])
        yield play


def write_checkpoint(folder: Path, lineage: str, step: int, records: list[Commit]) -> None:
    place = folder / "checkpoints" / f"step-{step:08d}"
    place.mkdir(parents=True, exist_ok=True)
    named = [
        {
            "lineage": record.lineage,
            "step": record.step,
            "batch_id": record.batch_id,
            "sample_ids": list(record.sample_ids),
        }
        for record in records
    ]
    (place / "commit.json").write_text(json.dumps({"lineage": lineage, "step": step, "records": named}))


def plant(folder: Path, statement: str) -> None:
    with sqlite3.connect(folder / "ledger.sqlite") as connection:
        connection.execute(statement)
    connection.close()


def kinds_of(play: Rehearsal, *, with_redis: bool = True) -> set[Kind]:
    report = audit_run(play.stage.folder, play.stage.redis_url if with_redis else None)
    return {violation.kind for violation in report.violations}


async def test_a_sound_run_has_no_violation(trained: Rehearsal) -> None:
    stage = trained.stage
    report = audit_run(stage.folder, stage.redis_url)
    assert report.ok, report.to_table()
    assert report.terminal == {"trained": 12, "filtered/all_equal": 2}
    assert report.num_samples == report.num_terminal + report.num_open == 24
    assert report.open_states == {"leased": 4, "ready": 6}
    assert [(line.lineage, line.num_steps, line.is_current) for line in report.lineages] == [
        ("l0001", 3, False),
        ("l0002", 1, True),
    ]
    assert (report.num_rollbacks, report.num_checkpoints) == (4, 1)


async def test_open_samples_are_resumable_when_redis_is_away(trained: Rehearsal) -> None:
    report = audit_run(trained.stage.folder, None)
    assert report.ok and report.num_open == 10 and not report.live_state_read
    assert "open (resumable)" in report.to_table()
    assert json.loads(report.to_json())["ok"] is True


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        (
            "INSERT INTO conflicts (at, sample_id, kept, refused, detail) VALUES (0, 'x', 12, 10, 'planted')",
            Kind.CONFLICT,
        ),
        (
            "INSERT INTO commits SELECT 'l0002', 4, batch_id, sample_ids, at FROM commits WHERE step = 1",
            Kind.DUPLICATE,
        ),
        ("DELETE FROM samples WHERE sample_id LIKE '%g00000001/s000'", Kind.LOST),
        ("UPDATE samples SET group_id = 'nobody' WHERE sample_id LIKE '%g00000001/s000'", Kind.FOREIGN),
        (
            "UPDATE samples SET sample_id = group_id || '/s077' WHERE sample_id LIKE '%g00000001/s000'",
            Kind.FOREIGN,
        ),
        ("INSERT INTO notes VALUES ('phase', '4')", Kind.OPEN_AFTER_FINISH),
        ("DELETE FROM commits WHERE step = 2", Kind.COMMIT_GAP),
        ("UPDATE samples SET state = 12 WHERE state = 10 AND step = 1", Kind.NOT_TRAINED),
        ("UPDATE samples SET step = 2 WHERE state = 10 AND step = 1", Kind.NOT_TRAINED),
        ("UPDATE samples SET state = 10, step = 1 WHERE state = 11", Kind.NOT_COMMITTED),
        ("UPDATE commits SET sample_ids = '[]' WHERE lineage = 'l0002'", Kind.CHECKPOINT_MISMATCH),
        ("UPDATE tallies SET num = num + 1", Kind.TALLY),
    ],
)
async def test_a_planted_violation_is_found(trained: Rehearsal, statement: str, kind: Kind) -> None:
    plant(trained.stage.folder, statement)
    assert kind in kinds_of(trained)


async def test_a_loss_in_redis_is_found(trained: Rehearsal) -> None:
    stage = trained.stage
    group = f"{stage.run_id}/g00000009"
    await trained.outside.redis.delete(f"forklight:{{{stage.run_id}}}:g:{group}")
    assert kinds_of(trained) == {Kind.LOST}
    assert kinds_of(trained, with_redis=False) == set()
    await trained.restart_buffer()
    assert kinds_of(trained) == set()


async def test_a_group_nobody_opened_is_found_in_redis(trained: Rehearsal) -> None:
    plant(trained.stage.folder, "DELETE FROM groups WHERE group_id LIKE '%g00000009'")
    assert kinds_of(trained) == {Kind.FOREIGN}


@pytest.mark.parametrize(
    ("state", "segments", "fault"),
    [
        (1, "0|2|b3:a|9|0\n2|3|b3:b|9|0\n", ""),
        (1, "0|2|b3:a|9|0\n3|3|b3:b|9|0\n", "has a segment of 3 tokens at 3, expected at 2"),
        (1, "1|2|b3:a|9|0\n", "has a segment of 2 tokens at 1, expected at 0"),
        (1, "0|11|b3:a|9|0\n", "has 11 saved tokens, its window is 10"),
        (4, "0|2|b3:a|9|0\n", "is ready and still has 1 segments"),
        (10, "0|2|b3:a|9|0\n", "is trained and still has 1 segments"),
    ],
)
async def test_segments_that_must_not_be_are_found(
    trained: Rehearsal, state: int, segments: str, fault: str
) -> None:
    stage = trained.stage
    group = f"{stage.run_id}/g00000009"
    fields = {"s0": f"{state}|0|0|5|9|", "g0": segments}
    await trained.outside.redis.hset(f"forklight:{{{stage.run_id}}}:g:{group}", mapping=fields)
    report = audit_run(stage.folder, stage.redis_url)
    found = [wrong for wrong in report.violations if wrong.kind is Kind.SEGMENT]
    assert [(wrong.subject, wrong.detail) for wrong in found] == ([(f"{group}/s000", fault)] if fault else [])
    assert report.num_saved_tokens == sum(int(line.split("|")[1]) for line in segments.splitlines())
    assert "saved tokens" in report.to_table()


async def test_what_has_ended_in_redis_is_not_open_although_the_buffer_died(trained: Rehearsal) -> None:
    stage = trained.stage
    await trained.buffer.context.live.set_run({"phase": "4"})
    plant(stage.folder, "INSERT INTO notes VALUES ('phase', '4')")
    assert kinds_of(trained) == {Kind.OPEN_AFTER_FINISH}
    for group in await trained.buffer.context.live.live_groups():
        await trained.buffer.context.live.close_group(group, State.CANCELLED, "run_finished", leased_too=True)
    assert kinds_of(trained) == set()
    assert audit_run(stage.folder, stage.redis_url).open_states == {"cancelled": 10}
    await trained.restart_buffer()
    assert audit_run(stage.folder, None).ok


async def test_a_checkpoint_ahead_of_the_ledger_is_a_note_until_the_run_is_finished(
    trained: Rehearsal,
) -> None:
    stage = trained.stage
    record = trained.record(await trained.batch(4))
    write_checkpoint(stage.folder, "l0002", 4, [record])
    report = audit_run(stage.folder, stage.redis_url)
    assert report.ok
    assert "its records are entered when it is restored" in report.notes[0]
    async with trained.buffer.context.turn:
        await trained.buffer.phases.set_phase(Phase.FINISHED, "enough")
    assert kinds_of(trained) == {Kind.CHECKPOINT_MISMATCH, Kind.OPEN_AFTER_FINISH}
    await trained.restore(lineage="l0002", step=4, commits=(record,))
    assert kinds_of(trained) == set()


async def test_a_checkpoint_of_a_stranger_is_found(trained: Rehearsal) -> None:
    write_checkpoint(trained.stage.folder, "l0099", 9, [])
    assert kinds_of(trained) == {Kind.CHECKPOINT_MISMATCH}
    (trained.stage.folder / "checkpoints/step-00000009/commit.json").write_text("{")
    with pytest.raises(DataLossError, match="is no commit record"):
        audit_run(trained.stage.folder, None)


def test_a_folder_without_a_ledger_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        audit_run(tmp_path, None)


async def test_the_command_says_it_with_its_exit_code(
    trained: Rehearsal, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(trained.stage.folder)
    assert main([folder]) == 0
    assert "result" in capsys.readouterr().out
    plant(trained.stage.folder, "DELETE FROM commits WHERE step = 2")
    assert main([folder, "--redis-url", trained.stage.redis_url, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["violations"][0]["kind"] == "commit_gap"


def test_a_redis_that_is_gone_is_told_with_what_to_do() -> None:
    keys = BufferKeys(RunKeys("t-gone"))
    with pytest.raises(UnavailableError, match="does not answer .* when it has ended"):
        read_live_groups(f"redis://127.0.0.1:{free_ports(1)[0]}/0", keys)
