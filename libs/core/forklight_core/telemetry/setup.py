"""Start and stop OpenTelemetry in a process. Without an endpoint nothing is exported and spans cost little.

Every batch ends with a burst of spans, so the export queue holds 65,536: the default of 2,048 drops some.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from forklight_core.telemetry.ids import SampleIdGenerator

QUEUE_SPANS = 65_536
BATCH_SPANS = 2_048
EXPORT_EVERY_MS = 1_000
METRICS_EVERY_MS = 5_000
EXPORT_TIMEOUT_S = 5


def setup_telemetry(service: str, pod: str, otlp_endpoint: str) -> Callable[[], None]:
    """Install providers; returns what flushes and stops them."""
    if not otlp_endpoint:
        return _do_nothing
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    insecure = not otlp_endpoint.startswith("https://")
    spans = OTLPSpanExporter(endpoint=otlp_endpoint, insecure=insecure, timeout=EXPORT_TIMEOUT_S)
    numbers = OTLPMetricExporter(endpoint=otlp_endpoint, insecure=insecure, timeout=EXPORT_TIMEOUT_S)
    processor = BatchSpanProcessor(
        spans,
        max_queue_size=QUEUE_SPANS,
        max_export_batch_size=BATCH_SPANS,
        schedule_delay_millis=EXPORT_EVERY_MS,
    )
    reader = PeriodicExportingMetricReader(numbers, export_interval_millis=METRICS_EVERY_MS)
    return install_providers(service, pod, [processor], [reader])


def install_providers(
    service: str, pod: str, processors: Sequence[SpanProcessor], readers: Sequence[MetricReader]
) -> Callable[[], None]:
    """Make these the process's providers; tests pass in-memory ones."""
    resource = Resource.create({"service.name": f"forklight-{service}", "service.instance.id": pod})
    tracers = TracerProvider(resource=resource, id_generator=SampleIdGenerator())
    for processor in processors:
        tracers.add_span_processor(processor)
    meters = MeterProvider(resource=resource, metric_readers=list(readers))
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)

    def shutdown() -> None:
        tracers.shutdown()
        meters.shutdown()

    return shutdown


def _do_nothing() -> None:
    return None
