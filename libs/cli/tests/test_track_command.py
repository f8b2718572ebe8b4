"""Step records into trackers: each step once, on from where it ended, again when it was done again."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner

from forklight_cli.commands.track import track
from forklight_cli.run_folder import RunFolder, SystemRecord, create_run_folder, write_system
from forklight_cli.trackers import Feed, Target, TrackerName, open_tracker
from forklight_core.errors import ConfigError

RUN_ID = "run-20260101-abcd"


@dataclass(slots=True)
class MemoryTracker:
    """Keeps what it is told."""

    rows: list[tuple[int, float, Mapping[str, float]]] = field(default_factory=list)

    def log(self, step: int, at: float, numbers: Mapping[str, float]) -> None:
        self.rows.append((step, at, numbers))

    def close(self) -> None:
        """Nothing to write."""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = create_run_folder(tmp_path / "run", RUN_ID, "seed = 1\n[loss]\nalgorithm = 'cispo'\n")
    write_system(made, SystemRecord(run_id=RUN_ID))
    return made


def write_steps(folder: RunFolder, *steps: int, reward: float = 0.5) -> None:
    with folder.steps.open("a") as file:
        for step in steps:
            record = {"step": step, "time": 1e9 + step, "reward_mean": reward, "loss": None, "note": "text"}
            file.write(json.dumps({**record, "seconds": {"train": 2.5}}) + "\n")


def test_each_step_is_sent_once_also_by_the_next_feed(folder: RunFolder, tmp_path: Path) -> None:
    tracker, place = MemoryTracker(), tmp_path / "place.json"
    assert Feed(folder.steps, place, tracker).send() == 0
    write_steps(folder, 1, 2)
    feed = Feed(folder.steps, place, tracker)
    assert (feed.send(), feed.send()) == (2, 0)
    write_steps(folder, 3)
    assert feed.send() == 1
    assert Feed(folder.steps, place, tracker).send() == 0
    assert [row[0] for row in tracker.rows] == [1, 2, 3]
    assert tracker.rows[2] == (3, 1e9 + 3, {"reward_mean": 0.5, "seconds.train": 2.5})


def test_steps_that_were_given_up_are_sent_again_when_done_again(folder: RunFolder, tmp_path: Path) -> None:
    tracker = MemoryTracker()
    feed = Feed(folder.steps, tmp_path / "place.json", tracker)
    write_steps(folder, 1, 2, 3)
    assert feed.send() == 3
    folder.steps.write_text("".join(folder.steps.read_text().splitlines(keepends=True)[:1]))
    assert feed.send() == 0
    write_steps(folder, 2, 3, reward=0.75)
    assert feed.send() == 2
    assert [(row[0], row[2]["reward_mean"]) for row in tracker.rows[3:]] == [(2, 0.75), (3, 0.75)]


@pytest.mark.parametrize("name", TrackerName)
def test_a_tracker_whose_package_is_missing_says_what_to_install(name: TrackerName, tmp_path: Path) -> None:
    if importlib.util.find_spec(name.value) is not None:
        pytest.skip(f"{name.value} is installed here")
    target = Target(run_id=RUN_ID, folder=tmp_path, project="forklight", keys={})
    with pytest.raises(ConfigError, match=f"pip install {name.value}"):
        open_tracker(name, target)


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="needs tensorboard (pip install tensorboard)"
)
def test_tensorboard_reads_back_what_was_sent(folder: RunFolder) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_steps(folder, *range(1, 21))
    result = CliRunner().invoke(track, [str(folder.path), "--to", "tensorboard"], catch_exceptions=False)
    assert "20 steps of run-20260101-abcd sent to tensorboard, up to step 20" in result.output
    events = EventAccumulator(str(folder.path / "trackers" / "tensorboard"))
    events.Reload()
    scalars = events.Scalars("seconds/train")
    assert [(each.step, each.value) for each in scalars] == [(step, 2.5) for step in range(1, 21)]


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="needs mlflow (pip install mlflow)")
def test_mlflow_goes_on_with_the_run_it_knows(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    store = folder.path.as_uri() + "/mlflow"
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    for steps in ((1, 2), (3,)):
        write_steps(folder, *steps)
        CliRunner().invoke(track, [str(folder.path), "--to", "mlflow"], catch_exceptions=False)
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("forklight")
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "reward_mean")
    assert [each.step for each in history] == [1, 2, 3]
    assert run.data.params["loss.algorithm"] == "cispo"
