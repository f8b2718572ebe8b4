"""The window the trainer moves and the events it reports: journalled, undone with their steps, bounded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from forklight.v1 import buffer_pb2, types_pb2
from forklight_buffer.adapters.sqlite import SqliteLedger
from forklight_buffer.records import ReportedEvent
from forklight_buffer.rehearsal import Rehearsal, Stage, rehearse, run_event
from forklight_buffer.states import Phase
from forklight_core.errors import FencedError, InvalidInputError
from forklight_core.runfile import first_window, largest_window

WINDOWS = [10, 20, 40]


@pytest.fixture
def stage(make_stage: Callable[..., Stage]) -> Stage:
    return make_stage(length={"windows": WINDOWS}, buffer={"max_staleness": 9, "max_open_groups": 6})


async def windows_of_tasks(play: Rehearsal, *, most: int = 64) -> list[int]:
    tasks = [types_pb2.GenerationTask.FromString(leased.body) for leased in await play.take_tasks(most=most)]
    return [task.sampling.max_new_tokens for task in tasks]


async def learn(play: Rehearsal, step: int, **steering: object) -> None:
    """One step, with new groups in the place of those it learned from."""
    await play.fill()
    await play.train(step, **steering)  # type: ignore[arg-type]


def titles(events: list[types_pb2.RunEvent]) -> list[str]:
    return [("undone " if event.undone else "") + event.id for event in events]


async def all_events(play: Rehearsal) -> list[types_pb2.RunEvent]:
    found, after = [], ""
    while True:
        request = buffer_pb2.ListEventsRequest(run_id=play.stage.run_id, limit=2, after=after)
        page = await play.buffer.inspection.list_events(request)
        found += page.events
        after = page.next
        if not after:
            return found


async def test_groups_opened_after_a_commit_have_its_window_and_others_keep_theirs(stage: Stage) -> None:
    async with rehearse(stage) as play:
        await play.restore()
        await learn(play, 1, window=20)
        assert await play.open() == 6
        assert await windows_of_tasks(play) == [20] * 6
        status = await play.buffer.inspection.status()
        assert status.window_tokens == 20
        rows = play.buffer.context.ledger.open_groups()
        assert sorted(group.row.window for group in rows) == [10] * 4 + [20] * 6
    async with rehearse(stage) as play:  # another buffer process
        assert (await play.buffer.inspection.status()).window_tokens == 20
        assert (await play.buffer.context.live.standing()).window == 20


async def test_a_sample_may_be_as_long_as_its_own_groups_window_and_is_scored_by_it(stage: Stage) -> None:
    async with rehearse(stage) as play:
        await play.restore(window=20)
        await play.open()
        leased = (await play.take_tasks(most=1))[0]
        await play.commit(window=10)
        group = types_pb2.GenerationTask.FromString(leased.body).envelope.group_id
        long = play.trajectory(f"{group}/s000", tokens=20)
        await play.buffer.intake.submit_trajectory(long, leased.lease)
        with pytest.raises(InvalidInputError, match="21 tokens, its window is 20"):
            await play.buffer.intake.submit_trajectory(
                play.trajectory(f"{group}/s001", tokens=21), leased.lease
            )
        scoring = (await play.scoring.take("reward-0", wait_s=0, max_items=1))[0]
        assert types_pb2.ScoringTask.FromString(scoring.body).window_tokens == 20


async def test_credit_admits_fewer_groups_of_a_larger_window(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(
        length={"windows": WINDOWS}, buffer={"max_staleness": 9, "max_open_tokens": 100, "max_open_groups": 9}
    )
    async with rehearse(stage) as play:
        await play.restore(window=20)
        assert await play.open() == 2
        assert (await play.buffer.context.live.standing()).held_tokens == 80
        await play.commit(window=10)
        assert await play.open() == 1
        assert (await play.buffer.context.live.standing()).held_tokens == 100


async def test_a_window_that_one_group_cannot_have_pauses_the_run_with_its_name(
    make_stage: Callable[..., Stage],
) -> None:
    stage = make_stage(length={"windows": WINDOWS}, buffer={"max_open_tokens": 60})
    async with rehearse(stage) as play:
        await play.restore(window=40)
        assert await play.open() == 0
        control = play.buffer.context.ledger.control()
        assert control.phase is Phase.PAUSED
        assert "one group reserves 80 tokens (sampling.group_size x the window of 40)" in control.reason


async def test_what_a_restored_trainer_says_of_the_window_wins(stage: Stage) -> None:
    async with rehearse(stage) as play:
        await play.restore()
        await learn(play, 1, window=20)
        await learn(play, 2, window=40)
        await play.restore(lineage="l0001", step=1, window=20)
        assert (await play.buffer.context.live.standing()).window == 20
        await play.restore(lineage="l0001", step=2, window=0)
        assert (await play.buffer.inspection.status()).window_tokens == 10
        await play.commit(window=40)
    async with rehearse(stage) as play:
        assert (await play.buffer.inspection.status()).window_tokens == 40


async def test_the_window_survives_a_redis_that_lost_everything(stage: Stage) -> None:
    async with rehearse(stage) as play:
        await play.restore(window=20)
        async for key in play.outside.redis.scan_iter(match=f"forklight:{{{stage.run_id}}}:*"):
            await play.outside.redis.delete(key)
        await play.buffer.recover()
        await play.open()
        assert set(await windows_of_tasks(play)) == {20}


async def test_no_window_is_used_that_the_run_file_no_longer_names(
    make_stage: Callable[..., Stage], stage: Stage
) -> None:
    async with rehearse(stage) as play:
        await play.restore(window=40)
    smaller = stage.run_file.model_copy(
        update={"length": stage.run_file.length.model_copy(update={"windows": (10, 20)})}
    )
    async with rehearse(stage.with_run_file(smaller)) as play:
        assert (await play.buffer.inspection.status()).window_tokens == 20


async def test_events_are_entered_once_however_often_they_are_said(stage: Stage) -> None:
    events = [run_event("a", 1), run_event("b", 1)]
    async with rehearse(stage) as play:
        await play.restore()
        await play.fill()
        record = play.record(await play.batch(1))
        for _ in range(3):  # replies were lost
            await play.commit(record, window=20, events=events)
        await play.commit(
            record, window=20, events=[run_event("a", 1, title="other words"), run_event("c", 1)]
        )
        assert [event.title for event in await all_events(play)] == [
            "a happened", "b happened", "c happened",
        ]  # fmt: skip
    async with rehearse(stage) as play:
        assert titles(await all_events(play)) == ["a", "b", "c"]
    kinds = [json.loads(line)["kind"] for line in (stage.folder / "events.jsonl").read_text().splitlines()]
    assert kinds.count("reported") == 3 and kinds.count("window") == 1


async def test_events_of_steps_that_are_given_up_are_undone_and_may_happen_again(stage: Stage) -> None:
    async with rehearse(stage) as play:
        await play.restore(events=[run_event("start", 0)])
        for step in (1, 2, 3):
            await learn(play, step, events=[run_event(f"e{step}", step)])
        back = run_event("rolled-back", 3, severity=types_pb2.SEVERITY_ALERT)
        await play.restore(lineage="l0001", step=1, events=[back])
        assert titles(await all_events(play)) == ["start", "e1", "undone e2", "undone e3", "rolled-back"]
        await learn(play, 2, events=[run_event("e2", 2)])
        await play.restore(lineage="l0002", step=2)  # the trainer died: nothing is given up
        assert titles(await all_events(play)) == [
            "start", "e1", "undone e2", "undone e3", "rolled-back", "e2",
        ]  # fmt: skip
        await play.restore(lineage="l0001", step=3)  # the line that was given up is taken up again
        assert titles(await all_events(play)) == [
            "start", "e1", "e2", "e3", "rolled-back", "undone e2",
        ]  # fmt: skip
        await play.restore()
        assert [event.undone for event in await all_events(play)] == [False, True, True, True, True, True]


async def test_a_trainer_that_was_fenced_steers_nothing(stage: Stage) -> None:
    async with rehearse(stage) as play:
        await play.restore()
        await play.restore(window=20)
        play.epoch = 1
        with pytest.raises(FencedError):
            await play.commit(window=40, events=[run_event("late", 0)])
        status = await play.buffer.inspection.status()
        assert (status.window_tokens, list(status.events)) == (20, [])


async def test_pages_go_through_all_events_in_both_directions_and_status_has_the_last(stage: Stage) -> None:
    async with rehearse(stage) as play:
        await play.restore(events=[run_event(f"e{number:02d}", 0) for number in range(25)])
        status = await play.buffer.inspection.status()
        assert titles(list(status.events)) == [f"e{number:02d}" for number in range(5, 25)]
        assert titles(await all_events(play)) == [f"e{number:02d}" for number in range(25)]
        list_events = play.buffer.inspection.list_events
        newest = await list_events(buffer_pb2.ListEventsRequest(limit=20, newest_first=True))
        assert titles(list(newest.events))[:2] == ["e24", "e23"]
        rest = await list_events(buffer_pb2.ListEventsRequest(after=newest.next, newest_first=True))
        assert (titles(list(rest.events)), rest.next) == (["e04", "e03", "e02", "e01", "e00"], "")
        for after in ("x", "-1", "0", "9" * 30):
            with pytest.raises(InvalidInputError, match="is no place in the events"):
                await list_events(buffer_pb2.ListEventsRequest(after=after))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"id": ""}, "has the id ''"),
        ({"id": "a\nb"}, "has the id"),
        ({"id": "x" * 201}, "1 to 200 printable characters"),
        ({"kind": "Window moved"}, "kind is 'Window moved'"),
        ({"severity": types_pb2.SEVERITY_UNSPECIFIED}, "severity is 0"),
        ({"severity": 17}, "severity is 17"),
        ({"title": "  "}, "title has 2 characters"),
        ({"title": "x" * 1001}, "title has 1001 characters"),
        ({"at": float("nan")}, "at is nan"),
        ({"at": -1.0}, "at is -1.0"),
        ({"step": 2**63}, "step or version is beyond"),
        ({"evidence_json": json.dumps({"x": "y" * 2**16})}, "at most 65536 are kept"),
        ({"evidence_json": "{"}, "evidence_json is not JSON"),
        ({"evidence_json": "[" * 60_000}, "evidence_json is not JSON"),
        ({"evidence_json": "[1]"}, "evidence_json is not a JSON object"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
async def test_an_event_is_refused_by_field_and_nothing_of_its_call_is_entered(
    stage: Stage, fields: dict[str, object], problem: str
) -> None:
    event = run_event(**({"name": "e", "step": 1} | fields))  # type: ignore[arg-type]
    async with rehearse(stage) as play:
        await play.restore()
        await play.fill()
        record = play.record(await play.batch(1))
        with pytest.raises(InvalidInputError, match=re.escape(problem)):
            await play.commit(record, window=20, events=[run_event("sound", 1), event])
        assert play.buffer.context.ledger.control().step == 0
        assert await all_events(play) == []


async def test_the_largest_evidence_and_the_most_events_are_taken_and_one_more_is_not(stage: Stage) -> None:
    largest = json.dumps({"x": ""})
    evidence = json.dumps({"x": "y" * (2**16 - len(largest))})
    async with rehearse(stage) as play:
        await play.restore(events=[run_event("large", 0, evidence_json=evidence, at=0.0)])
        (event,) = await all_events(play)
        assert (len(event.evidence_json), event.at) == (2**16, play.stage.clock())
        many = [run_event(f"e{number}", 0) for number in range(101)]
        with pytest.raises(InvalidInputError, match="at most 100 are taken"):
            await play.commit(events=many)
        await play.commit(events=many[:100])
        assert len(await all_events(play)) == 101


async def test_a_window_no_pod_has_planned_for_is_refused(
    make_stage: Callable[..., Stage], stage: Stage
) -> None:
    async with rehearse(stage) as play:
        with pytest.raises(InvalidInputError, match="the largest window of this run is 40 tokens"):
            await play.restore(window=41)
        assert play.buffer.context.ledger.control().epoch == 0
        await play.restore(window=40)
    fixed = make_stage()
    assert (first_window(fixed.run_file), largest_window(fixed.run_file)) == (10, 10)


def test_a_report_belongs_to_the_last_committed_step_at_most() -> None:
    """An event of a step to come would look undone until that step is committed."""
    ledger = SqliteLedger(None)
    event = run_event("future", 90)
    entered = ledger.report_events(
        [ReportedEvent(event_id="future", step=90, body=event.SerializeToString())]
    )
    assert [one.step for one in entered] == [0]
    assert [one.undone for one in ledger.reported_events(after=0, limit=9, newest_first=False)] == [False]
