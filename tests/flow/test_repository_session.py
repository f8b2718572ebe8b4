"""A policy works in a repository with a shell, for many turns; hidden tests judge what it left behind."""

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

DEADLINE_S = 120.0
FILES = {"sums.py": "def total(numbers):\n    return sum(numbers[1:])\n"}
HIDDEN = {"test_sums.py": "from sums import total\n\n\ndef test_all():\n    assert total([1, 2]) == 3\n"}
SPEC = {
    "mode": "repo",
    "language": "python",
    "tests": {"files": FILES, "hidden": HIDDEN, "f2p": ["test_sums.py::test_all"], "p2p": []},
}
FIX = "sed -i 's/.1:.//' sums.py"


def call_of(command: str) -> str:
    return f"<tool_call>{json.dumps({'name': 'shell', 'arguments': {'command': command}})}</tool_call>"


TURNS = (
    (f"<think>{call_of('cat sums.py')}", call_of(FIX), f"so{call_of('cat sums.py')}", "</think>done"),
    (f"<think>{call_of('ls; echo x > /tmp/y')}", "hm", "", "</think>done"),  # looks, and changes nothing
)


def write_with_shell(weights: PublishedWeights) -> Engine:
    return Writer(load_weights(weights, dtype=torch.float32, device="cpu"), TURNS, max_tokens=1500)


async def test_what_a_session_leaves_behind_is_judged(tmp_path: Path) -> None:
    row = {"id": "p0", "prompt": "total([1, 2]) gives 2", "kind": "code", "spec": SPEC, "workspace": FILES}
    run_file = write_run(tmp_path, steps=1, rows=[row])  # type: ignore[list-item]
    text = run_file.read_text().replace("max_new_tokens = 8", "max_new_tokens = 1200")
    text = text.replace("pack_tokens = 512", "pack_tokens = 1500").replace("lease_s = 5", "lease_s = 10")
    run_file.write_text(
        f'{text}\n[tools]\nnames = ["python", "shell"]\ntimeout_s = 20\n[reward]\ntimeout_s = 60\n'
    )
    async with run_all(tmp_path, run_file, make_engine=write_with_shell) as system:
        async with asyncio.timeout(DEADLINE_S):
            await system.trainer_ended.wait()
    with sqlite3.connect(tmp_path / "ledger.sqlite") as database:
        trained = database.execute(
            "SELECT payload_id, reward FROM samples WHERE state = ?", (types_pb2.SAMPLE_STATE_TRAINED,)
        ).fetchall()
    blobs, found = open_blob_store(f"file://{tmp_path}/blobs"), {}
    for payload_id, reward in trained:
        arrays = unpack_payload(blobs.get(payload_id))
        assert arrays.drawn is not None and arrays.session is not None
        assert arrays.session.timeout_s == 20
        put_in = TOKENIZER.decode(arrays.response_ids[arrays.drawn == 0].tolist())
        assert "test_sums" not in put_in  # it never sees the hidden tests
        found[reward] = (arrays.session.commands, put_in.count("return sum(numbers)"), arrays.text)
    assert len(trained) == 4
    assert found == {
        1.0: (("cat sums.py", FIX, "cat sums.py"), 1, "<think>\n\n\n\nso\n\n</think>done"),
        0.0: (("ls; echo x > /tmp/y",), 0, "<think>\n\nhm"),
    }
    assert audit_run(tmp_path, None).violations == ()
