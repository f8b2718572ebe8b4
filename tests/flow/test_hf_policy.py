"""A model of transformers as the policy: generated, scored, learned from, published, in one process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from pathlib import Path

from safetensors import safe_open

from forklight.v1 import rollout_pb2, rollout_pb2_grpc
from forklight_buffer.audit import audit_run
from forklight_core.rpc import open_channel
from libs.model.tests.hf.tiny import write_folder
from tests.flow.one_process import run_all, write_run

STEPS = 3
DEADLINE_S = 90.0


async def test_a_policy_of_transformers_is_trained_and_served(tmp_path: Path) -> None:
    start = write_folder(tmp_path / "start", "qwen_moe")
    rows = [
        {"id": f"p{number}", "prompt": f"{number}+1=", "kind": "math", "gold": str(number + 1)}
        for number in range(9)
    ]
    run_file = write_run(tmp_path, steps=STEPS, rows=rows)
    run_file.write_text(run_file.read_text() + f'[model]\nhf = "{tmp_path}/start"\n')
    async with run_all(tmp_path, run_file) as system:
        async with asyncio.timeout(DEADLINE_S):
            await system.trainer_ended.wait()
        async with open_channel(system.addresses["rollout"]) as pod:
            status = await rollout_pb2_grpc.RolloutStub(pod).GetRolloutStatus(
                rollout_pb2.GetRolloutStatusRequest(), timeout=5
            )
    assert status.problem == ""
    assert not status.numeric_mode.is_parity
    assert "transformers" in status.numeric_mode.reason
    steps = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2, 3]
    assert all(step["correlation"] > 0.99 for step in steps)
    assert all(step["max_dp"] < 1e-3 for step in steps)
    assert audit_run(tmp_path, None).violations == ()
    check_result(tmp_path, dict(start.published_tensors()).keys())


def check_result(folder: Path, names: Collection[str]) -> None:
    """The run leaves a folder that is transformers' own, with all of the tokenizer."""
    final = folder / "final"
    found = set()
    for path in final.glob("*.safetensors"):
        with safe_open(path, framework="pt") as opened:
            found |= set(opened.keys())
    assert found == set(names)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"):
        assert (final / name).is_file()
