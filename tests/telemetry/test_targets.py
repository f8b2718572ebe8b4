"""A local run tells Prometheus where each of its processes answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forklight_cli.run_folder import RunFolder
from forklight_cli.up.plan import SystemPlan, plan_system
from forklight_cli.up.watching import write_targets
from forklight_core.runfile import RunFile


def plan(folder: Path) -> SystemPlan:
    return plan_system(RunFile(), RunFolder(folder), "run-1", "redis://127.0.0.1:9/0")


def test_each_process_gets_a_port_of_its_own_and_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORKLIGHT_METRICS_LISTEN", "127.0.0.1:9464")
    planned = plan(tmp_path)
    listed = json.loads(Path(write_targets(planned)).read_text())
    ports = [int(group["targets"][0].rpartition(":")[2]) for group in listed]
    assert ports == list(range(9464, 9464 + len(planned.processes)))
    assert {group["labels"]["job"] for group in listed} == {"forklight"}
    monkeypatch.setenv("FORKLIGHT_METRICS_LISTEN", "127.0.0.1:0")
    free = [process.environment["FORKLIGHT_METRICS_LISTEN"] for process in plan(tmp_path).processes]
    assert len(set(free)) == len(free) and "127.0.0.1:0" not in free


def test_nothing_listens_and_nothing_is_listed_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORKLIGHT_METRICS_LISTEN", raising=False)
    planned = plan(tmp_path)
    assert write_targets(planned) == "" and not list(tmp_path.glob("*.json"))
    assert not any("FORKLIGHT_METRICS_LISTEN" in process.environment for process in planned.processes)
