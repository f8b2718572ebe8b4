"""What the page shows, in words and rows, made from the buffer's status and the step records."""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True, kw_only=True)
class StuckRow:
    """A sample that is open for too long."""

    sample_id: str
    state: str
    where: str
    since: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The buffer's status for people."""

    phase: str
    reason: str
    step: int
    version: int
    lineage: str
    groups: str
    credit: str
    num_dead_letters: int
    counts: Sequence[tuple[str, str, int]]
    queues: Sequence[tuple[str, int, int, str]]
    evaluations: Sequence[tuple[int, str, int, int, str]]
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
        groups=f"{status.num_open_groups} open, {status.num_ready_groups} ready",
        credit=f"{status.credit_tokens:,} tokens, {status.credit_bytes / 2**20:,.0f} MiB",
        num_dead_letters=status.num_dead_letters,
        counts=[(state_name(count.state), count.reason, count.num_samples) for count in status.counts],
        queues=[
            (queue.name, queue.num_waiting, queue.num_leased, f"{queue.oldest_age_s:.0f} s")
            for queue in status.queues
        ],
        evaluations=[
            (
                result.version,
                f"{result.mean_reward:.3f}",
                result.num_samples,
                result.num_failed,
                "complete" if result.complete else "running",
            )
            for result in reversed(status.evaluations)
        ],
        stuck=[
            StuckRow(
                sample_id=sample.sample_id,
                state=state_name(sample.state),
                where=sample.where,
                since=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(sample.since)),
            )
            for sample in status.stuck
        ],
    )


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
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def state_name(state: types_pb2.SampleState) -> str:
    """ "trained" and the like."""
    return types_pb2.SampleState.Name(state).removeprefix("SAMPLE_STATE_").lower()


def parse_state(name: str) -> types_pb2.SampleState | None:
    """The state of a name; None for the empty name, which means all. ValueError when there is none."""
    if not name:
        return None
    return cast("types_pb2.SampleState", types_pb2.SampleState.Value(f"SAMPLE_STATE_{name.upper()}"))
