"""The metrics of this service; their names, units and help are in the registry of core."""

from __future__ import annotations

from forklight_core.telemetry import counter, gauge, histogram
from forklight_reward.ports import Status

KNOWN_KINDS = frozenset({"math", "code", "judge"})


def record_verdict(kind: str, status: Status, wall_s: float) -> None:
    """One sample scored, or given up. Kinds nobody knows share one label."""
    label = kind if kind in KNOWN_KINDS else "other"
    counter("forklight.reward.verdicts").add(1, {"kind": label, "status": status.value})
    histogram("forklight.reward.score_duration").record(wall_s, {"kind": label})


def count_retry(status: Status) -> None:
    """One try that gave no score and is repeated."""
    counter("forklight.reward.retries").add(1, {"status": status.value})


def set_running(num_samples: int) -> None:
    """Samples this front door is scoring now."""
    gauge("forklight.reward.running").set(num_samples)


def count_dropped(reason: str) -> None:
    """One sample given up without a submitted verdict: fenced, unreadable, or not accepted in time."""
    counter("forklight.reward.dropped").add(1, {"reason": reason})


def count_math_call(status: str, *, fast: bool) -> None:
    """One answer verified, and whether the exact fast path decided."""
    counter("forklight.reward.math_calls").add(1, {"status": status, "path": "fast" if fast else "slow"})


def count_math_kill() -> None:
    """One math worker killed at its limit."""
    counter("forklight.reward.math_kills").add(1)


def count_job(verdict: str, *, is_judged: bool = True) -> None:
    """One program judged, by class, or only run: then OK stands for a good end."""
    purpose = "judge" if is_judged else "run"
    counter("forklight.reward.sandbox_jobs").add(1, {"class": verdict, "purpose": purpose})
