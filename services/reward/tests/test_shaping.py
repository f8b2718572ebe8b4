"""Shaping: the formula by source, off by default, one state a policy version, the same in every front."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forklight.v1 import types_pb2
from forklight_core.errors import DataLossError
from forklight_reward.front.keys import verdict_key
from forklight_reward.front.reward import Length, RewardPolicy
from forklight_reward.front.scorer import Scorer
from forklight_reward.rehearsal import TaskMaker, local_scorer, math_spec
from forklight_reward.shaping.shaper import FOLDER, Shaper, read_shaping
from forklight_reward.shaping.source import FEWEST, LARGEST, SourceState

RIGHT = r"<think>6 * 7</think> \boxed{42}"
WRONG = r"<think>6 * 7</think> \boxed{41}"
REWARDS = st.lists(st.floats(-5, 5), min_size=FEWEST, max_size=300)


@given(REWARDS, st.floats(-10, 10))
@settings(max_examples=60, deadline=None)
def test_shaping_is_the_clip_and_then_the_normalisation(rewards: list[float], reward: float) -> None:
    scale = SourceState().observe(rewards).scale()
    assert scale is not None
    clip, normalised = scale.shape(reward)
    ordered = np.sort(rewards)
    low, high = (ordered[math.ceil(share * len(ordered)) - 1] for share in (0.05, 0.95))
    clipped = min(max(reward, low), high) if low < high else reward
    mean = variance = 0.0
    for count, each in enumerate(rewards, start=1):
        weight = max(0.01, 1 / count)
        mean, variance = (
            mean + weight * (each - mean),
            (1 - weight) * (variance + weight * (each - mean) ** 2),
        )
    expected = min(max((clipped - mean) / max(math.sqrt(variance), 0.1), -LARGEST), LARGEST)
    assert reward + clip == pytest.approx(clipped, abs=1e-9)
    assert reward + clip + normalised == pytest.approx(expected, abs=1e-6)


def test_a_source_of_rare_successes_keeps_them() -> None:
    scale = SourceState().observe([1.0 if index % 50 == 0 else 0.0 for index in range(1000)]).scale()
    assert scale is not None
    assert scale.shape(1.0)[0] == 0.0  # both bounds are 0: clipping would make right and wrong the same
    assert sum(scale.shape(1.0)) + 1.0 > sum(scale.shape(0.0)) + 1.0
    assert SourceState().observe([0.0, 1.0] * (FEWEST // 2 - 1)).scale() is None


def parts_of(verdict: types_pb2.Verdict) -> dict[str, float]:
    return {part.name: part.value for part in verdict.parts}


def at_version(tasks: TaskMaker, text: str, version: int, *, num_tokens: int = 4) -> types_pb2.ScoringTask:
    spec = math_spec()
    spec.source = "arithmetic"
    task = tasks.task(text, spec=spec, num_tokens=num_tokens)
    task.opened_version = version
    return task


async def score_many(scorer: Scorer, tasks: TaskMaker, version: int, number: int) -> list[types_pb2.Verdict]:
    made = [at_version(tasks, RIGHT if index % 4 else WRONG, version) for index in range(number)]
    return list(await asyncio.gather(*(scorer.score_task(task, attempt=1) for task in made)))


async def test_a_group_meets_one_state_and_the_next_version_another(tasks: TaskMaker, tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    policy = RewardPolicy(window_tokens=100, zone_tokens=20)
    first = replace(local_scorer(tasks, policy=policy), shaper=Shaper(folder))
    early = await score_many(first, tasks, 0, 2 * FEWEST)
    assert {verdict.versions["shaping"] for verdict in early} == {read_shaping(tmp_path, 0).name}
    assert {verdict.score for verdict in early} == {0.0, 1.0}  # nothing was known at version 0
    late = await first.score_task(at_version(tasks, RIGHT, 1, num_tokens=90), attempt=1)
    parts = parts_of(late)
    assert parts["correct"] == 1.0 and parts["overlong"] == pytest.approx(-0.5)
    assert late.score == pytest.approx(1.0 + parts["clip"] + parts["normalised"] - 0.5)
    assert parts["normalised"] == pytest.approx((1 - 0.75) / math.sqrt(0.75 * 0.25) - 1, abs=0.15)
    # Version 0 is what it was, whatever was learned since: here, after a restart, and in another front.
    restarted = replace(local_scorer(tasks, policy=policy), shaper=Shaper(folder))
    for scorer in (first, restarted):
        assert {verdict.score for verdict in await score_many(scorer, tasks, 0, 8)} == {0.0, 1.0}
        again = await scorer.score_task(at_version(tasks, RIGHT, 1, num_tokens=90), attempt=2)
        assert (again.score, again.key) == (late.score, late.key)
    assert late.key != early[1].key


async def test_fronts_that_race_for_a_version_agree(tasks: TaskMaker, tmp_path: Path) -> None:
    shapers = [Shaper(tmp_path / FOLDER) for _ in range(4)]
    for index, shaper in enumerate(shapers):
        for _ in range(FEWEST):
            shaper.observe("math", float(index))
    found = await asyncio.gather(*(shaper.state_of(7) for shaper in shapers))
    assert len({frozen.name for frozen in found}) == 1
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["v00000007.json"]
    (tmp_path / FOLDER / "v00000008.json").write_text('{"sources": {"math": 3}}')
    with pytest.raises(DataLossError, match="v00000008"):
        await shapers[0].state_of(8)


async def test_shaping_is_off_by_default_and_never_in_evaluation(tasks: TaskMaker, tmp_path: Path) -> None:
    plain = await local_scorer(tasks).score_task(tasks.task(RIGHT), attempt=1)
    assert "clip" not in parts_of(plain) and "shaping" not in plain.versions
    shaper = Shaper(tmp_path / FOLDER)
    for _ in range(FEWEST):
        shaper.observe("arithmetic", 0.5)
    scorer = replace(local_scorer(tasks), shaper=shaper)
    task = at_version(tasks, RIGHT, 3)
    assert (await scorer.score_task(task, attempt=1)).score > 2.0
    task.trajectory.purpose = types_pb2.PURPOSE_EVALUATE
    evaluated = await scorer.score_task(task, attempt=1)
    assert (evaluated.score, parts_of(evaluated)) == (1.0, {"correct": 1.0, "format": 1.0})


@given(st.integers(0, 200), st.integers(0, 200), st.booleans(), st.text(max_size=5))
@settings(max_examples=50, deadline=None)
def test_verdict_keys_differ_exactly_when_the_score_may(
    num_tokens: int, window: int, counts: bool, shaping: str
) -> None:
    policy = RewardPolicy(window_tokens=100, zone_tokens=20)
    length = Length(num_response_tokens=num_tokens, window_tokens=window, counts=counts)
    key = verdict_key("w", length, policy, shaping)
    assert key == verdict_key("w", replace(length), replace(policy), shaping)
    longer = replace(length, num_response_tokens=num_tokens + 1)
    assert (verdict_key("w", longer, policy, shaping) != key) is counts
    assert verdict_key("w", length, replace(policy, format_weight=0.5), shaping) != key
    assert verdict_key("w", length, policy, shaping + "'") != key
    assert verdict_key("v", length, policy, shaping) != key
