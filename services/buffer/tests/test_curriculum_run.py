"""A curriculum in a run: exact after a restart, gone back with the trainer, learning domain by domain."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from forklight.v1 import types_pb2
from forklight_buffer.adapters.sqlite import SqliteLedger
from forklight_buffer.audit import audit_run
from forklight_buffer.curriculum.curriculum import Curriculum
from forklight_buffer.rehearsal import Rehearsal, Stage, rehearse
from forklight_buffer.states import Phase
from forklight_core import ids
from services.buffer.tests.curriculum_world import (
    START,
    assert_near,
    book_of,
    domain_rows,
    run_file_of,
    state_of,
    write_rows,
)

POSITIONS = range(10_000, 10_200)
MIX = [
    *domain_rows("math", 60),
    *domain_rows("code", 60, synthetic=True),
    *[row for level in (1, 2, 3) for row in domain_rows("logic", 20, source="sudoku", level=level)],
]
CURRICULUM = {
    "on": True,
    "domains": {"math": {"weight": 2.0}, "code": {"by_step": [[0, 0.0], [4, 1.0]]}, "logic": {}},
    "levels": {"min_groups": 2, "smoothing": 0.5},
}

RUN_FILE = run_file_of(**CURRICULUM)


@pytest.fixture
def stage(make_stage: Callable[..., Stage], tmp_path: Path) -> Stage:
    prompts = {"train": str(write_rows(tmp_path / "mix.jsonl", MIX))}
    return make_stage(prompts=prompts, curriculum=CURRICULUM, buffer={"max_staleness": 9})


def some_pass(sample: str) -> float:
    """Some groups all right, some all wrong, some mixed, by their number."""
    number, index = int(ids.group_of(sample)[-8:]), ids.sample_index(sample)
    return [1.0, 1.0 - index % 2, float(index % 2), 0.0][number % 4]


def curriculum_of(play: Rehearsal) -> Curriculum:
    assert isinstance(play.buffer.order, Curriculum)
    return play.buffer.order


async def next_picks(play: Rehearsal, *, fresh: bool = False, all_closed: bool = False) -> list[str]:
    """What would be picked next, by this buffer or by one that starts now; nothing is opened."""
    curriculum = curriculum_of(play)
    if fresh:
        curriculum = Curriculum(play.buffer.context, play.buffer.steering, curriculum._book)
    standing = await play.buffer.context.live.standing()
    await curriculum.pick(range(0), standing)
    if all_closed:
        curriculum.state.set_open({})
    picked = await curriculum.pick(POSITIONS, standing)
    curriculum.look_again()
    return [prompt.prompt_id for prompt in picked]


async def generate(play: Rehearsal) -> None:
    """Training tasks alone: a look into an empty queue takes tens of milliseconds."""
    for leased in await play.tasks.take("rollout-0", wait_s=0.0, max_items=64):
        group = types_pb2.GenerationTask.FromString(leased.body).envelope.group_id
        for pending in await play.buffer.intake.pending_samples(group, leased.lease):
            await play.submit(ids.sample_id(group, pending.index), leased.lease)


async def learn(play: Rehearsal, *steps: int) -> None:
    for step in steps:
        await play.fill(some_pass)
        await play.train(step)


def evidence_of(play: Rehearsal) -> list[tuple[str, int, float, int, str]]:
    rows = play.buffer.context.ledger._db.rows("SELECT * FROM evidence ORDER BY number")  # type: ignore[attr-defined]
    return [(row["group_id"], row["num_scored"], row["passed"], row["step"], row["lineage"]) for row in rows]


async def test_a_buffer_that_starts_again_picks_exactly_what_the_dead_one_would_have(stage: Stage) -> None:
    async with rehearse(stage) as play:
        await play.restore()
        for step in range(1, 8):
            await learn(play, step)
        await play.open()
        picks = await next_picks(play)
        assert len(set(picks)) > 50
        assert await next_picks(play, fresh=True) == picks
        await play.restart_buffer()  # the process was killed
        assert await next_picks(play) == picks
    async with rehearse(stage) as play:
        assert await next_picks(play) == picks
        async for key in play.outside.redis.scan_iter(match=f"forklight:{{{stage.run_id}}}:*"):
            await play.outside.redis.delete(key)  # and Redis lost everything
        await play.buffer.recover()
        assert await next_picks(play) == picks
        assert audit_run(stage.folder, stage.redis_url).ok


KILLED = """
import os, signal, sys
from pathlib import Path
from forklight_buffer.adapters.sqlite import SqliteLedger
from services.buffer.tests import curriculum_world as world
from services.buffer.tests.test_curriculum_run import MIX, RUN_FILE

