"""Every metric of Forklight: name, kind, unit, help, owner. Instruments can only be made from here; dashboards and docs too."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from opentelemetry import metrics
from opentelemetry.metrics import Counter, Histogram
from opentelemetry.metrics import _Gauge as Gauge


class MetricKind(StrEnum):
    """What an instrument does."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric."""

    name: str
    kind: MetricKind
    unit: str
    help: str
    owner: str


C, H, G = MetricKind.COUNTER, MetricKind.HISTOGRAM, MetricKind.GAUGE

METRICS: tuple[MetricSpec, ...] = (
    MetricSpec("forklight.rpc.calls", C, "{call}", "Calls answered, by method and status", "core"),
    MetricSpec("forklight.rpc.duration", H, "s", "Time to answer a call, by method", "core"),
)


@cache
def _by_name() -> dict[str, MetricSpec]:
    return {spec.name: spec for spec in METRICS}


def _spec(name: str, kind: MetricKind) -> MetricSpec:
    spec = _by_name().get(name)
    if spec is None or spec.kind is not kind:
        raise LookupError(f"{name!r} is no {kind} of the registry (forklight_core/telemetry/registry.py): add it there")
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
