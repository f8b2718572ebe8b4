"""What the page shows, in words and rows, made from the buffer's status and the step records."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from forklight.v1 import buffer_pb2, types_pb2
from forklight_console.ports import StepRecord

STEP_COLUMNS = (
    "step",
    "version",
    "num_samples",
    "tokens",
    "reward_mean",
    "length_mean",
    "length_p99",
    "entropy",
    "loss",
    "router_auxiliary_loss",
    "grad_norm",
    "ratio_max",
    "masked_share",
    "staleness_mean",
    "correlation",
    "unequal_tokens",
    "tokens_per_s",
)
"""What a person looks at first, in this order; /api/steps has everything."""
MOST_EVIDENCE_SHOWN = 400
"""Characters of an event's evidence; /api/events has all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StuckRow:
    """A sample that is open for too long."""

    sample_id: str
    path: str
    """Of the sample's page."""
    state: str
    where: str
    since: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """A decision or an alarm, with what led to it."""

    at: str
    severity: str
    step: int
    kind: str
    title: str
    evidence: str
    undone: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRow:
    """A round on held-out prompts."""

    version: int
    reward: str
    passes: str
    asked: str
    num_scored: int
    num_failed: int
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The buffer's status for people."""

    phase: str
    reason: str
    step: int
    version: int
    lineage: str
    window: str
    groups: str
    credit: str
    num_dead_letters: int
    counts: Sequence[tuple[str, str, int]]
    queues: Sequence[tuple[str, int, int, str]]
    evaluations: Sequence[EvaluationRow]
    num_skipped_evaluations: int
    confidence: str
    events: Sequence[EventRow]
    stuck: Sequence[StuckRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTable:
    """Step records as a table: newest first."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def make_overview(status: buffer_pb2.GetStatusReply) -> Overview:
    """The status in words."""
    return Overview(
        phase=buffer_pb2.RunPhase.Name(status.phase).removeprefix("RUN_PHASE_").lower(),
        reason=status.reason,
        step=status.step,
        version=status.version,
        lineage=status.lineage,
        window=f"{status.window_tokens:,} tokens",
        groups=f"{status.num_open_groups} open, {status.num_ready_groups} ready",
        credit=f"{format_count(status.credit_tokens)} tokens, {status.credit_bytes / 2**30:,.1f} GiB",
        num_dead_letters=status.num_dead_letters,
        counts=[(state_name(count.state), count.reason, count.num_samples) for count in status.counts],
        queues=[
            (queue.name, queue.num_waiting, queue.num_leased, f"{queue.oldest_age_s:.0f} s")
            for queue in status.queues
        ],
        evaluations=[make_evaluation_row(result) for result in reversed(status.evaluations)],
        num_skipped_evaluations=status.num_skipped_evaluations,
        confidence=next(
            (f"{each.confidence:g}" for each in reversed(status.evaluations) if each.confidence), ""
        ),
        events=[make_event_row(event) for event in reversed(status.events)],
        stuck=[
            StuckRow(
                sample_id=sample.sample_id,
                path=f"/samples/{sample.sample_id.partition('/')[2]}",
                state=state_name(sample.state),
                where=sample.where,
                since=format_time(sample.since),
            )
            for sample in status.stuck
        ],
    )


def make_evaluation_row(result: buffer_pb2.EvaluationResult) -> EvaluationRow:
    """A round in words, each figure with its interval."""
    reward = f"{result.mean_reward:.3f}" if result.num_samples else "-"
    if result.HasField("reward_low") and result.HasField("reward_high"):
        reward += f" [{result.reward_low:.3f}, {result.reward_high:.3f}]"
    passes = [f"pass@{each.k} {each.value:.3f} [{each.low:.3f}, {each.high:.3f}]" for each in result.pass_at]
    return EvaluationRow(
        version=result.version,
        reward=reward,
        passes=", ".join(passes),
        asked=f"{result.num_prompts} x {result.samples_per_prompt}",
        num_scored=result.num_samples,
        num_failed=result.num_failed,
        state="complete" if result.complete else "cut" if result.cut else "running",
    )


def make_event_row(event: types_pb2.RunEvent) -> EventRow:
    """An event in words."""
    return EventRow(
        at=format_time(event.at),
        severity=types_pb2.Severity.Name(event.severity).removeprefix("SEVERITY_").lower(),
        step=event.step,
        kind=event.kind,
        title=event.title,
        evidence=format_evidence(event.evidence_json),
        undone=event.undone,
    )


def format_evidence(evidence_json: str) -> str:
    """The figures of an event, one after the other, short enough for a table."""
    try:
        found = json.loads(evidence_json or "{}")
    except ValueError:
        found = evidence_json
    if not isinstance(found, dict):
        return str(found)[:MOST_EVIDENCE_SHOWN]
    text = ", ".join(f"{name} {_format_figure(value)}" for name, value in found.items())
    return text if len(text) <= MOST_EVIDENCE_SHOWN else text[: MOST_EVIDENCE_SHOWN - 3] + "..."


def _format_figure(value: object) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else format_value(value)


def format_time(at: float) -> str:
    """A time that is the same wherever the page is read."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


def make_step_table(steps: Sequence[StepRecord]) -> StepTable:
    """The columns that any of the records has a value for."""
    columns = [
        name for name in STEP_COLUMNS if any(isinstance(step.get(name), int | float | str) for step in steps)
    ]
    rows = [[format_value(step.get(column)) for column in columns] for step in reversed(steps)]
    return StepTable(columns=columns, rows=rows)


def format_value(value: object) -> str:
    """A number short enough for a table."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= abs(value) < 1e12 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10**5 else str(value)


def format_count(value: int) -> str:
    """A large number in four characters or so."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**4)):
        if value >= size:
            return f"{value / (1000 if unit == 'k' else size):,.1f}{unit}"
    return f"{value:,}"


def state_name(state: types_pb2.SampleState) -> str:
    """ "trained" and the like."""
    return types_pb2.SampleState.Name(state).removeprefix("SAMPLE_STATE_").lower()


def parse_state(name: str) -> types_pb2.SampleState | None:
    """The state of a name; None for the empty name, which means all. ValueError when there is none."""
    if not name:
        return None
    return cast("types_pb2.SampleState", types_pb2.SampleState.Value(f"SAMPLE_STATE_{name.upper()}"))
