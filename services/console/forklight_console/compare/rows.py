"""What runs have in common and where they part: final figures, differing keys of the run files."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forklight_console.compare.shelf import ShelvedRun
from forklight_console.steps.table import StepTable

LAST_STEPS = 20
FIGURES = {
    "reward_mean": "reward",
    "length_p50": "length p50",
    "length_p99": "length p99",
    "entropy": "entropy",
    "ratio_max": "highest ratio",
    "clip_share_high": "clipped high",
    "correlation": "correlation",
    "staleness_mean": "staleness",
    "grad_norm": "gradient norm",
    "tokens_per_s": "trained tokens/s",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTotals:
    """A run in figures; those of `last` are means over its last steps."""

    name: str
    steps: int
    hours: float
    samples: int
    tokens: int
    best_reward: float | None
    last: Mapping[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferingKey:
    """A key of the run files with the value of each run; empty: the run's file has no such key."""

    key: str
    values: Sequence[str]


def total_up(run: ShelvedRun) -> RunTotals:
    """Read the steps and sum them up."""
    return run.log.look(lambda table: _totals(run.name, table))


def _totals(name: str, table: StepTable) -> RunTotals:
    times = table.places("time")
    samples = table.places("samples")
    return RunTotals(
        name=name,
        steps=table.steps[-1] if len(table) else 0,
        hours=times[-1] if len(table) else 0.0,
        samples=int(samples[-1]) if len(table) else 0,
        tokens=int(sum(value for value in table.column("tokens") if value == value)),
        best_reward=_best(table.column("reward_mean")),
        last={field: _mean(table.column(field)[-LAST_STEPS:]) for field in FIGURES},
    )


def _best(values: array[float]) -> float | None:
    """The highest mean over as many steps as the last figures have."""
    present = [value for value in values if value == value]
    width = min(LAST_STEPS, len(present))
    if not width:
        return None
    sums = [sum(present[:width])]
    for old, new in zip(present, present[width:], strict=False):
        sums.append(sums[-1] + new - old)
    return max(sums) / width


def _mean(values: array[float]) -> float | None:
    present = [value for value in values if value == value]
    return sum(present) / len(present) if present else None


def differing_keys(runs: Sequence[ShelvedRun]) -> list[DifferingKey]:
    """Keys that are not the same everywhere, by name."""
    keys = sorted({key for run in runs for key in run.keys})
    rows = (DifferingKey(key=key, values=[run.keys.get(key, "") for run in runs]) for key in keys)
    return [row for row in rows if len(set(row.values)) > 1]


def count_keys(runs: Sequence[ShelvedRun]) -> int:
    """Keys of all run files together."""
    return len({key for run in runs for key in run.keys})
