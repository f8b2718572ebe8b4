"""Puzzles through all services: from the prompt file to the ledger, scored by the rules of their own task."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import torch

from forklight.v1 import types_pb2
from forklight_buffer.audit import audit_run
from forklight_core.blobs import open_blob_store
from forklight_core.wire import unpack_payload
from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel
from forklight_model.tokenizer import build_character_tokenizer
from forklight_reward.logic.registry import TASKS, make_puzzle, spec_record
from forklight_reward.logic.task import Puzzle
from forklight_rollout.adapters.memory import MemoryEngine, MemorySequence
from forklight_rollout.adapters.published import load_weights
from forklight_rollout.ports import Engine, EngineLimits, PromptStart
from forklight_rollout.weights.manifest import PublishedWeights
from tests.flow.one_process import run_all, write_run

TOKENIZER = build_character_tokenizer()
DEADLINE_S = 150.0
STEPS = 3
NAMES = ("object_tracking", "web_of_lies", "star_battle_mini")
"""One whose answer is a word, one of yes and no, one that is a board."""


@cache
def puzzles() -> Mapping[str, Puzzle]:
    return {name: make_puzzle(name, 11, 1) for name in NAMES}


@cache
def answers_of(name: str) -> tuple[str, str]:
    """A right response, and one that answers another puzzle of the same task."""
    puzzle = puzzles()[name]
    right = TASKS[name].solve(puzzle.spec)
    others = (TASKS[name].solve(make_puzzle(name, seed, 1).spec) for seed in range(12, 200))
    wrong = next(other for other in others if not TASKS[name].verify(puzzle.spec, other))
    return f"<think>a</think>\\boxed{{{right}}}", f"<think>{right}</think>\\boxed{{{wrong}}}"


class Solver(MemoryEngine):
    """Solves the puzzle of a prompt or gives the answer of another one, with the model's probabilities."""

    def __init__(self, model: HybridModel) -> None:
        limits = EngineLimits(num_sequences=8, max_tokens=4096, vocabulary_size=TOKENIZER.vocab_size)
        super().__init__(limits)
        self._model = model
        self._turns: dict[int, list[tuple[int, float]]] = {}

    def admit(self, prompt: PromptStart) -> None:
        super().admit(prompt)
        asked = TOKENIZER.decode(list(prompt.prompt_ids))
        found = [(name, puzzle) for name, puzzle in puzzles().items() if puzzle.prompt in asked]
        (known,) = found  # a prompt that is not one of the file's is a failure
        texts = answers_of(known[0])
        for start in prompt.sequences:
            turn = [*TOKENIZER.encode(texts[start.seed % 2]), TOKENIZER.token_id("<eos>")]
            logprobs = self.score([*prompt.prompt_ids, *turn])[-len(turn) :]
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


def solve_puzzles(weights: PublishedWeights) -> Engine:
    return Solver(load_weights(weights, dtype=torch.float32, device="cpu"))


async def test_puzzles_are_scored_by_the_rules_of_their_own_task(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"logic-{name}",
            "prompt": puzzle.prompt,
            "kind": "logic",
            "gold": "",
            "spec": spec_record(name, 11, 1, puzzle),
        }
        for name, puzzle in puzzles().items()
    ]
    run_file = write_run(tmp_path, steps=STEPS, rows=rows)  # type: ignore[arg-type]
    text = run_file.read_text().replace("max_new_tokens = 8", "max_new_tokens = 400")
    text = text.replace("pack_tokens = 512", "pack_tokens = 4096")
    run_file.write_text(text)
    async with run_all(tmp_path, run_file, make_engine=solve_puzzles) as system:
        async with asyncio.timeout(DEADLINE_S):
            await system.trainer_ended.wait()
    found = scored_answers(tmp_path)
    expected = {name: answers_of(name) for name in puzzles()}
    right = {text for text, _ in expected.values()}
    wrong = {text for _, text in expected.values()}
    assert Counter(found.values()).keys() == {0.0, 1.0}
    assert {text for text, reward in found.items() if reward == 1.0} <= right
    assert {text for text, reward in found.items() if reward == 0.0} <= wrong
    steps = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == list(range(1, STEPS + 1))
    assert audit_run(tmp_path, None).violations == ()


def scored_answers(folder: Path) -> dict[str, float]:
    """Reward by text of every sample that was learned from; one text has one reward."""
    with sqlite3.connect(folder / "ledger.sqlite") as database:
        rows = database.execute(
            "SELECT payload_id, reward FROM samples WHERE state = ?", (types_pb2.SAMPLE_STATE_TRAINED,)
        ).fetchall()
    assert len(rows) == STEPS * 4
    blobs = open_blob_store(f"file://{folder}/blobs")
    found: dict[str, float] = {}
    for payload_id, reward in rows:
        text = unpack_payload(blobs.get(payload_id)).text
        assert found.setdefault(text, reward) == reward
    return found
