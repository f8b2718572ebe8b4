"""The judge on the page: how it stands now, what it measured, and nothing where there is no judge."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from forklight_console.adapters.live import read_judge
from forklight_console.adapters.memory import MemoryRunView
from forklight_console.app import make_app
from forklight_console.judge_panel import make_judge_panel

WINDOW = {
    "at": 86400.0,
    "kind": "window",
    "version": 7,
    "slope": 0.1234,
    "error": 0.008,
    "cusum": 9.5,
    "alarm": True,
    "level": 1,
    "beta": 0.09,
    "residual": None,
    "abstain_share": 0.02,
}
RECORDS = [
    WINDOW,
    {"at": 86401.0, "kind": "judge_alarm", "version": 7, "title": "<b>rings</b>"},
    {"at": 86402.0, "kind": "padding", "version": 8, "padding": 0.071, "alarm": True, "level": 1},
    {"at": 86403.0, "kind": "switch", "version": 8, "level": 2, "beta": 0.11},
]


@pytest.fixture
def client() -> TestClient:
    view = MemoryRunView(judge_records=list(RECORDS))
    return TestClient(make_app(view, "run", is_local=True), base_url="http://127.0.0.1")


def test_panel_shows_the_last_known_figures_and_the_table_newest_first() -> None:
    panel = make_judge_panel(RECORDS)
    assert panel is not None
    assert dict(panel.standing) == {
        "pays for length": "yes: alarm",
        "measures": "2 length-neutral prompt",
        "score a doubling, raw": "0.1234",
        "score a doubling, given out": "-",
        "padding gains": "0.071",
        "abstains from": "0.02",
    }
    assert "residual" not in panel.columns
    assert [row[panel.columns.index("kind")] for row in panel.rows] == ["switch", "padding", "window"]


def test_page_has_the_panel_and_the_api_has_everything(client: TestClient) -> None:
    page = client.get("/").text
    assert "length-neutral prompt" in page
    assert "<b>rings" not in page
    assert client.get("/api/judge?limit=3").json() == RECORDS[1:]


def test_page_has_no_panel_where_no_judge_measured_anything() -> None:
    client = TestClient(make_app(MemoryRunView(), "run", is_local=True), base_url="http://127.0.0.1")
    assert 'aria-label="Judge"' not in client.get("/").text


def test_log_is_read_when_torn_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert read_judge(path, limit=9) == []
    path.write_text('{"a": 1}\n{"a": 2}\n{"a": 3}\n{"a":')
    assert read_judge(path, limit=2) == [{"a": 2}, {"a": 3}]
