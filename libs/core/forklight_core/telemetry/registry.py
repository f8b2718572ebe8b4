"""Every metric of Forklight: name, kind, unit, help, owner. Instruments can only be made from here."""

from __future__ import annotations

from functools import cache

from opentelemetry import metrics
from opentelemetry.metrics import Counter, Histogram
from opentelemetry.metrics import _Gauge as Gauge

from forklight_core.telemetry.metric_spec import MetricKind, MetricSpec
from forklight_core.telemetry.trainer_metrics import TRAINER_METRICS

__all__ = ["METRICS", "MetricKind", "MetricSpec", "counter", "gauge", "histogram"]

C, H, G = MetricKind.COUNTER, MetricKind.HISTOGRAM, MetricKind.GAUGE

METRICS: tuple[MetricSpec, ...] = (
    MetricSpec("forklight.buffer.batch.wait", H, "s", "Time a trainer waited for a batch", "buffer"),
    MetricSpec(
        "forklight.buffer.conflicts",
        C,
        "{sample}",
        "Second, different terminal states that were refused: must stay 0",
        "buffer",
    ),
    MetricSpec("forklight.buffer.credit.bytes", G, "By", "Blob bytes that may still be opened", "buffer"),
    MetricSpec("forklight.buffer.credit.tokens", G, "{token}", "Tokens that may still be opened", "buffer"),
    MetricSpec(
        "forklight.buffer.curriculum.groups",
        C,
        "{group}",
        "Training groups the curriculum drew, by domain",
        "buffer",
    ),
    MetricSpec(
        "forklight.buffer.curriculum.level", G, "1", "Level that puzzles are drawn at, by task", "buffer"
    ),
    MetricSpec(
        "forklight.buffer.curriculum.share",
        G,
        "1",
        "Share of the draws a domain gets now; 0 while it has nothing to draw",
        "buffer",
    ),
    MetricSpec(
        "forklight.buffer.dead_letters", C, "{entry}", "Queue entries delivered too often, by queue", "buffer"
    ),
    MetricSpec(
        "forklight.buffer.evaluation.pass",
        G,
        "1",
        "pass@k of the last complete evaluation round, by k",
        "buffer",
    ),
    MetricSpec(
        "forklight.buffer.evaluation.reward",
        G,
        "1",
        "Mean reward of the last complete evaluation round",
        "buffer",
    ),
    MetricSpec(
        "forklight.buffer.evaluation.skipped",
        C,
        "{round}",
        "Evaluation rounds not held because two others were open",
        "buffer",
    ),
    MetricSpec(
        "forklight.buffer.events",
        C,
        "{event}",
        "Events reported by the trainer, by kind and severity",
        "buffer",
    ),
    MetricSpec("forklight.buffer.groups", G, "{group}", "Live groups by status", "buffer"),
    MetricSpec("forklight.buffer.groups.opened", C, "{group}", "Groups opened, by purpose", "buffer"),
    MetricSpec("forklight.buffer.queue.age", G, "s", "Age of the oldest entry of a queue", "buffer"),
    MetricSpec(
        "forklight.buffer.queue.depth", G, "{entry}", "Entries of a queue, waiting or leased", "buffer"
    ),
    MetricSpec(
        "forklight.buffer.reconciliations",
        C,
        "{time}",
        "Times Redis and the ledger were reconciled",
        "buffer",
    ),
    MetricSpec("forklight.buffer.response.tokens", H, "{token}", "Tokens of a response", "buffer"),
    MetricSpec("forklight.buffer.reward", H, "1", "Reward of a scored sample, by purpose", "buffer"),
    MetricSpec(
        "forklight.buffer.sample.age", H, "s", "Time from opening a sample to its terminal state", "buffer"
    ),
    MetricSpec(
        "forklight.buffer.saved_tokens",
        C,
        "{token}",
        "Tokens of unfinished responses that were saved",
        "buffer",
    ),
    MetricSpec(
        "forklight.buffer.saved_tokens.dropped",
        C,
        "{token}",
        "Saved tokens nobody goes on from, by reason",
        "buffer",
    ),
    MetricSpec(
        "forklight.buffer.samples",
        C,
        "{sample}",
        "Samples that ended, by terminal state and reason",
        "buffer",
    ),
    MetricSpec("forklight.buffer.step", G, "{step}", "Last committed optimizer step", "buffer"),
    MetricSpec(
        "forklight.buffer.stuck", G, "{sample}", "Samples open for longer than the watchdog allows", "buffer"
    ),
    MetricSpec("forklight.buffer.version", G, "{version}", "Newest announced policy version", "buffer"),
    MetricSpec(
        "forklight.buffer.version.lag",
        H,
        "{version}",
        "Versions between a trained sample's oldest token and the newest policy",
        "buffer",
    ),
    MetricSpec("forklight.buffer.window", G, "{token}", "Length window of groups opened now", "buffer"),
    MetricSpec("forklight.console.request_duration", H, "s", "Time to answer a request, by path", "console"),
    MetricSpec(
        "forklight.console.requests", C, "{request}", "Requests answered, by path and status", "console"
    ),
    MetricSpec("forklight.reward.audit.lines", C, "{line}", "Verdicts written into the audit log", "reward"),
    MetricSpec(
        "forklight.reward.audit.lost",
        C,
        "{line}",
        "Audit lines given up because the disk took none for too long: must stay 0",
        "reward",
    ),
    MetricSpec(
        "forklight.reward.audit.repairs",
        C,
        "{file}",
        "Audit files closed for a killed writer, or found broken, by outcome",
        "reward",
    ),
    MetricSpec("forklight.reward.audit.waiting", G, "{line}", "Audit lines that wait for the disk", "reward"),
    MetricSpec(
        "forklight.reward.dropped",
        C,
        "{sample}",
        "Samples left to the queue without a verdict, by reason",
        "reward",
    ),
    MetricSpec(
        "forklight.reward.judge.abstain_share",
        G,
        "1",
        "Share of the last 512 judgements that were abstentions",
        "reward",
    ),
    MetricSpec(
        "forklight.reward.handed_back",
        C,
        "{sample}",
        "Samples put back into the queue because the line of their class is full",
        "reward",
    ),
    MetricSpec(
        "forklight.reward.judge.alarm", G, "1", "1 while a monitor of the judge rings, by it", "reward"
    ),
    MetricSpec("forklight.reward.judge.calls", C, "{sample}", "Samples judged, by outcome", "reward"),
    MetricSpec(
        "forklight.reward.judge.inconsistency",
        G,
        "1",
        "Share of the last 512 comparisons where the order decided",
        "reward",
    ),
    MetricSpec(
        "forklight.reward.judge.length_cusum",
        G,
        "1",
        "Evidence that the judge pays for length; rings above 5",
        "reward",
    ),
    MetricSpec(
        "forklight.reward.judge.length_residual",
        G,
        "1",
        "The same slope of the scores that were given out, after correction",
        "reward",
    ),
    MetricSpec(
        "forklight.reward.judge.length_slope",
        G,
        "1",
        "Score a doubling of length at matched correctness, in the last 64 groups",
        "reward",
    ),
    MetricSpec(
        "forklight.reward.judge.level",
        G,
        "1",
        "Measures against length: 0 none, 1 offset, 2 prompt, 3 references, 4 off",
        "reward",
    ),
    MetricSpec(
        "forklight.reward.judge.padding_gain",
        G,
        "1",
        "Score that padding alone gains, in the last probe",
        "reward",
    ),
    MetricSpec(
        "forklight.reward.judge.position_bias",
        G,
        "1",
        "Above 0 when the judge favours what it reads first, over 512 comparisons",
        "reward",
    ),
    MetricSpec("forklight.reward.judge.ready", G, "1", "1 once the judge has passed the canaries", "reward"),
    MetricSpec(
        "forklight.reward.judge.watched",
        C,
        "{sample}",
        "Judged samples seen by the length monitor, by whether a rule knows what is right",
        "reward",
    ),
    MetricSpec("forklight.reward.lane", G, "{sample}", "Samples of a class that run or wait", "reward"),
    MetricSpec("forklight.reward.math_calls", C, "{call}", "Answers verified, by status and path", "reward"),
    MetricSpec("forklight.reward.math_kills", C, "{process}", "Math workers killed at their limit", "reward"),
    MetricSpec(
        "forklight.reward.retries",
        C,
        "{try}",
        "Tries without a score that were repeated, by status",
        "reward",
    ),
    MetricSpec("forklight.reward.reused", C, "{sample}", "Verdicts from an outcome that was known", "reward"),
    MetricSpec("forklight.reward.running", G, "{sample}", "Samples being scored", "reward"),
    MetricSpec(
        "forklight.reward.sandbox_jobs",
        C,
        "{program}",
        "Programs judged or run, by class and purpose",
        "reward",
    ),
    MetricSpec("forklight.reward.score_duration", H, "s", "Time to score a sample, by kind", "reward"),
    MetricSpec("forklight.reward.verdicts", C, "{sample}", "Verdicts, by kind and status", "reward"),
    MetricSpec("forklight.rollout.calling", G, "{sample}", "Samples that wait for a tool", "rollout"),
    MetricSpec(
        "forklight.rollout.engine_overhead", G, "1", "Share of a step spent outside the model", "rollout"
    ),
    MetricSpec("forklight.rollout.generate_duration", H, "s", "Time to generate a sample", "rollout"),
    MetricSpec("forklight.rollout.groups_dropped", C, "{group}", "Groups given up, by reason", "rollout"),
    MetricSpec(
        "forklight.rollout.response_tokens", H, "{token}", "Tokens a response, by finish reason", "rollout"
    ),
    MetricSpec(
        "forklight.rollout.http_duration", H, "s", "Time to answer an HTTP request, by path", "rollout"
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
    ),
    MetricSpec("forklight.rollout.http_tokens", C, "{token}", "Tokens of HTTP requests, by kind", "rollout"),
    MetricSpec("forklight.rollout.running", G, "{sequence}", "Sequences in the decode batch", "rollout"),
    MetricSpec(
        "forklight.rollout.samples", C, "{sample}", "Samples done, by outcome and finish reason", "rollout"
    ),
    MetricSpec("forklight.rollout.saved_tokens", C, "{token}", "Tokens of open samples saved", "rollout"),
    MetricSpec("forklight.rollout.stage_duration", H, "s", "Time to verify and load a version", "rollout"),
    MetricSpec(
        "forklight.rollout.swap_duration", H, "s", "Time decoding stood still for new weights", "rollout"
    ),
    MetricSpec("forklight.rollout.tokens", C, "{token}", "Response tokens generated", "rollout"),
    MetricSpec("forklight.rollout.tool_call_duration", H, "s", "Time to answer a call, by tool", "rollout"),
    MetricSpec("forklight.rollout.tool_calls", C, "{call}", "Calls, by tool and outcome", "rollout"),
    MetricSpec("forklight.rollout.tool_retries", C, "{try}", "Tries of calls that found no tool", "rollout"),
    MetricSpec(
        "forklight.rollout.unsubmitted", G, "{sample}", "Samples generated, not yet submitted", "rollout"
    ),
    MetricSpec("forklight.rollout.version", G, "{version}", "Policy version in use", "rollout"),
    MetricSpec("forklight.rollout.waiting", G, "{sequence}", "Sequences leased but not started", "rollout"),
    MetricSpec(
        "forklight.rollout.weights_refused", C, "{version}", "Versions refused as not sound", "rollout"
    ),
    MetricSpec("forklight.rpc.calls", C, "{call}", "Calls answered, by method and status", "core"),
    MetricSpec("forklight.rpc.duration", H, "s", "Time to answer a call, by method", "core"),
    *TRAINER_METRICS,
)


@cache
def _by_name() -> dict[str, MetricSpec]:
    return {spec.name: spec for spec in METRICS}


def _spec(name: str, kind: MetricKind) -> MetricSpec:
    spec = _by_name().get(name)
    if spec is None or spec.kind is not kind:
        raise LookupError(
            f"{name!r} is no {kind} of the registry (forklight_core/telemetry/registry.py): add it there"
        )
    return spec


@cache
def counter(name: str) -> Counter:
    """The counter of this name."""
    spec = _spec(name, MetricKind.COUNTER)
    return metrics.get_meter("forklight").create_counter(spec.name, unit=spec.unit, description=spec.help)


@cache
def histogram(name: str) -> Histogram:
    """The histogram of this name."""
    spec = _spec(name, MetricKind.HISTOGRAM)
    return metrics.get_meter("forklight").create_histogram(spec.name, unit=spec.unit, description=spec.help)


@cache
def gauge(name: str) -> Gauge:
    """The gauge of this name."""
    spec = _spec(name, MetricKind.GAUGE)
    return metrics.get_meter("forklight").create_gauge(spec.name, unit=spec.unit, description=spec.help)
