"""The console over a run in memory, and the whole process over a real buffer door."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from forklight.v1 import buffer_pb2, buffer_pb2_grpc, types_pb2
from forklight_console.adapters.memory import MemoryRunView
from forklight_console.app import make_app, run
from forklight_console.page import format_evidence, make_step_table
from forklight_console.settings import ConsoleSettings
from forklight_core.errors import UnavailableError
from forklight_core.rpc import Registration, serve

RUN_ID = "run-20260101-abcd"
REPLY = buffer_pb2.GetStatusReply(
    run_id=RUN_ID,
    phase=buffer_pb2.RUN_PHASE_PAUSED,
    reason="parity <0.93>",
    step=41,
    version=7,
    counts=[
        buffer_pb2.StateCount(state=types_pb2.SAMPLE_STATE_TRAINED, num_samples=640),
        buffer_pb2.StateCount(state=types_pb2.SAMPLE_STATE_FILTERED, reason="all_equal", num_samples=16),
    ],
    window_tokens=49152,
    num_skipped_evaluations=3,
    events=[
        types_pb2.RunEvent(
            id="window/30",
            kind="window_advanced",
            severity=types_pb2.SEVERITY_INFO,
            step=30,
            at=86400.0,
            title="40960 to 49152 <tokens>",
            evidence_json='{"p99": 39000.4, "perplexity": null}',
        ),
        types_pb2.RunEvent(
            id="entropy/40",
            kind="alert",
            severity=types_pb2.SEVERITY_ALERT,
            step=40,
            at=86401.0,
            title="entropy fell",
            undone=True,
        ),
    ],
    queues=[buffer_pb2.QueueStatus(name="tasks", num_waiting=3, num_leased=2, oldest_age_s=12.2)],
    evaluations=[
        buffer_pb2.EvaluationResult(
            version=5,
            num_samples=250,
            num_failed=6,
            mean_reward=0.625,
            reward_low=0.5125,
            reward_high=0.7375,
            confidence=0.95,
            num_prompts=64,
            samples_per_prompt=4,
            complete=True,
            pass_at=[buffer_pb2.PassAtK(k=4, value=0.875, low=0.78, high=0.95, num_prompts=61)],
        ),
        buffer_pb2.EvaluationResult(version=10, num_prompts=64, samples_per_prompt=4),
    ],
    stuck=[
        buffer_pb2.StuckSample(
            sample_id=f"{RUN_ID}/g1/s0", state=types_pb2.SAMPLE_STATE_QUEUED, where="tasks"
        )
    ],
)
STEPS = [{"step": number, "reward_mean": number / 10, "nested": {"left": "out"}} for number in range(1, 4)]


def test_the_step_table_shows_agreement_and_leaves_out_what_no_step_has() -> None:
    steps = [
        {"step": 1, "correlation": 0.5, "unequal_tokens": None, "time": 1.0},
        {"step": 2, "correlation": 1.0, "unequal_tokens": 3, "router_auxiliary_loss": None},
    ]
    table = make_step_table(steps)
    assert table.columns == ["step", "correlation", "unequal_tokens"]
    assert table.rows == [["2", "1", "3"], ["1", "0.5", "-"]]


def sample(number: int, state: types_pb2.SampleState) -> buffer_pb2.SampleRecord:
    return buffer_pb2.SampleRecord(sample_id=f"{RUN_ID}/g00000000/s{number:03d}", state=state)


@pytest.fixture
def view() -> MemoryRunView:
    states = (types_pb2.SAMPLE_STATE_TRAINED, types_pb2.SAMPLE_STATE_FILTERED, types_pb2.SAMPLE_STATE_TRAINED)
    records = [sample(number, state) for number, state in enumerate(states)]
    return MemoryRunView(reply=REPLY, records=records, step_records=list(STEPS))


@pytest.fixture
def client(view: MemoryRunView) -> Iterator[TestClient]:
    with TestClient(make_app(view, RUN_ID, is_local=True), base_url="http://127.0.0.1") as opened:
        yield opened


def test_page_shows_the_run_when_the_buffer_answers(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    for text in (
        RUN_ID,
        "paused",
        "trained",
        "640",
        "all_equal",
        "0.625",
        "tasks",
        "12 s",
        "Stuck samples",
        "0.3",
    ):
        assert text in page.text
    assert "parity &lt;0.93&gt;" in page.text  # escaped
    assert page.text.index("0.3") < page.text.index("0.2")  # the newest step first
    assert "nested" not in page.text


def test_page_shows_the_window_and_events_with_their_evidence_newest_first(client: TestClient) -> None:
    text = client.get("/").text
    assert "49,152 tokens" in text
    assert '<td class="severity-alert">alert</td><td>1970-01-02 00:00:01 UTC</td>' in text
    assert "undone (its step was given up): entropy fell" in text
    assert "40960 to 49152 &lt;tokens&gt;<br><small>p99 39,000, perplexity -</small>" in text
    assert text.index("entropy fell") < text.index("40960 to 49152")


def test_page_shows_rounds_with_their_intervals(client: TestClient) -> None:
    text = client.get("/").text
    for part in (
        "0.625 [0.512, 0.738]",
        "pass@4 0.875 [0.780, 0.950]",
        "64 x 4",
        "running",
        "3 rounds skipped",
        "intervals of level 0.95",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("evidence", "shown"),
    [
        ("", ""),
        ("no json", "no json"),
        ("[1, 2]", "[1, 2]"),
        ('{"a": 1.23456, "b": {"c": 2}, "d": "x"}', 'a 1.235, b {"c": 2}, d x'),
    ],
)
def test_evidence_is_shown_whatever_it_is(evidence: str, shown: str) -> None:
    assert format_evidence(evidence) == shown


def test_long_evidence_is_cut() -> None:
    shown = format_evidence(json.dumps({f"figure{number}": number for number in range(500)}))
    assert len(shown) == 400 and shown.endswith("...")


def test_events_are_paged_in_both_directions_when_asked(client: TestClient, view: MemoryRunView) -> None:
    view.run_events = [types_pb2.RunEvent(id=f"e{number}", title="t") for number in range(5)]

    def page(**query: object) -> tuple[list[str], str]:
        answer = client.get("/api/events", params=query).json()  # type: ignore[arg-type]
        return [event["id"] for event in answer["events"]], answer["next"]

    assert page(limit=2) == (["e4", "e3"], "4")
    assert page(limit=3, after="4") == (["e2", "e1", "e0"], "")
    assert page(limit=2, newest_first=False, after="2") == (["e2", "e3"], "4")
    assert client.get("/api/events", params={"after": "x"}).status_code == 422
    assert client.get("/api/events", params={"limit": 1001}).status_code == 422
    view.error = UnavailableError("nobody listens")
    assert client.get("/api/events").status_code == 503


def test_page_says_so_and_shows_steps_when_the_buffer_is_away(
    client: TestClient, view: MemoryRunView
) -> None:
    view.error = UnavailableError("nobody listens")
    page = client.get("/")
    assert page.status_code == 200
    assert "The buffer does not answer: nobody listens" in page.text
    assert "reward_mean" in page.text


def test_page_loads_nothing_from_elsewhere_when_rendered(client: TestClient) -> None:
    page = client.get("/")
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path in ("/static/refresh.js", "/static/console.css"):
        assert path in page.text
        assert client.get(path).status_code == 200


def test_status_uses_the_names_of_the_proto_when_asked_as_json(client: TestClient) -> None:
    status = client.get("/api/status").json()
    assert status["phase"] == "RUN_PHASE_PAUSED"
    assert status["counts"][0] == {"state": "SAMPLE_STATE_TRAINED", "reason": "", "num_samples": "640"}


def test_status_is_503_when_the_buffer_is_away(client: TestClient, view: MemoryRunView) -> None:
    view.error = UnavailableError("nobody listens")
    answer = client.get("/api/status")
    assert (answer.status_code, answer.json()["detail"]) == (503, "nobody listens")
    assert client.get("/api/samples").status_code == 503
    assert client.get("/healthz").status_code == 200


def test_samples_are_paged_and_filtered_when_asked(client: TestClient) -> None:
    first = client.get("/api/samples", params={"limit": 2}).json()
    assert len(first["samples"]) == 2
    rest = client.get("/api/samples", params={"after": first["next"]}).json()
    assert [len(rest["samples"]), rest["next"]] == [1, ""]
    trained = client.get("/api/samples", params={"state": "trained"}).json()["samples"]
    assert [each["state"] for each in trained] == ["SAMPLE_STATE_TRAINED"] * 2


def test_samples_are_refused_when_the_state_is_unknown(client: TestClient) -> None:
    assert client.get("/api/samples", params={"state": "lost"}).status_code == 422
    assert client.get("/api/samples", params={"limit": 5000}).status_code == 422


def test_steps_are_those_behind_when_after_is_given(client: TestClient) -> None:
    assert [step["step"] for step in client.get("/api/steps", params={"after": 1}).json()] == [2, 3]


def test_other_hosts_are_refused_when_local(view: MemoryRunView) -> None:
    with TestClient(make_app(view, RUN_ID, is_local=True), base_url="http://evil.example") as client:
        assert client.get("/api/status").status_code == 400
    with TestClient(make_app(view, RUN_ID, is_local=False), base_url="http://console.cluster") as client:
        assert client.get("/api/status").status_code == 200


class StatusServicer(buffer_pb2_grpc.BufferServicer):
    """Knows one run."""

    async def GetStatus(
        self, request: buffer_pb2.GetStatusRequest, context: object
    ) -> buffer_pb2.GetStatusReply:
        assert request.run_id == RUN_ID
        return REPLY

    async def ListEvents(
        self, request: buffer_pb2.ListEventsRequest, context: object
    ) -> buffer_pb2.ListEventsReply:
        assert (request.run_id, request.limit, request.newest_first) == (RUN_ID, 100, True)
        return buffer_pb2.ListEventsReply(events=REPLY.events)


def fetch(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


async def fetch_until_up(port: int, path: str) -> tuple[int, str]:
    async with asyncio.timeout(10):
        while True:
            try:
                return await asyncio.to_thread(fetch, port, path)
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)


async def test_process_serves_until_stopped_when_over_a_real_door(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    (tmp_path / "steps.jsonl").write_text(json.dumps(STEPS[0]) + "\n")
    registration = Registration(
        buffer_pb2_grpc.add_BufferServicer_to_server, StatusServicer(), "forklight.v1.Buffer"
    )
    stop = asyncio.Event()
    async with serve("127.0.0.1:0", [registration]) as server, asyncio.TaskGroup() as group:
        settings = ConsoleSettings(
            run_file=tmp_path / "run.toml",
            run_folder=tmp_path,
            run_id=RUN_ID,
            listen=f"127.0.0.1:{unused_tcp_port}",
            buffer_address=server.address,
        )
        group.create_task(run(settings, stop))
        status, body = await fetch_until_up(unused_tcp_port, "/api/status")
        assert (status, json.loads(body)["step"]) == (200, "41")
        assert (await fetch_until_up(unused_tcp_port, "/"))[0] == 200
        assert json.loads((await fetch_until_up(unused_tcp_port, "/api/steps"))[1])[0]["step"] == 1
        assert len(json.loads((await fetch_until_up(unused_tcp_port, "/api/events"))[1])["events"]) == 2
        with pytest.raises(UnavailableError, match="cannot listen on"):
            await run(settings, asyncio.Event())
        stop.set()
