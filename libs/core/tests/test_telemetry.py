"""Sample traces have computable ids; unknown metrics are refused; no endpoint means no export."""

from __future__ import annotations

import json
import logging

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from forklight_core import ids
from forklight_core.logs import JsonFormatter
from forklight_core.telemetry import (
    METRICS,
    Destinations,
    counter,
    current_traceparent,
    emit_linked_span,
    emit_root_span,
    emit_span,
    setup_telemetry,
    span,
    spans,
)
from forklight_core.telemetry.ids import SampleIdGenerator

SAMPLE = "run-1/g00000001/s000"


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(id_generator=SampleIdGenerator())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(spans, "_tracer", lambda: provider.get_tracer("test"))
    return exporter


def test_spans_of_a_sample_hang_below_its_root_whatever_the_order(exported: InMemorySpanExporter) -> None:
    with span("generate", sample_id=SAMPLE):
        inner = current_traceparent()
    late = emit_span("verify", traceparent=inner, start_s=1.0, end_s=2.0)
    emit_linked_span("update", traceparent=late, start_s=2.0, end_s=3.0, linked=inner)
    emit_root_span(SAMPLE, start_s=0.5, end_s=4.0, attributes={"rl.state": "trained"}, failed=False)
    by_name = {made.name: made for made in exported.get_finished_spans()}
    assert {made.context.trace_id for made in by_name.values() if made.context} == {ids.trace_id(SAMPLE)}
    root = by_name["sample"]
    assert (
        root.context is not None and root.context.span_id == ids.root_span_id(SAMPLE) and root.parent is None
    )
    generate, verify, update = by_name["generate"], by_name["verify"], by_name["update"]
    assert generate.parent is not None and generate.parent.span_id == ids.root_span_id(SAMPLE)
    assert verify.parent is not None and generate.context is not None
    assert verify.parent.span_id == generate.context.span_id == update.links[0].context.span_id


def test_metric_names_are_unique_and_unknown_ones_are_refused() -> None:
    names = [spec.name for spec in METRICS]
    assert len(names) == len(set(names))
    assert all(name.startswith("forklight.") for name in names)
    with pytest.raises(LookupError, match="registry"):
        counter("forklight.nobody.knows")


def test_nothing_is_exported_when_no_endpoint_is_set() -> None:
    shutdown = setup_telemetry("core", "pod", Destinations())
    shutdown()
    assert current_traceparent() == ""


def test_a_log_line_in_a_span_names_trace_and_span(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = TracerProvider(id_generator=SampleIdGenerator())
    monkeypatch.setattr(spans, "_tracer", lambda: provider.get_tracer("test"))
    formatter = JsonFormatter("buffer", "pod-1")
    record = logging.makeLogRecord({"msg": "said", "levelname": "INFO"})
    with span("settle", sample_id=SAMPLE) as running:
        inside = json.loads(formatter.format(record))
    context = running.get_span_context()
    assert inside["trace_id"] == f"{context.trace_id:032x}" == f"{ids.trace_id(SAMPLE):032x}"
    assert inside["span_id"] == f"{context.span_id:016x}"
    assert not {"trace_id", "span_id"} & set(json.loads(formatter.format(record)))
