"""OpenTelemetry from day one: set-up, one trace per sample, one registry of metrics."""

from opentelemetry.trace import SpanKind

from forklight_core.telemetry.registry import METRICS, MetricKind, MetricSpec, counter, gauge, histogram
from forklight_core.telemetry.setup import Destinations, install_providers, setup_telemetry
from forklight_core.telemetry.spans import (
    Attribute,
    current_traceparent,
    emit_linked_span,
    emit_root_span,
    emit_span,
    span,
    traceparent_of,
)

__all__ = [
    "METRICS",
    "Attribute",
    "Destinations",
    "MetricKind",
    "MetricSpec",
    "SpanKind",
    "counter",
    "current_traceparent",
    "emit_linked_span",
    "emit_root_span",
    "emit_span",
    "gauge",
    "histogram",
    "install_providers",
    "setup_telemetry",
    "span",
    "traceparent_of",
]
