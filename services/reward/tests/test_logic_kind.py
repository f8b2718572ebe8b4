"""The kind `logic` through the front door: verdicts without a worker."""

from __future__ import annotations

import json

import pytest

from forklight.v1 import types_pb2
from forklight_core.wire import SCHEMA_VERSION
from forklight_reward.front.reward import RewardPolicy
from forklight_reward.logic.registry import TASKS, make_puzzle, write_spec
from forklight_reward.ports import Outcome
from forklight_reward.rehearsal import TaskMaker, local_scorer

NAME, SEED, LEVEL = "object_tracking", 5, 2
PUZZLE = make_puzzle(NAME, SEED, LEVEL)
RIGHT = TASKS[NAME].solve(PUZZLE.spec)


class NoVerifier:
    """Port Verifier that nobody may call."""

    async def verify(
        self, *, envelope: types_pb2.Envelope, gold: str, response: str, timeout_s: float
    ) -> Outcome:
        raise AssertionError("logic went to the verifier")


def logic_spec(spec_json: str | None = None) -> types_pb2.TaskSpec:
    """A task without a reference answer: its specification is the reference."""
    return types_pb2.TaskSpec(
        schema_version=SCHEMA_VERSION,
        kind="logic",
        prompt=PUZZLE.prompt,
        spec_json=write_spec(NAME, SEED, LEVEL, PUZZLE) if spec_json is None else spec_json,
    )


async def score(tasks: TaskMaker, text: str, spec_json: str | None = None) -> types_pb2.Verdict:
    scorer = local_scorer(tasks, verifier=NoVerifier(), policy=RewardPolicy(format_weight=0.5))
    return await scorer.score_task(tasks.task(text, spec=logic_spec(spec_json)), attempt=1)


async def test_a_right_answer_is_scored_with_its_parts(tasks: TaskMaker) -> None:
    verdict = await score(tasks, f"<think>hm</think> It is \\boxed{{ {RIGHT} }}.")
    assert (verdict.status, verdict.score, verdict.num_attempts) == (types_pb2.VERDICT_STATUS_OK, 1.5, 1)
    assert {part.name: part.value for part in verdict.parts} == {"correct": 1.0, "format": 1.0}
    assert (verdict.worker, verdict.worker_version) == ("rules", "logic-rules/1")


@pytest.mark.parametrize(
    "text",
    [
        f"<think>hm</think> It is {RIGHT}",
        f"<think>hm \\boxed{{{RIGHT}}}</think>",
        f"<think>hm</think> \\boxed{{{RIGHT}}} or \\boxed{{ball}}",
        f"<think>hm</think> \\boxed{{{RIGHT}, {RIGHT}}}",
        f"<think>hm</think> \\boxed{{{RIGHT}",
        "<think>hm</think> \\boxed{}",
        f"<think>hm</think> \\boxed{{{RIGHT + ' ' * 9000}x}}",
        "",
    ],
)
async def test_anything_else_is_wrong_and_scored(tasks: TaskMaker, text: str) -> None:
    verdict = await score(tasks, text)
    assert (verdict.status, verdict.score) == (types_pb2.VERDICT_STATUS_WRONG, 0.0)
    assert verdict.HasField("score")


@pytest.mark.parametrize(
    "spec_json", ["", "{}", json.dumps({"task": "no_such", "level": 1, "seed": 1, "spec": {}}), "1" * 70000]
)
@pytest.mark.parametrize("text", [f"<think>a</think> \\boxed{{{RIGHT}}}", "no box"])
async def test_a_broken_specification_gives_no_score(tasks: TaskMaker, spec_json: str, text: str) -> None:
    verdict = await score(tasks, text, spec_json)
    assert verdict.status == types_pb2.VERDICT_STATUS_INFRA_ERROR
    assert not verdict.HasField("score")
    assert verdict.num_attempts == 1
    assert "logic" in verdict.evidence
