"""What a judge has to tell stands in the run's events, once."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from forklight.v1 import buffer_pb2, buffer_pb2_grpc, types_pb2
from forklight_buffer.adapters.sqlite import SqliteLedger
from forklight_buffer.app import run as run_buffer
from forklight_buffer.curriculum.judged import JUDGED_KIND, JudgedWeight
from forklight_buffer.settings import BufferSettings
from forklight_core.errors import DeadlineError, InvalidInputError, UnavailableError
from forklight_core.ports import free_ports
from forklight_core.redis_server import start_embedded
from forklight_core.rpc import open_channel
from forklight_reward.app import run_judge
from forklight_reward.front.route import TaskKind
from forklight_reward.judge.recalibration import Calibration, Level, Recalibrator
from forklight_reward.judge.store import CalibrationStore
from forklight_reward.settings import JudgeSettings

RUN_ID = "r-judge"
RUN_FILE = """
[prompts]
train = "{folder}/prompts.jsonl"
[recipe]
overlong_penalty = false
"""


def switch_off(folder: Path) -> None:
    """As a judge that leads would have."""
    off = Calibration(level=Level.OFF, beta=0.2, anchor=6.0)
    made = CalibrationStore(folder).propose(
        replace(Recalibrator().state, pending=off), {"levels": 4}, known=0
    )
    assert made is not None


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[buffer_pb2_grpc.BufferStub]:
    """A buffer and a judge of one run."""
    (folder / "prompts.jsonl").write_text(
        json.dumps({"id": "a", "prompt": "1+1?", "kind": "math", "gold": "2"})
    )
    (folder / "run.toml").write_text(RUN_FILE.format(folder=folder))
    buffer, judge = (f"127.0.0.1:{port}" for port in free_ports(2))
    shared = {"run_file": folder / "run.toml", "run_folder": folder, "run_id": RUN_ID}
    stop = asyncio.Event()
    with start_embedded(folder / "redis") as redis:
        stores = {"redis_url": redis.url, "blobs_url": f"file://{folder}/blobs"}
        async with asyncio.TaskGroup() as tasks, open_channel(buffer) as channel:
            settings = BufferSettings.model_validate({**shared, **stores, "listen": buffer})
            tasks.create_task(run_buffer(settings, stop))
            told = JudgeSettings.model_validate({**shared, "listen": judge, "buffer_address": buffer})
            tasks.create_task(run_judge(told, stop))
            try:
                yield buffer_pb2_grpc.BufferStub(channel)
            finally:
                stop.set()


async def events_of(stub: buffer_pb2_grpc.BufferStub) -> list[types_pb2.RunEvent]:
    """What the console and `forklight status` show, once there is something."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            status = await stub.GetStatus(buffer_pb2.GetStatusRequest(run_id=RUN_ID), timeout=5)
        except (UnavailableError, DeadlineError):  # it is starting
            status = buffer_pb2.GetStatusReply()
        if status.events:
            return list(status.events)
        await asyncio.sleep(0.05)
    raise AssertionError("nothing was told")


async def test_a_judge_that_is_off_is_an_alert_of_the_run_told_once(tmp_path: Path) -> None:
    switch_off(tmp_path)
    async with running(tmp_path) as stub:
        (event,) = await events_of(stub)
        request = buffer_pb2.ReportEventsRequest(run_id=RUN_ID, events=[event])
        assert (await stub.ReportEvents(request, timeout=5)).num_entered == 0  # as after a restart
        request.events[0].kind = "No kind"
        with pytest.raises(InvalidInputError, match="kind"):
            await stub.ReportEvents(request, timeout=5)
    assert (event.id, event.kind) == ("judge-level-4", "judge_recalibrated")
    assert event.severity == types_pb2.SEVERITY_ALERT
    assert "abstains" in event.title
    judged = JudgedWeight(SqliteLedger(tmp_path / "ledger.sqlite"))
    judged.catch_up()
    assert judged.factor == json.loads(event.evidence_json)["general_weight"] == 0.0
    assert not event.undone


def test_the_curriculum_knows_judged_prompts_by_the_kind_that_the_front_sends_to_judges() -> None:
    assert JUDGED_KIND == TaskKind.JUDGE
