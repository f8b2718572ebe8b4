"""Dashboard: do all pods generate, with the right weights, at their speed?"""

from __future__ import annotations

from infra.grafana.expressions import level, mean, quantile, rate, recorded, rise, total
from infra.grafana.panels import Dashboard, Panel, Row, Unit

R = "forklight.rollout."
B = "forklight.buffer."
POD = "service.instance.id"

_SPEED = Row(
    "Speed",
    (
        Panel("Tokens a second", (rate(R + "tokens", POD, pods=True),), stacked=True),
        Panel(
            "Busy: mean and worst",
            (
                level(R + "busy_share", of="avg", legend="mean", pods=True),
                level(R + "busy_share", of="min", legend="worst", pods=True),
                recorded("forklight:rollout:busy_share10m", "ten minutes"),
            ),
            Unit.SHARE,
            "ForklightRolloutIdle",
        ),
        Panel("Busy by pod", (level(R + "busy_share", POD, pods=True),), Unit.SHARE),
        Panel("Engine's overhead", (level(R + "engine_overhead", POD, pods=True),), Unit.SHARE),
    ),
)
_WORK = Row(
    "Work",
    (
        Panel("Running", (level(R + "running", POD, pods=True),), stacked=True),
        Panel("Leased, not started", (level(R + "waiting", POD, pods=True),)),
        Panel("Generated, not submitted", (level(R + "unsubmitted", POD, pods=True),)),
        Panel(
            "Demand",
            (
                level(B + "demand", legend="groups wanted"),
                level(B + "queue.depth", "held", legend="tasks, held:", where='queue="tasks"'),
            ),
        ),
    ),
)
_SAMPLES = Row(
    "Samples",
    (
        Panel("Samples a second", (rate(R + "samples", "outcome", pods=True),), stacked=True),
        Panel("How they end", (rate(R + "samples", "finish_reason", pods=True),), stacked=True),
        Panel(
            "Time to generate",
            (
                quantile(R + "generate_duration", 0.5, pods=True),
                quantile(R + "generate_duration", 0.99, pods=True),
            ),
            Unit.SECONDS,
        ),
        Panel(
            "Tokens of a response",
            (
                quantile(R + "response_tokens", 0.5, pods=True),
                quantile(R + "response_tokens", 0.99, pods=True),
            ),
        ),
    ),
)
_WEIGHTS = Row(
    "Weights",
    (
        Panel(
            "Version in use", (level(R + "version", POD, pods=True), level(B + "version", legend="announced"))
        ),
        Panel(
            "Verify and load, stand still",
            (
                mean(R + "stage_duration", legend="verify and load"),
                mean(R + "swap_duration", legend="stand still"),
            ),
            Unit.SECONDS,
        ),
        Panel(
            "Probe",
            (
                level(R + "probe_agrees", POD, of="min", legend="agrees", pods=True),
                level(R + "probe_difference", POD, legend="difference", pods=True),
            ),
        ),
        Panel(
            "Versions refused",
            (rise(R + "weights_refused", POD, minutes=15, pods=True),),
            alert="ForklightWeightsRefused",
        ),
    ),
)
_HANDOVER = Row(
    "Leases and hand-over",
    (
        Panel("Groups given up", (total(R + "groups_dropped", "reason", pods=True),)),
        Panel("Saved tokens of open samples", (rate(R + "saved_tokens", pods=True),)),
        Panel(
            "Saved tokens at the buffer",
            (
                rate(B + "saved_tokens", legend="saved"),
                rate(B + "saved_tokens.dropped", "reason", legend="not gone on from"),
            ),
        ),
    ),
)
_TOOLS = Row(
    "Tools",
    (
        Panel("Samples that wait for a tool", (level(R + "calling", POD, pods=True),)),
        Panel("Calls a second", (rate(R + "tool_calls", "tool", "outcome", pods=True),)),
        Panel("Time of a call", (quantile(R + "tool_call_duration", 0.99, "tool", pods=True),), Unit.SECONDS),
        Panel("Tries that found no tool", (total(R + "tool_retries", POD, pods=True),)),
    ),
)
_HTTP = Row(
    "HTTP door",
    (
        Panel("Requests a second", (rate(R + "http_requests", "path", "status", pods=True),)),
        Panel(
            "In flight, gone",
            (
                level(R + "http_in_flight", of="sum", legend="in flight", pods=True),
                total(R + "http_gone", legend="gone"),
            ),
        ),
        Panel(
            "First token, whole answer",
            (
                quantile(R + "http_first_token", 0.99, pods=True),
                quantile(R + "http_duration", 0.99, "path", pods=True),
            ),
            Unit.SECONDS,
        ),
        Panel("Tokens a second", (rate(R + "http_tokens", "kind", pods=True),)),
    ),
)

FLEET = Dashboard(
    name="fleet",
    title="rollout fleet",
    description="Do all pods generate, with the right weights, at their speed?",
    rows=(_SPEED, _WORK, _SAMPLES, _WEIGHTS, _HANDOVER, _TOOLS, _HTTP),
    has_pods=True,
)
