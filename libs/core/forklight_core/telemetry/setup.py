"""Start and stop OpenTelemetry in a process. Without an endpoint nothing is exported and spans cost little.

Every batch ends with a burst of spans, so the export queue holds 65,536: the default of 2,048 drops some.
A collector that is away costs spans, never time: exporters work in threads, and the end waits END_S at most.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from forklight_core.telemetry.conventions import Resource as ResourceKey
from forklight_core.telemetry.exposition import serve_metrics
from forklight_core.telemetry.ids import SampleIdGenerator
from forklight_core.telemetry.registry import announce_process

log = logging.getLogger(__name__)

QUEUE_SPANS = 65_536
BATCH_SPANS = 2_048
EXPORT_EVERY_MS = 1_000
METRICS_EVERY_MS = 5_000
EXPORT_TIMEOUT_S = 5
END_S = 5.0
"""How long the end of a process waits for what is not exported yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destinations:
    """Where telemetry goes; empty: nowhere."""

    otlp_endpoint: str = ""
    """Traces and metrics are sent there."""
    metrics_listen: str = ""
    """host:port where Prometheus may fetch metrics."""


def setup_telemetry(service: str, pod: str, to: Destinations, run_id: str = "") -> Callable[[], None]:
    """Install providers; returns what flushes and stops them."""
    processors: list[SpanProcessor] = []
    readers: list[MetricReader] = []
    stop_serving: Callable[[], None] | None = None
    if to.otlp_endpoint:
        processor, sender = _senders(to.otlp_endpoint)
        processors.append(processor)
        readers.append(sender)
    if to.metrics_listen:
        exposition = serve_metrics(to.metrics_listen)
        if exposition is not None:
            readers.append(exposition.reader)
            stop_serving = exposition.stop
    if not readers:
        return _do_nothing
    shutdown = install_providers(service, pod, processors, readers, run_id)
    announce_process(service)

    def stop() -> None:
        if stop_serving is not None:
            stop_serving()
        _within(END_S, shutdown)

    return stop


def _senders(endpoint: str) -> tuple[SpanProcessor, MetricReader]:
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    insecure = not endpoint.startswith("https://")
    spans = OTLPSpanExporter(endpoint=endpoint, insecure=insecure, timeout=EXPORT_TIMEOUT_S)
    numbers = OTLPMetricExporter(endpoint=endpoint, insecure=insecure, timeout=EXPORT_TIMEOUT_S)
    processor = BatchSpanProcessor(
        spans,
        max_queue_size=QUEUE_SPANS,
        max_export_batch_size=BATCH_SPANS,
        schedule_delay_millis=EXPORT_EVERY_MS,
    )
    return processor, PeriodicExportingMetricReader(numbers, export_interval_millis=METRICS_EVERY_MS)


def install_providers(
    service: str,
    pod: str,
    processors: Sequence[SpanProcessor],
    readers: Sequence[MetricReader],
    run_id: str = "",
) -> Callable[[], None]:
    """Make these the process's providers; tests pass in-memory ones."""
    named = {ResourceKey.SERVICE: f"forklight-{service}", ResourceKey.POD: pod}
    resource = Resource.create(named | ({ResourceKey.RUN: run_id} if run_id else {}))
    meters = MeterProvider(resource=resource, metric_readers=list(readers), shutdown_on_exit=False)
    metrics.set_meter_provider(meters)
    tracers: TracerProvider | None = None
    if processors:  # else spans would be made that nobody sees
        tracers = TracerProvider(resource=resource, id_generator=SampleIdGenerator(), shutdown_on_exit=False)
        for processor in processors:
            tracers.add_span_processor(processor)
        trace.set_tracer_provider(tracers)

    def shutdown() -> None:
        if tracers is not None:
            tracers.shutdown()
        meters.shutdown()

    return shutdown


def _within(seconds: float, work: Callable[[], None]) -> None:
    """Do it in a thread and wait so long; a process ends whatever the thread still does."""
    thread = threading.Thread(target=work, name="end-telemetry", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        log.warning("telemetry not flushed: its endpoint does not answer", extra={"waited_s": seconds})


def _do_nothing() -> None:
    return None
