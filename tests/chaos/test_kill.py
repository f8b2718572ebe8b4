"""Any process may die at any time: the run finishes, the audit is clean, at most one step is redone."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.chaos.harness import RunningSystem, alive, audit, status
from tests.chaos.short_run import STEPS, write_short_run
from tests.chaos.torture import VICTIMS, torture

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(420)]


def test_run_finishes_with_a_clean_audit_when_every_process_is_killed_once(tmp_path: Path) -> None:
    result = torture(tmp_path, seed=7)
    assert sorted(kill.victim for kill in result.kills) == sorted(VICTIMS)
    assert max(result.steps) == STEPS
    assert len(set(result.steps)) == len(result.steps)
    assert result.trainer_lost() <= 1  # its checkpoint was being written beside the next step
    assert len(result.trainer_starts) == 2


def test_a_killed_pods_responses_go_on_where_they_were_saved(tmp_path: Path) -> None:
    run_file = write_short_run(tmp_path / "data", steps=10_000)
    text = run_file.read_text().replace("max_new_tokens = 16", "max_new_tokens = 700")
    run_file.write_text(text.replace("drain_s = 5", "drain_s = 5\nsegment_tokens = 32"))
    system = RunningSystem(run_file, tmp_path / "run")
    try:
        system.wait_until(lambda: system.step() >= 1, deadline_s=180, what="the first step")
        for victim in ["rollout-0", "rollout-1"] * 5:
            time.sleep(4)  # some responses have been saved by now, and go on
            system.kill(victim)
            if has_gone_on(system):
                break
        system.wait_until(lambda: has_gone_on(system), deadline_s=30, what="a saved response to go on")
        reached = system.step() + 2
        system.wait_until(lambda: system.step() >= reached, deadline_s=120, what="two more steps")
        said = status(system.folder)
        assert all(f"pod        {name}: version " in said for name in ("rollout-0", "rollout-1")), said
        system.process.send_signal(signal.SIGINT)
        system.wait_end(deadline_s=90)
    finally:
        system.stop()
    audit(system.folder)


def has_gone_on(system: RunningSystem) -> bool:
    return any("responses go on" in log.read_text() for log in (system.folder / "logs").glob("rollout-*.log"))


def test_run_resumes_where_it_stopped_when_it_is_told_to_stop(tmp_path: Path) -> None:
    system = RunningSystem(write_short_run(tmp_path / "data", steps=8), tmp_path / "run")
    try:
        system.wait_until(lambda: system.step() >= 3, deadline_s=180, what="step 3")
        pids = system.pids()
        system.process.send_signal(signal.SIGINT)
        system.wait_end(deadline_s=90)
        assert [name for name, pid in pids.items() if alive(pid)] == []
        stopped_at = system.step()
        assert 3 <= stopped_at < 8
        audit(system.folder)
        system.resume()
        assert system.wait_end(deadline_s=180) == 0, system.tail()
    finally:
        system.stop()
    assert [int(step["step"]) for step in system.steps()] == list(range(1, 9))
    audit(system.folder)


def test_nothing_is_left_behind_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    system = RunningSystem(write_short_run(tmp_path / "data", steps=6), tmp_path / "run")
    try:
        system.wait_until(lambda: system.step() >= 2, deadline_s=180, what="step 2")
        pids = system.pids()
        system.process.kill()
        system.process.wait()
        wait_gone(list(pids.values()))
        system.resume()
        assert system.wait_end(deadline_s=240) == 0, system.tail()
    finally:
        system.stop()
    assert max(int(step["step"]) for step in system.steps()) == 6
    audit(system.folder)


def wait_gone(pids: list[int], *, deadline_s: float = 30.0) -> None:
    end = time.monotonic() + deadline_s
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < end, f"still alive: {[pid for pid in pids if alive(pid)]}"
        time.sleep(0.1)
