"""Terminal rows of the ledger, made from what Redis or a journalled batch knows of a sample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypedDict

from forklight.v1 import types_pb2
from forklight_buffer.live import LiveGroup, LiveSample
from forklight_buffer.records import GroupRow, LeasedGroup, SampleRow
from forklight_buffer.states import State
from forklight_core import ids
from forklight_core.wire import parse

RIGHT_PARTS = ("correct", "judge")
"""Parts of a verdict that say how right an answer is, best first. The reward mixes weights in."""


class TrajectoryFields(TypedDict):
    """What a row knows only from a trajectory."""

    num_response_tokens: int
    finish_reason: int
    min_version: int
    max_version: int
    payload_id: str
    payload_bytes: int


def trajectory_fields(trajectory: types_pb2.Trajectory) -> TrajectoryFields:
    """Columns from a trajectory's header."""
    versions = [span.version for span in trajectory.version_spans] or [0]
    return TrajectoryFields(
        num_response_tokens=trajectory.num_response_tokens,
        finish_reason=int(trajectory.finish_reason),
        min_version=min(versions),
        max_version=max(versions),
        payload_id=trajectory.payload.id,
        payload_bytes=trajectory.payload.size_bytes,
    )


def row_of_live(group: LiveGroup, sample: LiveSample) -> SampleRow:
    """The row of a sample that ended in Redis."""
    row = SampleRow(
        sample_id=ids.sample_id(group.group_id, sample.index),
        group_id=group.group_id,
        prompt_id=group.prompt_id,
        purpose=group.purpose,
        state=sample.state,
        reason=sample.reason,
        reward=sample.reward,
        opened_at=group.opened_at,
        ended_at=sample.since,
        num_saved_tokens=sample.num_saved_tokens,
        correct=_correctness(sample),
    )
    if not sample.trajectory:
        return row
    return replace(row, **trajectory_fields(parse(types_pb2.Trajectory, sample.trajectory)))


def _correctness(sample: LiveSample) -> float | None:
    """How right the answer of a scored sample is."""
    if sample.reward is None:
        return None
    return _rightness(parse(types_pb2.Verdict, sample.verdict).parts, sample.reward)


def _rightness(found: Iterable[types_pb2.RewardPart], reward: float) -> float:
    parts = {part.name: part.value for part in found}
    return next((parts[name] for name in RIGHT_PARTS if name in parts), reward)


def row_of_group(group: GroupRow, index: int, state: State, *, reason: str, at: float) -> SampleRow:
    """The row of a sample of which no trajectory is known."""
    return SampleRow(
        sample_id=ids.sample_id(group.group_id, index),
        group_id=group.group_id,
        prompt_id=group.prompt_id,
        purpose=group.purpose,
        state=state,
        reason=reason,
        opened_at=group.opened_at,
        ended_at=at,
    )


def rows_of_leased(group: GroupRow, leased: LeasedGroup, at: float) -> Iterator[SampleRow]:
    """Rows of a journalled group's samples, as if all were trained; callers change the state."""
    body = parse(types_pb2.BatchGroup, leased.body)
    for sample in body.samples:
        index = ids.sample_index(sample.trajectory.envelope.sample_id)
        row = row_of_group(group, index, State.TRAINED, reason="", at=at)
        yield replace(
            row,
            reward=sample.reward,
            correct=_rightness(sample.parts, sample.reward),
            **trajectory_fields(sample.trajectory),
        )


def live_samples(leased: LeasedGroup) -> Iterator[LiveSample]:
    """A journalled group's samples as Redis had them."""
    body = parse(types_pb2.BatchGroup, leased.body)
    for sample in body.samples:
        fields = trajectory_fields(sample.trajectory)
        yield LiveSample(
            index=ids.sample_index(sample.trajectory.envelope.sample_id),
            state=State.LEASED,
            since=0.0,
            min_version=fields["min_version"],
            num_tokens=fields["num_response_tokens"],
            num_bytes=fields["payload_bytes"],
            reason="",
            trajectory=sample.trajectory.SerializeToString(),
            verdict=types_pb2.Verdict(score=sample.reward, parts=sample.parts).SerializeToString(),
            reward=sample.reward,
        )
