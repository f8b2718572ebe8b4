"""Every metric of Forklight: name, kind, unit, help, owner. Instruments can only be made from here."""

from __future__ import annotations

import time
from functools import cache

from opentelemetry import metrics
from opentelemetry.metrics import Counter, Histogram
from opentelemetry.metrics import _Gauge as Gauge

from forklight_core.telemetry.buffer_metrics import BUFFER_METRICS
from forklight_core.telemetry.metric_spec import MetricKind, MetricSpec, buckets_of
from forklight_core.telemetry.reward_metrics import REWARD_METRICS
from forklight_core.telemetry.rollout_metrics import ROLLOUT_METRICS
from forklight_core.telemetry.trainer_metrics import TRAINER_METRICS

__all__ = ["METRICS", "MetricKind", "MetricSpec", "counter", "gauge", "histogram", "announce_process"]

C, H, G = MetricKind.COUNTER, MetricKind.HISTOGRAM, MetricKind.GAUGE

METRICS: tuple[MetricSpec, ...] = (
    *BUFFER_METRICS,
    *REWARD_METRICS,
    *ROLLOUT_METRICS,
    MetricSpec(
        "forklight.console.request_duration",
        H,
        "s",
        "Time to answer a request, by path",
        "console",
        labels=("path",),
    ),
    MetricSpec(
        "forklight.console.requests",
        C,
        "{request}",
        "Requests answered, by path and status",
        "console",
        labels=("path", "status"),
    ),
    MetricSpec(
        "forklight.rpc.calls",
        C,
        "{call}",
        "Calls answered, by method and status",
        "core",
        labels=("rpc.method", "rpc.status"),
    ),
    MetricSpec(
        "forklight.rpc.duration", H, "s", "Time to answer a call, by method", "core", labels=("rpc.method",)
    ),
    MetricSpec("forklight.process.started", G, "s", "Unix time at which a process began", "core"),
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
    return metrics.get_meter("forklight").create_histogram(
        spec.name, unit=spec.unit, description=spec.help, explicit_bucket_boundaries_advisory=buckets_of(spec)
    )


@cache
def gauge(name: str) -> Gauge:
    """The gauge of this name."""
    spec = _spec(name, MetricKind.GAUGE)
    return metrics.get_meter("forklight").create_gauge(spec.name, unit=spec.unit, description=spec.help)


def announce_process(service: str) -> None:
    """It began; and its counters begin at 0: one born at 1 looks to Prometheus as if nothing happened."""
    gauge("forklight.process.started").set(time.time())
    owner = service.partition("-")[0]
    for spec in METRICS:
        if spec.kind is MetricKind.COUNTER and spec.owner == owner:
            counter(spec.name).add(0)
