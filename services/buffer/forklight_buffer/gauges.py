"""Gauges of the buffer, set every few seconds."""

from __future__ import annotations

from forklight_buffer import metrics
from forklight_buffer.context import Context
from forklight_buffer.ports import Entries, QueueName
from forklight_core.telemetry import gauge


async def record_gauges(context: Context, entries: Entries) -> int:
    """One pass; returns 0, there is never more to do at once."""
    standing = await context.live.standing()
    section = context.run_file.buffer
    groups = {
        "open": standing.open_groups,
        "ready": standing.ready_groups,
        "leased": standing.leased_groups,
        "evaluating": standing.evaluating_groups,
    }
    for status, num_groups in groups.items():
        gauge(metrics.GROUPS).set(num_groups, {"status": status})
    gauge(metrics.CREDIT_TOKENS).set(max(0, section.max_open_tokens - standing.held_tokens))
    gauge(metrics.CREDIT_BYTES).set(max(0, section.max_open_bytes - standing.held_bytes))
    gauge(metrics.STEP).set(standing.step)
    gauge(metrics.VERSION).set(standing.version)
    gauge(metrics.WINDOW).set(standing.window)
    gauge(metrics.STALENESS_BOUND).set(section.max_staleness)
    for queue in QueueName:
        stats = await entries.stats(queue)
        gauge(metrics.QUEUE_DEPTH).set(stats.num_waiting, {"queue": queue, "held": "no"})
        gauge(metrics.QUEUE_DEPTH).set(stats.num_leased, {"queue": queue, "held": "yes"})
        gauge(metrics.QUEUE_AGE).set(stats.oldest_age_s, {"queue": queue})
    return 0
