"""Length windows mean the same everywhere: to the buffer that opens, the pods that plan, the rewards."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from forklight.v1 import types_pb2
from forklight_buffer.context import Context
from forklight_buffer.live import GroupFacts
from forklight_buffer.steering import Steering
from forklight_buffer.tasks import scoring_task
from forklight_core.errors import InvalidInputError
from forklight_core.runfile import RunFile, first_window, largest_window
from forklight_reward.front.reward import policy_of
from forklight_reward.rehearsal import TaskMaker, local_scorer
from forklight_rollout.admission import Capability, read_group
from forklight_rollout.ports import EngineLimits
from forklight_trainer.recipe import check_recipe

WINDOWS = [256, 512, 1024]


def run_file(**sections: dict[str, object]) -> RunFile:
    base: dict[str, dict[str, object]] = {
        "length": {"windows": WINDOWS},
        "recipe": {"overlong_tokens": 200},
        "trainer": {"pack_tokens": 4096},
    }
    return RunFile.model_validate(base | sections)


def admit(window: int, run: RunFile) -> None:
    task = types_pb2.GenerationTask(
        envelope=types_pb2.Envelope(schema_version=1, run_id="r", group_id="r/g00000001"),
        prompt="hello",
        sampling=types_pb2.Sampling(num_samples=1, max_new_tokens=window, temperature=1.0, top_p=1.0),
    )
    limits = EngineLimits(num_sequences=4, max_tokens=10**6, vocabulary_size=200)
    capability = Capability(limits=limits, encode=lambda text: [1, 2], largest_window=largest_window(run))
    assert read_group(task, (0,), capability).end.max_new_tokens == window


@pytest.mark.parametrize("sections", [{}, {"length": {}, "sampling": {"max_new_tokens": 1024}}])
def test_the_largest_window_that_the_buffer_takes_is_the_largest_that_a_pod_takes(
    sections: dict[str, dict[str, object]],
) -> None:
    run = run_file(**sections)
    steering = Steering(cast("Context", SimpleNamespace(run_file=run, clock=lambda: 0.0)))
    for window in (1, first_window(run), 1024):
        assert steering.check(window, ()).window == window
        admit(window, run)
    for refuse in (lambda: steering.check(1025, ()), lambda: admit(1025, run)):
        with pytest.raises(InvalidInputError, match="window"):
            refuse()


def test_packs_must_hold_the_largest_window() -> None:
    assert check_recipe(run_file()) == []
    with pytest.raises(InvalidInputError, match=r"largest of length\.windows = 1024 and a prompt do not fit"):
        check_recipe(run_file(trainer={"pack_tokens": 1024}))


@pytest.mark.parametrize(
    ("window", "num_tokens", "penalty"),
    [
        (256, 128, 0.0),
        (256, 192, -0.5),
        (256, 256, -1.0),
        (1024, 824, 0.0),
        (1024, 924, -0.5),
        (1024, 256, 0.0),
    ],
)
async def test_a_sample_is_punished_by_the_window_the_buffer_opened_its_group_with(
    window: int, num_tokens: int, penalty: float
) -> None:
    """The zone has 200 tokens; of the smallest window it has half."""
    tasks = TaskMaker()
    plain = tasks.task("<answer>42</answer>", num_tokens=num_tokens)
    facts = GroupFacts(
        size=2, window=window, kind="math", spec_id=plain.spec.id, spec_bytes=plain.spec.size_bytes
    )
    task = types_pb2.ScoringTask.FromString(scoring_task(plain.trajectory, facts, ""))
    verdict = await local_scorer(tasks, policy=policy_of(run_file())).score_task(task, attempt=1)
    parts = {part.name: part.value for part in verdict.parts}
    assert parts["overlong"] == pytest.approx(penalty)
