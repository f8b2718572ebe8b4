"""Generations that run programs in the real sandbox: only what the policy says is scored and learned from."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import torch

from forklight.v1 import types_pb2
from forklight_buffer.audit import audit_run
from forklight_core.blobs import open_blob_store
from forklight_core.wire import unpack_payload
from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel
from forklight_model.tokenizer import build_character_tokenizer
from forklight_rollout.adapters.memory import MemoryEngine, MemorySequence
from forklight_rollout.adapters.published import load_weights
from forklight_rollout.ports import Engine, EngineLimits, PromptStart
from forklight_rollout.tools.format import REPLY_CLOSE
from forklight_rollout.weights.manifest import PublishedWeights
from tests.flow.one_process import run_all, write_run

TOKENIZER = build_character_tokenizer()
REPLY_TAIL = TOKENIZER.encode(REPLY_CLOSE)
DEADLINE_S = 90.0


def call_of(code: str) -> str:
    return f"<tool_call>{json.dumps({'name': 'python', 'arguments': {'code': code}})}</tool_call>"


PRINTS = "print(chr(92) + 'boxed{' + str(6 * 7) + '}')"
TURNS = (
    (f"<think>hm</think>{call_of(PRINTS)}", ""),  # the program gives the answer, the policy never says it
    (f"<think>{call_of('print(6 * 7)')}", "so</think>\\boxed{42}"),  # the program helps, the policy answers
)


class Writer(MemoryEngine):
    """Writes the turns of one of two policies, with the probabilities that the run's model gives them."""

    def __init__(self, model: HybridModel) -> None:
        limits = EngineLimits(num_sequences=8, max_tokens=512, vocabulary_size=TOKENIZER.vocab_size)
        super().__init__(limits)
        self._model = model
        self._turns: dict[int, list[tuple[int, float]]] = {}

    def admit(self, prompt: PromptStart) -> None:
        super().admit(prompt)
        for start in prompt.sequences:
            text = TURNS[start.seed % 2][_count_replies(start.prefix_ids)]
            turn = [*TOKENIZER.encode(text), TOKENIZER.token_id("<eos>")]
            logprobs = self.score([*prompt.prompt_ids, *start.prefix_ids, *turn])[-len(turn) :]
            self._turns[id(self._sequences[start.key])] = list(zip(turn, logprobs, strict=True))

    def score(self, ids: Sequence[int]) -> Sequence[float]:
        with torch.no_grad():
            ends = torch.tensor([0, len(ids)], dtype=torch.int32)
            scores: list[float] = token_logprobs(
                self._model, torch.tensor(ids), ends, 1.0
            ).logprobs_T.tolist()
        return scores[1:]

    def draw(self, sequence: MemorySequence) -> tuple[int, float]:
        return self._turns[id(sequence)].pop(0)


def _count_replies(ids: Sequence[int]) -> int:
    return sum(list(ids[place : place + len(REPLY_TAIL)]) == REPLY_TAIL for place in range(len(ids)))


def write_with_tools(weights: PublishedWeights) -> Engine:
    return Writer(load_weights(weights, dtype=torch.float32, device="cpu"))


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
