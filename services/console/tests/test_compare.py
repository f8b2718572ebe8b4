"""Runs beside each other: which may be opened, what differs, what is drawn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from forklight_console.adapters.memory import MemoryRunView
from forklight_console.app import make_app
from forklight_console.compare.rows import differing_keys, total_up
from forklight_console.compare.shelf import RunShelf
from forklight_core.errors import NotFoundError


def make_run(root: Path, name: str, *, reward: float, run_toml: str, num_steps: int = 40) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "run.toml").write_text(run_toml)
    with (folder / "steps.jsonl").open("w") as file:
        for step in range(1, num_steps + 1):
            record = {
                "step": step,
                "time": 1000.0 + 360 * step,
                "num_samples": 64,
                "tokens": 1000,
                "reward_mean": reward,
            }
            file.write(json.dumps(record) + "\n")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    make_run(root, "one", reward=0.25, run_toml="seed = 1\n[loss]\nalgorithm = 'cispo'\nclip = [1, 2]\n")
    make_run(
        root, "two", reward=0.75, run_toml="seed = 1\n[loss]\nalgorithm = 'grpo'\n[length]\nwindow = 9\n"
    )
    make_run(tmp_path, "outside", reward=0.5, run_toml="")
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "halfway").mkdir()
    (root / "halfway" / "run.toml").write_text("")
    (root / "halfway" / "steps.jsonl").symlink_to(tmp_path / "outside" / "steps.jsonl")
    return root


@pytest.fixture
def client(root: Path) -> Iterator[TestClient]:
    app = make_app(MemoryRunView(), "one", is_local=True, parts={"runs": RunShelf(root)})
    with TestClient(app, base_url="http://127.0.0.1") as opened:
        yield opened


def test_only_runs_of_the_folder_are_listed_and_opened(root: Path) -> None:
    shelf = RunShelf(root)
    assert sorted(shelf.names()) == ["one", "two"]
    for name in ("../outside", "link", "halfway", "..", ".", "", "one/../two", "/etc", "none", "one\n"):
        with pytest.raises(NotFoundError, match="no run"):
            shelf.open(name)
    assert RunShelf(None).names() == []
    with pytest.raises(NotFoundError):
        RunShelf(None).open("one")


def test_totals_and_differing_keys_are_those_of_the_files(root: Path) -> None:
    shelf = RunShelf(root)
    runs = [shelf.open("one"), shelf.open("two")]
    first = total_up(runs[0])
    assert (first.steps, first.samples, first.tokens) == (40, 2560, 40_000)
    assert first.hours == pytest.approx(3.9)
    assert (first.best_reward, first.last["reward_mean"], first.last["entropy"]) == (0.25, 0.25, None)
    assert [(row.key, list(row.values)) for row in differing_keys(runs)] == [
        ("length.window", ["", "9"]),
        ("loss.algorithm", ["cispo", "grpo"]),
        ("loss.clip", ["[1, 2]", ""]),
    ]


def test_a_run_file_that_cannot_be_read_is_said_and_not_fatal(root: Path) -> None:
    (root / "two" / "run.toml").write_text("no toml =")
    runs = [RunShelf(root).open(name) for name in ("one", "two")]
    assert any("cannot be read" in row.values[1] for row in differing_keys(runs))


def test_the_page_has_the_figures_and_the_series_lie_on_the_chosen_axis(client: TestClient) -> None:
    text = client.get("/compare", params={"run": ["one", "two"], "by": "samples"}).text
    assert "3 of 4 keys differ" in text
    assert "0.75" in text
    series = client.get("/api/compare/two/series", params={"fields": "reward_mean", "by": "samples"}).json()
    assert (series["x"][:2], series["x"][-1], series["values"]["reward_mean"][0]) == ([64, 128], 2560, 0.75)
    assert client.get("/api/compare/two/series", params={"fields": "a", "by": "time"}).json()["x"][-1] == 3.9


def test_other_names_are_404_and_too_many_are_refused(client: TestClient) -> None:
    assert client.get("/compare", params={"run": "none"}).status_code == 404
    assert client.get("/api/compare/..%2Foutside/series?fields=a").status_code == 404
    assert client.get("/compare", params={"run": ["one"] * 9}).status_code == 422
    assert client.get("/compare", params={"by": "weight"}).status_code == 422
    assert "Choose two or more runs" in client.get("/compare").text
