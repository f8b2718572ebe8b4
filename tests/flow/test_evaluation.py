"""Held-out rounds through all services: beside training, on their own queue, and the last one at the end."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import cast

from forklight.v1 import buffer_pb2, buffer_pb2_grpc, types_pb2
from forklight_buffer.audit import audit_run
from forklight_core.rpc import open_channel
from tests.flow.one_process import RUN_ID, run_all, write_run

STEPS = 3
DEADLINE_S = 120.0


def write_evaluated_run(folder: Path) -> Path:
    rows = [
        {"id": f"p{number}", "prompt": f"{number}+1=", "kind": "math", "gold": str(number + 1)}
        for number in range(9)
    ]
    run_file = write_run(folder, steps=STEPS, rows=rows)
    (folder / "holdout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:4]))
    text = run_file.read_text().replace(
        "every_versions = 0",
        "every_versions = 2\nsamples_per_prompt = 3\npass_at = [1, 3]\nfinal_wait_s = 60",
    )
    run_file.write_text(
        text.replace("[sampling]", f'holdout = "{folder}/holdout.jsonl"\n[sampling]').replace(
            "[recipe]", "[length]\nwindows = [8, 12]\n[recipe]"
        )
    )
    return run_file


async def wait_finished(stub: buffer_pb2_grpc.BufferAsyncStub) -> list[buffer_pb2.GetStatusReply]:
    """Every status until the run is finished."""
    seen, end = [], time.monotonic() + DEADLINE_S
    while True:
        request = buffer_pb2.GetStatusRequest(run_id=RUN_ID)
        seen.append(await stub.GetStatus(request, timeout=5))
        if seen[-1].phase == buffer_pb2.RUN_PHASE_FINISHED:
            return seen
        assert time.monotonic() < end, seen[-1]
        await asyncio.sleep(0.1)


async def test_every_due_version_and_the_last_one_are_evaluated_before_the_run_finishes(
    tmp_path: Path,
) -> None:
    async with run_all(tmp_path, write_evaluated_run(tmp_path)) as system:
        async with asyncio.timeout(DEADLINE_S):
            await system.trainer_ended.wait()  # it does not wait for the last round
        async with open_channel(system.addresses["buffer"]) as channel:
            stub = cast("buffer_pb2_grpc.BufferAsyncStub", buffer_pb2_grpc.BufferStub(channel))
            seen = await wait_finished(stub)
            wanted = buffer_pb2.ListSamplesRequest(run_id=RUN_ID, limit=1000)
            samples = (await stub.ListSamples(wanted, timeout=5)).samples
    last = seen[-1]
    assert (last.step, last.version, last.reason) == (
        STEPS, STEPS, "all 3 steps are done, and version 3 is evaluated",
    )  # fmt: skip
    assert {status.phase for status in seen} <= {buffer_pb2.RUN_PHASE_DRAINING, buffer_pb2.RUN_PHASE_FINISHED}
    assert all(status.is_last_evaluation for status in seen[:-1])
    assert last.window_tokens == 8
    for result in last.evaluations:
        assert (result.complete, result.num_samples, result.num_failed) == (True, 12, 0)
        assert (result.num_scored_prompts, [each.k for each in result.pass_at]) == (4, [1, 3])
        assert all(0.0 <= each.low <= each.value <= each.high <= 1.0 for each in result.pass_at)
    assert [result.version for result in last.evaluations] == [0, 2, 3]
    evaluated = [sample for sample in samples if sample.purpose == types_pb2.PURPOSE_EVALUATE]
    assert len(evaluated) == 3 * 12
    assert {(sample.state, sample.reason) for sample in evaluated} == {
        (types_pb2.SAMPLE_STATE_FILTERED, "evaluation")
    }
    assert max(sample.num_response_tokens for sample in samples) <= 8
    assert audit_run(tmp_path, None).violations == ()
