"""The door answers from its own thread; every sample's trace ends in the update that learned from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from forklight.v1 import trainer_pb2, trainer_pb2_grpc, types_pb2
from forklight_core import ids
from forklight_core.errors import UnavailableError
from forklight_core.rpc import open_sync_channel
from forklight_core.telemetry import spans as core_spans
from forklight_core.telemetry.ids import SampleIdGenerator
from forklight_trainer.batches.fetch import fetch_batch
from forklight_trainer.servicer import TrainerServicer, open_door
from forklight_trainer.status import Stage, StatusBoard
from forklight_trainer.tracing import STEP_SPAN, UPDATE_SPAN, trace_samples

Maker = Any


def test_door_when_asked_tells_the_newest_status(tmp_path: Path) -> None:
    board = StatusBoard()
    with open_door("127.0.0.1:0", TrainerServicer(board, tmp_path / "steps.jsonl")) as address:
        board.report(step=5, version=2, lineage="l1")
        board.enter(Stage.PAUSED)
        board.set_problem("ParityError: why")
        board.set_numeric_mode(types_pb2.NumericMode(is_parity=True, reason="equal", contract="k1"))
        board.count_compared(100, 1)
        board.count_compared(50, 2)
        channel = open_sync_channel(address)
        reply = trainer_pb2_grpc.TrainerStub(channel).GetTrainerStatus(
            trainer_pb2.GetTrainerStatusRequest(), timeout=5
        )
        channel.close()
    assert (reply.step, reply.version, reply.lineage) == (5, 2, "l1")
    assert (reply.stage, reply.problem) == ("paused", "ParityError: why")
    assert reply.steps_file == str(tmp_path / "steps.jsonl")
    assert reply.stage_since > 0
    assert (reply.numeric_mode.is_parity, reply.numeric_mode.contract) == (True, "k1")
    assert (reply.num_compared_tokens, reply.num_unequal_tokens) == (150, 3)


def test_door_when_the_port_is_taken_raises_here(tmp_path: Path) -> None:
    servicer = TrainerServicer(StatusBoard(), tmp_path / "steps.jsonl")
    with (
        open_door("127.0.0.1:0", servicer) as address,
        pytest.raises(UnavailableError, match="cannot listen"),
        open_door(address, servicer),
    ):
        pass


def test_board_when_stages_follow_adds_up_their_seconds() -> None:
    board = StatusBoard()
    for stage in (Stage.LEASE, Stage.TRAIN, Stage.LEASE, Stage.DONE):
        board.enter(stage)
    seconds = board.take_seconds()
    assert set(seconds) == {"start", "lease", "train"}
    assert all(value >= 0 for value in seconds.values())
    assert board.take_seconds() == {}


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Any]]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(id_generator=SampleIdGenerator())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(core_spans, "_tracer", lambda: provider.get_tracer("test"))
    return lambda: list(exporter.get_finished_spans())


def test_trace_samples_when_traced_ends_each_samples_own_trace(
    exported: Callable[[], list[Any]], maker: Maker
) -> None:
    batch = fetch_batch(maker.batch(1), maker.blobs, "test-run").batch
    assert batch is not None
    advantages = [float(place) for place in range(12)]
    with core_spans.span(STEP_SPAN) as running:
        traceparent = core_spans.traceparent_of(running)
        trace_samples(batch, advantages, start_s=10.0, end_s=12.5, step_traceparent=traceparent)
    updates = [span for span in exported() if span.name == UPDATE_SPAN]
    step = next(span for span in exported() if span.name == STEP_SPAN)
    assert len(updates) == 12
    for span, sample, advantage in zip(updates, batch.samples, advantages, strict=True):
        assert span.context.trace_id == ids.trace_id(sample.sample_id)
        assert span.parent.span_id == ids.root_span_id(sample.sample_id)
        assert [link.context.span_id for link in span.links] == [step.context.span_id]
        assert span.attributes["rl.step"] == 1
        assert span.attributes["rl.advantage"] == advantage
        assert (span.start_time, span.end_time) == (10_000_000_000, 12_500_000_000)


def test_trace_samples_when_not_traced_does_nothing(exported: Callable[[], list[Any]], maker: Maker) -> None:
    batch = fetch_batch(maker.batch(1), maker.blobs, "test-run").batch
    assert batch is not None
    trace_samples(batch, [0.0] * 12, start_s=0.0, end_s=1.0, step_traceparent="")
    assert exported() == []
