"""Tells the world that samples ended: root span, counters, distributions."""

from __future__ import annotations

from collections.abc import Iterable

from forklight_buffer import metrics
from forklight_buffer.records import Conflict, SampleRow
from forklight_buffer.states import State, short_reason
from forklight_core.telemetry import counter, emit_root_span, histogram

FAILED = frozenset({State.REWARD_FAILED, State.INFRA_FAILED})


def announce_endings(rows: Iterable[SampleRow], version: int) -> None:
    """One root span and one count for each sample that is terminal now."""
    for row in rows:
        reason = short_reason(row.reason)
        emit_root_span(
            row.sample_id,
            start_s=row.opened_at,
            end_s=row.ended_at,
            attributes=_attributes(row),
            failed=row.state in FAILED,
        )
        counter(metrics.SAMPLES).add(1, {"state": row.state.name.lower(), "reason": reason})
        histogram(metrics.SAMPLE_AGE).record(
            max(0.0, row.ended_at - row.opened_at), {"state": row.state.name.lower()}
        )
        if row.payload_id:
            histogram(metrics.RESPONSE_TOKENS).record(row.num_response_tokens)
        if row.reward is not None:
            histogram(metrics.REWARD).record(row.reward, {"purpose": row.purpose.name.lower()})
        if row.state is State.TRAINED:
            histogram(metrics.VERSION_LAG).record(max(0, version - row.min_version))


def _attributes(row: SampleRow) -> dict[str, str | int | float]:
    found: dict[str, str | int | float] = {
        "rl.state": row.state.name.lower(),
        "rl.reason": short_reason(row.reason),
        "rl.prompt.id": row.prompt_id,
        "rl.tokens": row.num_response_tokens,
        "rl.version.min": row.min_version,
        "rl.version.max": row.max_version,
    }
    if row.reward is not None:
        found["rl.reward"] = row.reward
    if row.state is State.TRAINED:
        found |= {"rl.lineage": row.lineage, "rl.step": row.step}
    return found


def count_dropped_tokens(num_tokens: int, reason: str) -> None:
    """Saved tokens that nobody will go on from."""
    counter(metrics.DROPPED_TOKENS).add(num_tokens, {"reason": reason})


def announce_conflicts(conflicts: Iterable[Conflict]) -> None:
    """Second, different terminal states are counted: there must be none."""
    for conflict in conflicts:
        counter(metrics.CONFLICTS).add(
            1, {"kept": conflict.kept.name.lower(), "refused": conflict.refused.name.lower()}
        )
