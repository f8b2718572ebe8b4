"""One run, watched: each edge is in each trace, each query of each panel finds data, and no text leaks."""

from __future__ import annotations

import json
import math

import pytest

from forklight_core import ids
from forklight_core.telemetry import METRICS
from infra.grafana.expressions import Query
from tests.telemetry.collector import Collector, SpanRecord
from tests.telemetry.prometheus_server import missing
from tests.telemetry.queries import QUERIES, WITHOUT_DATA
from tests.telemetry.watched_run import STEPS, WatchedRun

# (service and name of the parent, service and name of the child); * stands for the sample's root span.
EDGES = (
    ("*", "rollout:rollout.generate"),
    ("rollout:rollout.generate", "buffer:buffer.submit_trajectory"),
    ("buffer:buffer.submit_trajectory", "reward-front:reward.score"),
    ("reward-front:reward.score", "buffer:buffer.submit_verdict"),
    ("rollout:rollout.generate", "trainer:trainer.update"),
)


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


# Attributes that the semantic conventions ask of a span, by its name; calls are named by their method.
CONVENTIONS = {
    "rollout.generate": {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.usage.input_tokens": "",
        "gen_ai.usage.output_tokens": "",
        "gen_ai.response.finish_reasons": "",
        "messaging.system": "redis",
        "messaging.destination.name": "tasks",
        "messaging.operation.type": "process",
    },
    "reward.score": {
        "messaging.system": "redis",
        "messaging.destination.name": "scoring",
        "messaging.operation.type": "process",
    },
    "buffer.submit_trajectory": {"messaging.destination.name": "tasks", "messaging.operation.type": "settle"},
    "buffer.submit_verdict": {"messaging.destination.name": "scoring", "messaging.operation.type": "settle"},
}
LONGEST_ATTRIBUTE = 200


@pytest.mark.parametrize("name", CONVENTIONS)
def test_spans_have_the_attributes_of_the_conventions(collector: Collector, name: str) -> None:
    found = [span for span in collector.snapshot() if span.name == name]
    assert found
    for span in found:
        for key, value in CONVENTIONS[name].items():
            assert value in span.attributes[key], (name, key, span.attributes)


def test_calls_have_the_attributes_of_the_conventions(collector: Collector) -> None:
    calls = [span for span in collector.snapshot() if span.name.startswith("forklight.v1.")]
    assert {span.kind for span in calls} >= {2, 3}  # server and client
    for span in calls:
        service, _, method = span.name.rpartition("/")
        assert "grpc" in span.attributes["rpc.system"]
        assert service in span.attributes["rpc.service"]
        assert method in span.attributes["rpc.method"]


def test_no_span_holds_a_prompt_a_response_or_tokens(watched_run: WatchedRun) -> None:
    """Not the words of any prompt, nothing long, and no lists but of finish reasons."""
    prompts = [
        json.loads(line)["prompt"]
        for line in (watched_run.folder.parent / "data" / "prompts.jsonl").read_text().splitlines()
    ]
    assert len(prompts) > 10
    spans = watched_run.receiver.snapshot()
    texts = {value for span in spans for value in (*span.attributes.values(), span.events, span.name)}
    everything = "\n".join(texts)
    assert not [prompt for prompt in prompts if prompt in everything]
    for span in spans:
        for key, value in span.attributes.items():
            assert len(value) < LONGEST_ATTRIBUTE, (span.name, key)
            assert "array_value" not in value or key == "gen_ai.response.finish_reasons", (span.name, key)


def test_histograms_point_at_traces_that_were_sent(collector: Collector) -> None:
    assert collector.exemplar_traces & {span.trace_id for span in collector.snapshot()}


def test_log_lines_of_traced_work_name_a_span_that_was_sent(watched_run: WatchedRun) -> None:
    lines = [
        json.loads(line)
        for path in (watched_run.folder / "logs").glob("*.log")
        for line in path.read_text().splitlines()
        if line.startswith("{")
    ]
    named = [line for line in lines if "trace_id" in line]
    sent = {(span.trace_id, span.span_id) for span in watched_run.receiver.snapshot()}
    assert all((line["trace_id"], line["span_id"]) in sent for line in named)


def test_every_exported_metric_of_ours_is_in_the_registry(collector: Collector) -> None:
    ours = {name for name in collector.metric_names if not name.startswith("http.server.")}
    assert ours
    assert ours <= {spec.name for spec in METRICS}


@pytest.mark.skipif(bool(missing("prometheus")), reason=missing("prometheus"))
def test_every_query_of_every_panel_finds_data_of_a_real_run(watched_run: WatchedRun) -> None:
    empty = {
        f"{board} / {panel.title}: {query.expression}"
        for board, panel, query in QUERIES
        if not (_may_be_empty(query) or _has_data(watched_run, query))
    }
    assert not empty, "\n".join(sorted(empty))


@pytest.mark.skipif(bool(missing("prometheus")), reason=missing("prometheus"))
def test_no_critical_alert_rings_in_a_healthy_run(watched_run: WatchedRun) -> None:
    assert watched_run.prometheus is not None
    ringing = watched_run.prometheus.query(
        'ALERTS{alertstate="firing", severity="critical"}', *watched_run.times
    )
    assert not ringing


def _may_be_empty(query: Query) -> bool:
    return bool(query.metrics) and set(query.metrics) <= set(WITHOUT_DATA)


def _has_data(run: WatchedRun, query: Query) -> bool:
    """Any number; NaN is what a quantile of nothing is."""
    assert run.prometheus is not None
    asked = (
        query.expression.replace("$__rate_interval", "15s").replace("$run", run.run_id).replace("$pod", ".*")
    )
    found = run.prometheus.query(asked, *run.times)
    return any(not math.isnan(float(value)) for series in found for _, value in series["values"])  # type: ignore[attr-defined]
