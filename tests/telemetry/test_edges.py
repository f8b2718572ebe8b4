"""One trace follows one sample through every process; a real OTLP receiver sees every edge."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from forklight_core import ids
from forklight_core.telemetry import METRICS
from tests.chaos.harness import RunningSystem
from tests.chaos.short_run import write_short_run
from tests.telemetry.collector import Collector, SpanRecord, run_collector

# (service and name of the parent, service and name of the child); * stands for the sample's root span.
EDGES = (
    ("*", "rollout:rollout.generate"),
    ("rollout:rollout.generate", "buffer:buffer.submit_trajectory"),
    ("buffer:buffer.submit_trajectory", "reward-front:reward.score"),
    ("reward-front:reward.score", "buffer:buffer.submit_verdict"),
    ("rollout:rollout.generate", "trainer:trainer.update"),
)
STEPS = 4


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    folder = tmp_path_factory.mktemp("telemetry")
    with run_collector() as receiver:
        extra = f'[telemetry]\notlp_endpoint = "{receiver.endpoint}"\n'
        system = RunningSystem(write_short_run(folder / "data", steps=STEPS, extra=extra), folder / "run")
        try:
            assert system.wait_end(deadline_s=180) == 0, system.tail()
        finally:
            system.stop()
        yield receiver


def label(span: SpanRecord) -> str:
    return f"{span.service.removeprefix('forklight-')}:{span.name}"


def traces_of(spans: list[SpanRecord]) -> dict[str, dict[str, SpanRecord]]:
    found: dict[str, dict[str, SpanRecord]] = {}
    for span in spans:
        found.setdefault(span.trace_id, {})[span.span_id] = span
    return found


def trained_samples(spans: list[SpanRecord]) -> list[str]:
    roots = [
        span for span in spans if span.name == "sample" and "trained" in span.attributes.get("rl.state", "")
    ]
    return [root.attributes["rl.sample.id"].split('"')[1] for root in roots]


def test_every_trained_sample_has_a_root_span_under_its_computable_ids(collector: Collector) -> None:
    spans = collector.snapshot()
    samples = trained_samples(spans)
    assert len(samples) == STEPS * 4 * 4
    by_id = {span.span_id: span for span in spans}
    for sample in samples:
        root = by_id[f"{ids.root_span_id(sample):016x}"]
        assert root.trace_id == f"{ids.trace_id(sample):032x}"
        assert root.service == "forklight-buffer"


@pytest.mark.parametrize(("parent", "child"), EDGES)
def test_edge_is_in_the_trace_of_every_trained_sample(collector: Collector, parent: str, child: str) -> None:
    spans = collector.snapshot()
    traces = traces_of(spans)
    for sample in trained_samples(spans):
        trace = traces[f"{ids.trace_id(sample):032x}"]
        parents = (
            {f"{ids.root_span_id(sample):016x}"}
            if parent == "*"
            else {span.span_id for span in trace.values() if label(span) == parent}
        )
        children = [span for span in trace.values() if label(span) == child and span.parent_id in parents]
        assert children, f"{sample}: no {child} under {parent}; has {sorted(set(map(label, trace.values())))}"


def test_trained_samples_link_to_the_trace_of_their_step(collector: Collector) -> None:
    updates = [span for span in collector.snapshot() if span.name == "trainer.update"]
    assert {len(span.linked_traces) for span in updates} == {1}
    assert len({span.linked_traces for span in updates}) == STEPS


def test_every_exported_metric_of_ours_is_in_the_registry(collector: Collector) -> None:
    ours = {name for name in collector.metric_names if not name.startswith("http.server.")}
    assert ours
    assert ours <= {spec.name for spec in METRICS}