ledger, book = SqliteLedger(Path(sys.argv[1]) / "ledger.sqlite"), world.book_of(Path(sys.argv[1]), MIX)
names = [prompt.prompt_id for prompt in book.prompts[::7]]
world.enter_groups(ledger, range(60), names)
state = world.state_of(ledger, book, RUN_FILE)
world.enter_groups(ledger, range(60, 90), names)
page = ledger.evidence(after=state.last_number, limit=10_000, with_open=True)
state.learn(page)
state.set_open(page.open_prompts)
print(*(state.draw(position, world.START) for position in range(200)), flush=True)
with ledger._db.transaction():
    world.enter_groups(ledger, range(90, 99), names)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_picks_are_those_of_a_process_that_was_killed_while_it_wrote(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    book, ledger = book_of(tmp_path, MIX), SqliteLedger(tmp_path / "ledger.sqlite")
    state = state_of(ledger, book, RUN_FILE)
    ledger.close()
    assert state.last_number == 72 and len(state.changes) > 0
    assert [state.draw(position, START) for position in range(200)] == list(map(int, child.stdout.split()))


async def test_a_finished_group_counts_once_however_often_it_is_said(stage: Stage) -> None:
    async with rehearse(stage) as play:
        await play.restore()
        await play.fill(some_pass)
        record = play.record(await play.batch(1))
        for _ in range(3):
            await play.commit(record)
            await play.buffer.journal.flush()
        await play.restart_buffer()
        await play.restore(lineage="l0001", step=1)
        await learn(play, 2)
        found = evidence_of(play)
        assert len({group for group, *_ in found}) == len(found) > 4
        closed = play.buffer.context.ledger._db.number("SELECT count(*) FROM groups WHERE closed = 1")  # type: ignore[attr-defined]
        assert len(found) == closed
        assert {(scored, passed) for _, scored, passed, *_ in found} == {(2, 2.0), (2, 1.0), (2, 0.0)}


async def test_a_roll_back_takes_the_curriculum_to_where_it_was(stage: Stage) -> None:
    async with rehearse(stage) as play:
        await play.restore()
        await learn(play, 1, 2, 3)
        await play.fill(some_pass)
        known = len(evidence_of(play))
        picks = await next_picks(play, all_closed=True)
        await learn(play, 4, 5, 6, 7)
        assert await next_picks(play, all_closed=True) != picks
        position = play.buffer.context.ledger.next_position()
        await play.restore(lineage="l0001", step=3)
        assert await next_picks(play, all_closed=True) == picks
        assert await next_picks(play, all_closed=True, fresh=True) == picks
        assert len(evidence_of(play)) > known  # nothing is deleted, it does not count
        assert play.buffer.context.ledger.next_position() == position  # no position is filled twice
        await learn(play, 4, 5)
        other = await next_picks(play, all_closed=True)
        assert other != picks
        counted = Counter(group for group, *_, lineage in evidence_of(play) if lineage == "l0002")
        assert counted and set(counted.values()) == {1}
    async with rehearse(stage) as play:
        await play.restore(lineage="l0001", step=3)
        assert await next_picks(play, all_closed=True) == picks
        await play.restore(lineage="l0002", step=5)  # the line that was given up is taken up again
        assert await next_picks(play, all_closed=True) == other
        assert audit_run(stage.folder, stage.redis_url).ok


async def test_what_was_picked_and_not_opened_is_not_taken_for_open(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rehearse(stage) as play:
        await play.restore()
        await play.open()
        await play.generate()
        await play.score(some_pass)
        await play.buffer.journal.flush()
        picks = await next_picks(play)

        def full(rows: object) -> None:
            raise OSError("no space left on device")

        with monkeypatch.context() as broken:
            broken.setattr(play.buffer.context.ledger, "journal_groups", full)
            with pytest.raises(OSError, match="no space"):
                await play.open()
        assert await next_picks(play) == picks
        assert await play.open() > 0


async def test_evaluation_is_not_touched_and_leaves_no_trace(
    make_evaluated: Callable[..., Stage], tmp_path: Path
) -> None:
    stage = make_evaluated(sections={"curriculum": {"on": True}})
    async with rehearse(stage) as play:
        await play.restore()
        await play.announce(2)
        await play.open()
        tasks = [types_pb2.GenerationTask.FromString(each.body) for each in await play.take_tasks()]
        held_out = [task.prompt_id for task in tasks if task.purpose == types_pb2.PURPOSE_EVALUATE]
        assert held_out == ["p000", "p001", "p002"]
    async with rehearse(stage) as play:
        play.stage.clock.advance(99.0)
        await play.buffer.phases.set_phase(Phase.FINISHED, "enough")
        groups = [group for group, *_ in evidence_of(play)]
        assert groups and not [group for group in groups if "/e" in group]


@dataclass(slots=True)
class Scholar:
    """Gets a prompt right the more often the more groups of that domain and level it has learned from."""

    learned: Counter[str] = field(default_factory=Counter)
    names: dict[str, str] = field(default_factory=dict)
    drawn: list[str] = field(default_factory=list)

    def reward(self, sample: str) -> float:
        skill = self.learned[self.names[ids.group_of(sample)].rpartition("-")[0]] / 6
        return float((ids.sample_index(sample) + 0.5) / 4 < min(skill + 0.3, 0.8))

    async def learn_step(self, play: Rehearsal, step: int) -> None:
        for _ in range(9):
            if (await play.lease(step)).batch:
                break
            await play.open()
            for group in play.buffer.context.ledger.open_groups():
                if group.row.group_id not in self.names:
                    self.names[group.row.group_id] = group.row.prompt_id
                    self.drawn.append(group.row.prompt_id)
            await generate(play)
            await play.score(self.reward)
            await play.buffer.journal.flush()
        record = await play.train(step)
        await play.announce(step)
        for group_id in {ids.group_of(sample) for sample in record.sample_ids}:
            self.learned[self.names[group_id].rpartition("-")[0]] += 1


LESSONS = {
    "curriculum": {
        "on": True,
        "domains": {"logic": {}, "general": {"by_step": [[6, 0.0], [12, 1.0]]}},
        "levels": {"min_groups": 4, "smoothing": 0.7},
    },
    "sampling": {"group_size": 4},
    "trainer": {"groups_per_step": 4},
    "buffer": {"max_staleness": 1, "max_open_groups": 8},
}


async def test_a_policy_learns_domain_by_domain_and_the_levels_rise_with_it(
    make_stage: Callable[..., Stage], tmp_path: Path
) -> None:
    """General prompts come in from step 6 on."""
    mazes = [row for level in (1, 2, 3, 4) for row in domain_rows("logic", 30, source="maze", level=level)]
    path = write_rows(tmp_path / "mix.jsonl", [*mazes, *domain_rows("general", 60)])
    stage, scholar = make_stage(prompts={"train": str(path)}, **LESSONS), Scholar()
    async with rehearse(stage) as play:
        await play.restore()
        for step in range(1, 25):
            await scholar.learn_step(play, step)
        assert audit_run(stage.folder, stage.redis_url).ok
        assert curriculum_of(play).state.ladders["maze"].level == 4
        events = play.buffer.context.ledger.reported_events(after=0, limit=99, newest_first=False)
    told = [types_pb2.RunEvent.FromString(event.body) for event in events]
    rises = [json.loads(event.evidence_json) for event in told if event.kind == "curriculum_level"]
    assert [(rise["before"], rise["after"]) for rise in rises] == [(1, 2), (2, 3), (3, 4)]
    assert all(rise["average_pass_rate"] > 0.5 and rise["num_groups"] >= 4 for rise in rises)
    parts = [name.rpartition("-")[0] for name in scholar.drawn]
    assert set(parts[:8]) == {"logic-maze-1"} and "logic-maze-1" not in parts[-20:]
    late = [name == "general" for name in parts[-40:]]
    assert_near(sum(late), len(late), 0.5)
    assert "general" not in parts[: 6 * 4]
