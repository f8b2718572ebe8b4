"""The opener: bounds hold, survive a restart, and stop the run with their name when they can never be met."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from forklight.v1 import types_pb2
from forklight_buffer.assembly import read_books
from forklight_buffer.rehearsal import Stage, rehearse
from forklight_buffer.states import Phase, Purpose
from forklight_core.errors import ConfigError


async def test_the_bound_holds_when_the_buffer_is_restarted_again_and_again(
    make_stage: Callable[..., Stage],
) -> None:
    stage = make_stage(buffer={"max_staleness": 1})
    for _ in range(3):
        async with rehearse(stage) as play:
            await play.open()
            assert await play.open() == 0
            standing = await play.buffer.context.live.standing()
            assert standing.open_groups == (1 + 0 + 1) * 2
    async with rehearse(stage) as play:
        await play.restore()
        await play.generate()
        await play.score(lambda sample: float(sample.endswith("0")))
        await play.train(1)
    async with rehearse(stage) as play:
        assert await play.open() == 0
        await play.restore(lineage="l0001", step=1)
        await play.announce(1)
    async with rehearse(stage) as play:
        assert await play.open() == 2


async def test_prompts_go_on_where_they_were_when_the_buffer_is_restarted(
    make_stage: Callable[..., Stage],
) -> None:
    stage = make_stage(buffer={"max_open_groups": 3}, trainer={"groups_per_step": 1})
    seen: list[str] = []
    for _ in range(4):
        async with rehearse(stage) as play:
            await play.open()
            for leased in await play.take_tasks(most=1):
                task = types_pb2.GenerationTask.FromString(leased.body)
                seen.append(task.prompt_id)
                for index in range(2):
                    sample = f"{task.envelope.group_id}/s{index:03d}"
                    await play.submit(sample, leased.lease)
            await play.score(lambda _: 0.0)
            await play.buffer.journal.flush()
    book = read_books(stage.run_file)[Purpose.TRAIN]
    assert seen == [book.at(position).prompt_id for position in range(4)]


async def test_people_are_told_when_the_prompt_file_changed(make_stage: Callable[..., Stage]) -> None:
    for num_prompts in (8, 8, 9):
        stage = make_stage(num_prompts=num_prompts)
        async with rehearse(replace(stage, run_id="t-prompts")) as play:
            await play.buffer.resume_after_start()
    events = (stage.folder / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in events] == ["prompts_changed"]


@pytest.mark.parametrize(
    ("bound", "value"), [("max_open_tokens", 19), ("max_open_bytes", 319)], ids=["tokens", "bytes"]
)
async def test_the_run_is_paused_with_the_name_of_the_bound_when_one_group_exceeds_it(
    make_stage: Callable[..., Stage], bound: str, value: int
) -> None:
    stage = make_stage(buffer={bound: value})
    async with rehearse(stage) as play:
        await play.restore()
        assert await play.open() == 0
        leasing = await play.lease(1)
        assert leasing.phase is Phase.PAUSED
        assert f"buffer.{bound}" in leasing.reason
    mended = stage.run_file.model_copy(
        update={"buffer": stage.run_file.buffer.model_copy(update={bound: 10**9})}
    )
    async with rehearse(stage.with_run_file(mended)) as play:
        await play.buffer.resume_after_start()
        assert await play.open() == 6


async def test_a_pause_of_a_person_stays_when_the_buffer_is_restarted(
    make_stage: Callable[..., Stage],
) -> None:
    stage = make_stage()
    async with rehearse(stage) as play:
        async with play.buffer.context.turn:
            await play.buffer.phases.set_phase(Phase.PAUSED, "parity gate")
        assert await play.open() == 0
    async with rehearse(stage) as play:
        await play.buffer.resume_after_start()
        assert await play.open() == 0
        assert play.buffer.context.ledger.control().reason == "parity gate"


async def test_groups_are_opened_when_redis_failed_between_ledger_and_task(
    make_stage: Callable[..., Stage],
) -> None:
    """Journalled, but not open: the next pass opens them first."""
    async with rehearse(make_stage(in_memory=True)) as play:
        play.buffer.gate.is_open = False
        play.buffer.gate.open()
        opener, live = play.buffer.opener, play.buffer.context.live
        standing = await live.standing()
        book = read_books(play.stage.run_file)[Purpose.TRAIN]
        row = opener._training_row(standing, 0, 0, book.at(0))
        play.buffer.context.ledger.journal_groups([row])
        opener._unopened.append(await opener._tasks.make_opening(row, book.at(0)))
        assert await play.open() == 6
        assert len(await play.take_tasks()) == 6


def test_a_group_of_one_is_refused_when_dynamic_sampling_is_on(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(sampling={"group_size": 1}, buffer={"min_scored_samples": 1})
    with pytest.raises(ConfigError, match="dynamic_sampling"):
        read_books(stage.run_file)


def test_a_run_without_prompts_is_refused(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(prompts={"train": ""})
    with pytest.raises(ConfigError, match=r"prompts\.train is empty"):
        read_books(stage.run_file)


async def test_a_folder_of_another_run_is_refused(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage()) as play:
        assert await play.open() == 6
    with pytest.raises(ConfigError, match="holds the ledger of run"):
        async with rehearse(make_stage()):
            pass
