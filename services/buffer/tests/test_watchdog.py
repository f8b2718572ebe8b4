"""Looking for what is stuck costs little when nothing is, however many groups are old."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from forklight.v1 import types_pb2
from forklight_buffer.live import LiveGroup
from forklight_buffer.rehearsal import Rehearsal, Stage, rehearse
from forklight_buffer.watchdog import GROUPS_AT_ONCE
from forklight_core import ids

MakeStage = Callable[..., Stage]
NUM_GROUPS = GROUPS_AT_ONCE + 5


async def test_old_groups_whose_samples_move_are_not_read(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds = {"watchdog_s": 100.0, "max_open_groups": NUM_GROUPS, "max_staleness": 100}
    async with rehearse(make_stage(in_memory=True, num_prompts=64, buffer=bounds)) as play:
        await play.open()
        leases = await play.take_tasks(most=NUM_GROUPS)
        groups = [types_pb2.GenerationTask.FromString(each.body).envelope.group_id for each in leases]
        assert len(groups) == NUM_GROUPS
        play.stage.clock.advance(90)
        for leased, group in zip(leases, groups, strict=True):
            for index in range(2):
                sample = ids.sample_id(group, index)
                await play.save(sample, play.segment(sample, 0), leased.lease)
        play.stage.clock.advance(90)
        read = count_reads(play, monkeypatch)
        assert await play.buffer.watchdog.find_stuck() == []
        assert read == []
        still = ids.sample_id(groups[-1], 1)
        play.stage.clock.advance(5)
        for leased, group in zip(leases, groups, strict=True):
            for index in range(2):
                sample = ids.sample_id(group, index)
                if sample != still:
                    await play.save(sample, play.segment(sample, 2), leased.lease)
        play.stage.clock.advance(10)
        assert [each.sample_id for each in await play.buffer.watchdog.find_stuck()] == [still]
        assert read == [groups[-1]]


def count_reads(play: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the groups that are read whole from now on."""
    live, read = play.buffer.context.live, list[str]()
    read_group = live.read_group

    async def note(group_id: str) -> LiveGroup | None:
        read.append(group_id)
        return await read_group(group_id)

    monkeypatch.setattr(live, "read_group", note)
    return read
