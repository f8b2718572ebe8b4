"""An OTLP/gRPC receiver that keeps spans in memory: what a collector would have been sent."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanRecord:
    """One received span."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    attributes: dict[str, str]
    linked_traces: tuple[str, ...]
    is_error: bool
    events: str
    """All of them, as text."""


@dataclass(slots=True)
class Collector(trace_service_pb2_grpc.TraceServiceServicer, metrics_service_pb2_grpc.MetricsServiceServicer):
    """Everything received so far."""

    spans: list[SpanRecord] = field(default_factory=list)
    metric_names: set[str] = field(default_factory=set)
    exemplar_traces: set[str] = field(default_factory=set)
    """Traces that points of histograms name as examples."""
    endpoint: str = ""
    _lock: Lock = field(default_factory=Lock)

    def Export(self, request: object, context: object) -> object:
        if isinstance(request, metrics_service_pb2.ExportMetricsServiceRequest):
            return self._keep_metrics(request)
        assert isinstance(request, trace_service_pb2.ExportTraceServiceRequest)
        return self._keep_spans(request)

    def _keep_spans(
        self, request: trace_service_pb2.ExportTraceServiceRequest
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        with self._lock:
            for group in request.resource_spans:
                named = {item.key: item.value.string_value for item in group.resource.attributes}
                for scope in group.scope_spans:
                    self.spans += [_record(named.get("service.name", ""), span) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def _keep_metrics(
        self, request: metrics_service_pb2.ExportMetricsServiceRequest
    ) -> metrics_service_pb2.ExportMetricsServiceResponse:
        with self._lock:
            for group in request.resource_metrics:
                for scope in group.scope_metrics:
                    self.metric_names |= {metric.name for metric in scope.metrics}
                    self.exemplar_traces |= {
                        example.trace_id.hex()
                        for metric in scope.metrics
                        for point in metric.histogram.data_points
                        for example in point.exemplars
                    }
        return metrics_service_pb2.ExportMetricsServiceResponse()

    def snapshot(self) -> list[SpanRecord]:
        with self._lock:
            return list(self.spans)


def _record(service: str, span: object) -> SpanRecord:
    return SpanRecord(
        service=service,
        name=span.name,  # type: ignore[attr-defined]
        trace_id=span.trace_id.hex(),  # type: ignore[attr-defined]
        span_id=span.span_id.hex(),  # type: ignore[attr-defined]
        parent_id=span.parent_span_id.hex(),  # type: ignore[attr-defined]
        kind=span.kind,  # type: ignore[attr-defined]
        attributes={item.key: str(item.value) for item in span.attributes},  # type: ignore[attr-defined]
        linked_traces=tuple(link.trace_id.hex() for link in span.links),  # type: ignore[attr-defined]
        is_error=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,  # type: ignore[attr-defined]
        events=" ".join(map(str, span.events)),  # type: ignore[attr-defined]
    )


@contextmanager
def run_collector() -> Iterator[Collector]:
    """Listen on a free port until the block ends."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", 64 * 2**20)])
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    collector.endpoint = f"http://127.0.0.1:{port}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(1).wait()
