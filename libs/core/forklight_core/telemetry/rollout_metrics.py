"""The rollout pods' metrics, by name."""

from __future__ import annotations

from forklight_core.telemetry.metric_spec import MetricKind, MetricSpec

C, H, G = MetricKind.COUNTER, MetricKind.HISTOGRAM, MetricKind.GAUGE

ROLLOUT_METRICS: tuple[MetricSpec, ...] = (
    MetricSpec(
        "forklight.rollout.busy_share",
        G,
        "1",
        "Share of the time that the model computes, over a second",
        "rollout",
    ),
    MetricSpec(
        "forklight.rollout.probe_agrees",
        G,
        "1",
        "0 while the weights in use failed their probe, else 1",
        "rollout",
    ),
    MetricSpec(
        "forklight.rollout.probe_difference",
        G,
        "1",
        "Largest difference of a log-prob of the last probe from the trainer's",
        "rollout",
    ),
    MetricSpec("forklight.rollout.calling", G, "{sample}", "Samples that wait for a tool", "rollout"),
    MetricSpec(
        "forklight.rollout.engine_overhead", G, "1", "Share of a step spent outside the model", "rollout"
    ),
    MetricSpec("forklight.rollout.generate_duration", H, "s", "Time to generate a sample", "rollout"),
    MetricSpec(
        "forklight.rollout.groups_dropped",
        C,
        "{group}",
        "Groups given up, by reason",
        "rollout",
        labels=("reason",),
    ),
    MetricSpec(
        "forklight.rollout.response_tokens",
        H,
        "{token}",
        "Tokens a response, by finish reason",
        "rollout",
        labels=("finish_reason",),
    ),
    MetricSpec(
        "forklight.rollout.http_duration",
        H,
        "s",
        "Time to answer an HTTP request, by path",
        "rollout",
        labels=("path",),
    ),
    MetricSpec(
        "forklight.rollout.http_first_token", H, "s", "Time to an HTTP request's first token", "rollout"
    ),
    MetricSpec(
        "forklight.rollout.http_gone",
        C,
        "{request}",
        "HTTP requests whose client went before the end",
        "rollout",
    ),
    MetricSpec("forklight.rollout.http_in_flight", G, "{request}", "HTTP requests in flight", "rollout"),
    MetricSpec(
        "forklight.rollout.http_requests",
        C,
        "{request}",
        "HTTP requests answered, by path and status",
        "rollout",
        labels=("path", "status"),
    ),
    MetricSpec(
        "forklight.rollout.http_tokens",
        C,
        "{token}",
        "Tokens of HTTP requests, by kind",
        "rollout",
        labels=("kind",),
    ),
    MetricSpec("forklight.rollout.running", G, "{sequence}", "Sequences in the decode batch", "rollout"),
    MetricSpec(
        "forklight.rollout.samples",
        C,
        "{sample}",
        "Samples done, by outcome and finish reason",
        "rollout",
        labels=("outcome", "finish_reason"),
    ),
    MetricSpec("forklight.rollout.saved_tokens", C, "{token}", "Tokens of open samples saved", "rollout"),
    MetricSpec("forklight.rollout.stage_duration", H, "s", "Time to verify and load a version", "rollout"),
    MetricSpec(
        "forklight.rollout.swap_duration", H, "s", "Time decoding stood still for new weights", "rollout"
    ),
    MetricSpec("forklight.rollout.tokens", C, "{token}", "Response tokens generated", "rollout"),
    MetricSpec(
        "forklight.rollout.tool_call_duration",
        H,
        "s",
        "Time to answer a call, by tool",
        "rollout",
        labels=("tool",),
    ),
    MetricSpec(
        "forklight.rollout.tool_calls",
        C,
        "{call}",
        "Calls, by tool and outcome",
        "rollout",
        labels=("tool", "outcome"),
    ),
    MetricSpec("forklight.rollout.tool_retries", C, "{try}", "Tries of calls that found no tool", "rollout"),
    MetricSpec(
        "forklight.rollout.unsubmitted", G, "{sample}", "Samples generated, not yet submitted", "rollout"
    ),
    MetricSpec("forklight.rollout.version", G, "{version}", "Policy version in use", "rollout"),
    MetricSpec("forklight.rollout.waiting", G, "{sequence}", "Sequences leased but not started", "rollout"),
    MetricSpec(
        "forklight.rollout.weights_refused", C, "{version}", "Versions refused as not sound", "rollout"
    ),
)
