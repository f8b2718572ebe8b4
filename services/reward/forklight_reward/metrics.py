"""The metrics of this service; their names, units and help are in the registry of core."""

from __future__ import annotations

from forklight_core.telemetry import counter, gauge, histogram
from forklight_reward.ports import Status

KNOWN_KINDS = frozenset({"math", "code", "repo", "judge", "logic", "gym"})


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


def set_lane(name: str, num_running: int, num_waiting: int) -> None:
    """How full the line of a class is."""
    gauge("forklight.reward.lane").set(num_running, {"class": name, "state": "running"})
    gauge("forklight.reward.lane").set(num_waiting, {"class": name, "state": "waiting"})


def count_handed_back(name: str) -> None:
    """One sample put back into the queue because the line of its class is full."""
    counter("forklight.reward.handed_back").add(1, {"class": name})


def count_reused(kind: str) -> None:
    """One verdict from an outcome that was known."""
    counter("forklight.reward.reused").add(1, {"kind": kind if kind in KNOWN_KINDS else "other"})


def count_audited(num_lines: int) -> None:
    """Verdicts in the audit log."""
    counter("forklight.reward.audit.lines").add(num_lines)


def count_audit_lost(num_lines: int) -> None:
    """Audit lines given up because the disk took none for too long."""
    counter("forklight.reward.audit.lost").add(num_lines)


def set_audit_waiting(num_lines: int) -> None:
    """Audit lines that wait for the disk."""
    gauge("forklight.reward.audit.waiting").set(num_lines)


def count_audit_repair(num_bytes: int) -> None:
    """One audit file closed for a writer that was killed; of a broken one (-1) nothing is repaired."""
    counter("forklight.reward.audit.repairs").add(1, {"outcome": "broken" if num_bytes < 0 else "closed"})


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


def count_judgement(*, is_abstention: bool) -> None:
    """One sample judged."""
    counter("forklight.reward.judge.calls").add(1, {"outcome": "abstain" if is_abstention else "grade"})


def count_watched(*, is_matched: bool) -> None:
    """One judged sample, and whether a rule knows what is right there."""
    counter("forklight.reward.judge.watched").add(1, {"matched": "yes" if is_matched else "no"})


def set_judge_ready(is_ready: bool) -> None:
    """Whether the judge has passed the canaries."""
    gauge("forklight.reward.judge.ready").set(int(is_ready))


def set_judge_abstain_share(share: float) -> None:
    """Of the last judgements, how many were none."""
    gauge("forklight.reward.judge.abstain_share").set(share)


def set_judge_length(slope: float | None, cusum: float, *, is_alarm: bool) -> None:
    """What the length monitor found in a window; no slope where too few groups tell."""
    if slope is not None:
        gauge("forklight.reward.judge.length_slope").set(slope)
    gauge("forklight.reward.judge.length_cusum").set(cusum)
    gauge("forklight.reward.judge.alarm").set(int(is_alarm), {"monitor": "length"})


def set_judge_residual(slope: float) -> None:
    """What is left of the slope in the scores that were given out."""
    gauge("forklight.reward.judge.length_residual").set(slope)


def set_judge_level(level: int) -> None:
    """The level of the measures against length that hold for the newest policy version."""
    gauge("forklight.reward.judge.level").set(level)


def set_judge_padding(gain: float) -> None:
    """What the padding probe found."""
    gauge("forklight.reward.judge.padding_gain").set(gain)


def set_judge_pairs(inconsistency: float, position_bias: float, *, is_alarm: bool) -> None:
    """How much the order of two answers decides."""
    gauge("forklight.reward.judge.inconsistency").set(inconsistency)
    gauge("forklight.reward.judge.position_bias").set(position_bias)
    gauge("forklight.reward.judge.alarm").set(int(is_alarm), {"monitor": "order"})
