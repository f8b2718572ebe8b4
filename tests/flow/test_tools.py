"""Generations that run programs in the real sandbox: only what the policy says is scored and learned from."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path

import torch

from forklight.v1 import types_pb2
from forklight_buffer.audit import audit_run
from forklight_core.blobs import open_blob_store
from forklight_core.wire import unpack_payload
from forklight_rollout.adapters.published import load_weights
from forklight_rollout.ports import Engine
from forklight_rollout.weights.manifest import PublishedWeights
from tests.flow.one_process import run_all, write_run
from tests.flow.writer import TOKENIZER, Writer

DEADLINE_S = 90.0


def call_of(code: str) -> str:
    return f"<tool_call>{json.dumps({'name': 'python', 'arguments': {'code': code}})}</tool_call>"


PRINTS = "print(chr(92) + 'boxed{' + str(6 * 7) + '}')"
TURNS = (
    (f"<think>hm</think>{call_of(PRINTS)}", ""),  # the program gives the answer, the policy never says it
    (f"<think>{call_of('print(6 * 7)')}", "so</think>\\boxed{42}"),  # the program helps, the policy answers
)


def write_with_tools(weights: PublishedWeights) -> Engine:
    return Writer(load_weights(weights, dtype=torch.float32, device="cpu"), TURNS)


async def test_programs_run_in_the_sandbox_and_only_the_policy_s_words_count(tmp_path: Path) -> None:
    rows = [{"id": "p0", "prompt": "6*7=", "kind": "math", "gold": "42"}]
    run_file = write_run(tmp_path, steps=1, rows=rows)
    text = run_file.read_text().replace("max_new_tokens = 8", "max_new_tokens = 400")
    run_file.write_text(f'{text}\n[tools]\nnames = ["python"]\nmax_output_tokens = 100\ntimeout_s = 20\n')
    async with run_all(tmp_path, run_file, make_engine=write_with_tools) as system:
        async with asyncio.timeout(DEADLINE_S):
            await system.trainer_ended.wait()
    (step,) = map(json.loads, (tmp_path / "steps.jsonl").read_text().splitlines())
    with sqlite3.connect(tmp_path / "ledger.sqlite") as database:
        trained = database.execute(
            "SELECT payload_id, reward FROM samples WHERE state = ?", (types_pb2.SAMPLE_STATE_TRAINED,)
        ).fetchall()
    blobs = open_blob_store(f"file://{tmp_path}/blobs")
    found = {}
    for payload_id, reward in trained:
        arrays = unpack_payload(blobs.get(payload_id))
        assert arrays.drawn is not None
        put_in = TOKENIZER.decode(arrays.response_ids[arrays.drawn == 0].tolist())
        found.setdefault(reward, set()).add((put_in.split("\n")[2], arrays.text))
    assert len(trained) == 4
    assert found == {
        0.0: {("\\boxed{42}", "<think>hm</think>\n\n")},
        1.0: {("42", "<think>\n\nso</think>\\boxed{42}")},
    }
    reply = len("\n<tool_response>\n\n</tool_response>\n")
    assert step["put_in_tokens"] == 2 * (reply + len("42")) + 2 * (reply + len("\\boxed{42}"))
    assert step["correlation"] > 0.99 and step["max_dp"] < 1e-3
    assert step["parity_tokens"] == step["tokens"]
    assert audit_run(tmp_path, None).violations == ()
