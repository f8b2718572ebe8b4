"""Every sample that ends leaves one root span; metrics are all in the registry."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from forklight.v1 import types_pb2
from forklight_buffer import metrics
from forklight_buffer.gauges import record_gauges
from forklight_buffer.rehearsal import Stage, rehearse
from forklight_core import ids
from forklight_core.telemetry import METRICS, spans
from forklight_core.telemetry.ids import SampleIdGenerator


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(id_generator=SampleIdGenerator())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(spans, "_tracer", lambda: provider.get_tracer("test"))
    return exporter


def roots_of(exported: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """Root spans by sample; a sample must not have two."""
    found = [made for made in exported.get_finished_spans() if made.name == "sample"]
    by_sample = {str((made.attributes or {})["rl.sample.id"]): made for made in found}
    assert len(by_sample) == len(found)
    return by_sample


async def test_a_sample_has_one_root_span_when_it_ended(
    make_stage: Callable[..., Stage], exported: InMemorySpanExporter
) -> None:
    async with rehearse(make_stage()) as play:
        await play.restore()
        await play.fill(lambda sample: None if "g00000005" in sample else float(sample.endswith("0")))
        record = await play.train(1)
        await play.commit(record)
        await play.restart_buffer()
        await play.buffer.journal.flush()
        roots = roots_of(exported)
        assert len(roots) == 4 + 2
        trained = roots[record.sample_ids[0]]
        assert trained.context is not None
        assert trained.context.trace_id == ids.trace_id(record.sample_ids[0])
        assert trained.context.span_id == ids.root_span_id(record.sample_ids[0])
        attributes = dict(trained.attributes or {})
        assert (attributes["rl.state"], attributes["rl.step"], attributes["rl.reward"]) == ("trained", 1, 1.0)
        assert trained.status.status_code is StatusCode.UNSET
        failed = roots[f"{play.stage.run_id}/g00000005/s000"]
        assert failed.status.status_code is StatusCode.ERROR
        assert dict(failed.attributes or {})["rl.reason"] == "infra_error"


async def test_the_scoring_task_carries_the_context_of_the_submission(
    make_stage: Callable[..., Stage], exported: InMemorySpanExporter
) -> None:
    async with rehearse(make_stage()) as play:
        await play.open()
        for leased in await play.take_tasks(most=1):
            task = types_pb2.GenerationTask.FromString(leased.body)
            sample = ids.sample_id(task.envelope.group_id, 0)
            assert task.envelope.traceparent == ids.sample_traceparent(sample)
            with spans.span("submit", sample_id=sample) as running:
                await play.submit(sample, leased.lease)
        (scoring,) = await play.scoring.take("reward-0", wait_s=0.0, max_items=1)
        carried = types_pb2.ScoringTask.FromString(scoring.body).envelope.traceparent
        assert carried == spans.traceparent_of(running)
        assert carried[3:35] == f"{ids.trace_id(sample):032x}"


async def test_gauges_are_set_on_a_run(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.open()
        assert await record_gauges(play.buffer.context, play.buffer.entries) == 0


def test_every_metric_of_the_room_is_in_the_registry() -> None:
    names = {value for name, value in vars(metrics).items() if name.isupper()}
    assert names == {spec.name for spec in METRICS if spec.owner == "buffer"}
