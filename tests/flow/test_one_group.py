"""One group, then a second, through all services: prompt to gradient to new weights; the ledger agrees."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path

from forklight.v1 import buffer_pb2, buffer_pb2_grpc, rollout_pb2, rollout_pb2_grpc
from forklight_buffer.audit import audit_run
from forklight_core.rpc import open_channel
from tests.flow.one_process import RUN_ID, run_all, write_run

STEPS = 2
DEADLINE_S = 90.0


async def test_group_reaches_the_optimizer_and_the_next_one_uses_its_weights(tmp_path: Path) -> None:
    rows = [
        {"id": f"p{number}", "prompt": f"{number}+1=", "kind": "math", "gold": str(number + 1)}
        for number in range(9)
    ]
    async with run_all(tmp_path, write_run(tmp_path, steps=STEPS, rows=rows)) as system:
        async with asyncio.timeout(DEADLINE_S):
            await system.trainer_ended.wait()
        async with (
            open_channel(system.addresses["buffer"]) as buffer,
            open_channel(system.addresses["rollout"]) as pod,
        ):
            request = buffer_pb2.GetStatusRequest(run_id=RUN_ID)
            status = await buffer_pb2_grpc.BufferStub(buffer).GetStatus(request, timeout=5)
            pod_status = await rollout_pb2_grpc.RolloutStub(pod).GetRolloutStatus(
                rollout_pb2.GetRolloutStatusRequest(), timeout=5
            )
    assert (status.phase, status.step, status.version) == (buffer_pb2.RUN_PHASE_FINISHED, STEPS, STEPS)
    assert pod_status.problem == ""
    steps = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2]
    assert steps[0]["correlation"] > 0.99
    assert steps[0]["max_dp"] < 1e-3
    report = audit_run(tmp_path, None)
    assert report.violations == ()
    assert trained_by_step(tmp_path / "ledger.sqlite") == {1: 4, 2: 4}


def trained_by_step(ledger: Path) -> dict[int, int]:
    with sqlite3.connect(ledger) as database:
        rows = database.execute(
            "SELECT step, COUNT(*) FROM samples WHERE state = 10 GROUP BY step"
        ).fetchall()
    return dict(rows)
