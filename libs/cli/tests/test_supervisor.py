"""The supervisor over tiny children: restarts, giving up, orderly ends, no orphans, one a folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from forklight.v1 import buffer_pb2
from forklight_cli.run_folder import (
    RunFolder,
    create_run_folder,
    is_locked,
    lock_run_folder,
    open_run_folder,
    read_json_lines,
    read_system,
)
from forklight_cli.up.evaluations import EvaluationLog
from forklight_cli.up.plan import Kind, ProcessPlan, SystemPlan, plan_system
from forklight_cli.up.process import ManagedProcess, ProcessState, RestartPolicy
from forklight_cli.up.shutdown import shut_down
from forklight_cli.up.signals import StopSignals
from forklight_cli.up.steps import Step, StepReader
from forklight_cli.up.summary import Outcome, summarize
from forklight_cli.up.system import System
from forklight_core.errors import BusyError, InvalidInputError, NotFoundError
from forklight_core.redis_server import start_embedded
from forklight_core.runfile import RunFile, dump_run_file

FAST = RestartPolicy(first_delay_s=0.01, max_delay_s=0.02, settled_s=30.0, max_rapid_failures=3)
# Ends on SIGTERM after writing its name; ignores nothing else.
PATIENT = """
import os, signal, sys, time
def end(*_):
    open(os.environ["ORDER"], "a").write(os.environ["NAME"] + "\\n"); sys.exit(0)
signal.signal(signal.SIGTERM, end)
open(os.environ["ORDER"] + "." + os.environ["NAME"], "w").close()
time.sleep(60)
"""


def child_plan(name: str, code: str, **environment: str) -> ProcessPlan:
    kind = Kind(name.partition("-")[0])
    return ProcessPlan(
        name=name, kind=kind, arguments=("-c", code), address="127.0.0.1:1", environment=environment
    )


def eventually(condition: Callable[[], object], deadline_s: float = 20.0) -> bool:
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def is_alive(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def run_folder(path: Path) -> RunFolder:
    return create_run_folder(path / "run", "run-1", dump_run_file(RunFile()))


def system_of(folder: RunFolder, *plans: ProcessPlan) -> tuple[System, list[str]]:
    told: list[str] = []
    plan = SystemPlan(run_id="run-1", folder=folder, processes=plans)
    return System(plan, redis=None, lock=-1, policy=FAST, report=told.append), told


def test_child_starts_again_when_it_is_killed(tmp_path: Path) -> None:
    child = ManagedProcess(child_plan("buffer", "import time; time.sleep(60)"), tmp_path / "log", policy=FAST)
    child.start()
    first = child.pid
    os.kill(first, signal.SIGKILL)
    events: list[str] = []
    assert eventually(lambda: events.append(child.check()) or child.num_restarts == 1)
    try:
        assert child.pid != first
        assert is_alive(child.pid)
        assert any("signal SIGKILL" in event for event in events)
    finally:
        child.kill()


def test_child_is_given_up_with_its_log_when_it_keeps_failing(tmp_path: Path) -> None:
    code = "import sys; print('disk is on fire', file=sys.stderr); sys.exit(7)"
    child = ManagedProcess(child_plan("trainer", code), tmp_path / "log", policy=FAST)
    child.start()
    events: list[str] = []
    assert eventually(lambda: events.append(child.check()) or child.state is ProcessState.GIVEN_UP)
    assert child.num_restarts == 3
    last = events[-1]
    assert "code 7" in last
    assert "4 times in a row" in last
    assert "disk is on fire" in last
    assert str(tmp_path / "log") in last


def test_child_is_given_up_at_once_when_its_input_is_wrong(tmp_path: Path) -> None:
    child = ManagedProcess(child_plan("trainer", "raise SystemExit(2)"), tmp_path / "log", policy=FAST)
    child.start()
    assert eventually(lambda: child.check() and child.state is ProcessState.GIVEN_UP)
    assert child.num_restarts == 0


def test_grandchildren_end_when_the_child_dies(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid) + '\\n')\ntime.sleep(60)\n"
    )
    child = ManagedProcess(child_plan("reward-verifier", code), tmp_path / "log", policy=FAST)
    child.start()
    path = tmp_path / "pid"
    assert eventually(lambda: path.exists() and path.read_text().endswith("\n"))
    grandchild = int(path.read_text())
    child.terminate()
    assert eventually(lambda: child.check() == "" and child.state is ProcessState.ENDED)
    assert eventually(lambda: not is_alive(grandchild))


def test_children_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from forklight_cli.up.plan import Kind, ProcessPlan\n"
        "from forklight_cli.up.process import ManagedProcess\n"
        "code = ('-c', 'import time; time.sleep(60)')\n"
        "plan = ProcessPlan(name='buffer', kind=Kind.BUFFER, arguments=code, address='', environment={})\n"
        "child = ManagedProcess(plan, Path(sys.argv[1]))\nchild.start()\n"
        "print(child.pid, flush=True)\ntime.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        child = int(supervisor.stdout.readline())
        assert is_alive(child)
        supervisor.kill()
        assert eventually(lambda: not is_alive(child))


def test_system_ends_in_order_when_shut_down(tmp_path: Path) -> None:
    folder, order = run_folder(tmp_path), tmp_path / "order"
    names = ("buffer", "reward-front", "rollout-0", "rollout-1", "trainer", "console")
    plans = [child_plan(name, PATIENT, ORDER=str(order), NAME=name) for name in names]
    system, told = system_of(folder, *plans)
    system.start(*Kind)
    assert eventually(lambda: all(Path(f"{order}.{name}").exists() for name in names))
    seen: list[list[str]] = []
    with StopSignals() as stops:
        shut_down(system, stops, drain_s=1.0, before_buffer=lambda: seen.append(order.read_text().split()))
    ended = order.read_text().split()
    assert ended[0] == "trainer"
    assert set(ended[1:3]) == {"rollout-0", "rollout-1"}
    assert set(ended[3:5]) == {"reward-front", "console"}
    assert ended[5] == "buffer"
    assert seen == [ended[:5]]
    assert not any("killing" in text for text in told)
    assert not any(is_alive(pid) for pid in read_system(folder).pids.values())


def test_system_is_killed_when_asked_twice(tmp_path: Path) -> None:
    stubborn = (
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('up', flush=True)\ntime.sleep(60)\n"
    )
    system, _told = system_of(
        run_folder(tmp_path), child_plan("trainer", stubborn), child_plan("buffer", stubborn)
    )
    system.start(*Kind)
    logs = [child.log_path for child in system.processes.values()]
    assert eventually(lambda: all(log.read_text() for log in logs))
    with StopSignals() as stops:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stops.urgent
        shut_down(system, stops, drain_s=60.0, before_buffer=lambda: None)
    assert not any(is_alive(child.pid) for child in system.processes.values())


def test_system_restarts_redis_and_records_new_processes_when_they_die(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    told: list[str] = []
    plan = SystemPlan(
        run_id="run-1", folder=folder, processes=(child_plan("buffer", "import time; time.sleep(60)"),)
    )
    with start_embedded(folder.redis) as redis:
        system = System(plan, redis=redis, lock=-1, policy=FAST, report=told.append)
        system.start(Kind.BUFFER)
        url, pids = redis.url, dict(read_system(folder).pids)
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        redis.process.wait()
        assert eventually(lambda: system.check() or read_system(folder).pids["buffer"] != pids["buffer"])
        assert redis.url == url
        assert redis.process.poll() is None
        system.kill()
    assert "redis ended" in told[0]


def test_second_supervisor_is_refused_when_one_holds_the_folder(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    assert not is_locked(folder)
    lock = lock_run_folder(folder)
    assert is_locked(folder)
    with pytest.raises(BusyError, match="already up"):
        lock_run_folder(folder, wait_s=0.1)
    done = subprocess.run(
        [sys.executable, "-m", "forklight_cli", "resume", str(folder.path), "--set", "trainer.steps=2"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "already up" in done.stderr) == (3, True), done.stderr
    os.close(lock)
    os.close(lock_run_folder(folder, wait_s=0.1))


def test_run_folder_is_refused_when_it_holds_a_run_or_none(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    assert open_run_folder(folder.path) == folder
    assert read_system(folder).run_id == "run-1"
    with pytest.raises(InvalidInputError, match="forklight resume"):
        create_run_folder(folder.path, "run-2", "")
    with pytest.raises(NotFoundError, match=r"run\.toml"):
        open_run_folder(tmp_path)


def test_plan_gives_every_process_its_own_door_and_all_addresses(tmp_path: Path) -> None:
    run_file = RunFile.model_validate({"rollout": {"pods": 3}})
    plan = plan_system(run_file, RunFolder(tmp_path), "run-1", "redis://127.0.0.1:9/0")
    assert len(set(plan.addresses.values())) == len(plan.processes) == 10
    pod = next(process for process in plan.processes if process.name == "rollout-2")
    assert pod.arguments == ("-m", "forklight_rollout")
    assert pod.environment["FORKLIGHT_POD"] == "rollout-2"
    assert pod.environment["FORKLIGHT_LISTEN"] == pod.address
    assert pod.environment["FORKLIGHT_BUFFER_ADDRESS"] == plan.address_of("buffer")
    assert pod.environment["FORKLIGHT_BLOBS_URL"] == (tmp_path / "blobs").as_uri()


def test_plan_gives_every_pod_a_door_for_clients_when_the_first_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def doors() -> dict[str, str]:
        plan = plan_system(RunFile(), RunFolder(tmp_path), "run-1", "redis://127.0.0.1:9/0")
        found = {each.name: each.environment.get("FORKLIGHT_HTTP_LISTEN", "") for each in plan.processes}
        return {name: door for name, door in found.items() if door}

    monkeypatch.delenv("FORKLIGHT_HTTP_LISTEN", raising=False)
    assert doors() == {}
    monkeypatch.setenv("FORKLIGHT_HTTP_LISTEN", "127.0.0.1:8000")
    assert doors() == {"rollout-0": "127.0.0.1:8000", "rollout-1": "127.0.0.1:8001"}


@pytest.mark.parametrize("names", [[], ["python"]])
def test_plan_makes_the_sandbox_essential_when_generations_call_it(tmp_path: Path, names: list[str]) -> None:
    run_file = RunFile.model_validate({"tools": {"names": names}})
    plan = plan_system(run_file, RunFolder(tmp_path), "run-1", "redis://127.0.0.1:9/0")
    sandbox = next(process for process in plan.processes if process.name == "reward-sandbox")
    pod = next(process for process in plan.processes if process.name == "rollout-0")
    assert sandbox.essential == bool(names)
    assert pod.environment["FORKLIGHT_SANDBOX_ADDRESS"] == sandbox.address


def test_step_reader_waits_for_whole_lines_when_the_file_grows(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text('{"step": 1, "time": 1.0}\n')
    reader = StepReader(path, skip_existing=True)
    with path.open("a") as file:
        file.write('{"step": 2, "time": 2.0, "reward_mean": 0.5}\n{"st')
        file.flush()
        assert [step.record["step"] for step in reader.read_new()] == [2]
        file.write('ep": 3, "time": 3.5}\n')
    found = reader.read_new()
    assert [step.record["step"] for step in found] == [3]
    assert found[0].text("reward") == "-"
    assert "step=3" in found[0].line()


def test_step_reader_shows_a_step_again_when_a_restarted_trainer_redoes_it(tmp_path: Path) -> None:
    path, shorter = tmp_path / "steps.jsonl", tmp_path / "shorter"
    path.write_text('{"step": 1, "time": 1.0}\n{"step": 2, "time": 2.0}\n')
    reader = StepReader(path, skip_existing=False)
    assert [step.record["step"] for step in reader.read_new()] == [1, 2]
    shorter.write_text(
        '{"step": 1, "time": 1.0}\n{"step": 2, "time": 9.0, "redone": true}\n{"step": 3, "time": 9.5}\n'
    )
    shorter.replace(path)
    assert [step.time for step in reader.read_new()] == [9.0, 9.5]
    assert reader.read_new() == []


def test_first_evaluation_is_kept_when_the_buffer_forgets_it(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    first = buffer_pb2.EvaluationResult(version=0, num_samples=8, mean_reward=0.25, complete=True)
    running = buffer_pb2.EvaluationResult(version=5, num_samples=2, mean_reward=0.5, complete=False)
    log = EvaluationLog(folder)
    assert [each.version for each in log.add(buffer_pb2.GetStatusReply(evaluations=[first, running]))] == [0]
    running.complete, running.mean_reward = True, 0.75
    again = EvaluationLog(folder)
    assert [each.version for each in again.add(buffer_pb2.GetStatusReply(evaluations=[running]))] == [5]
    assert [each.mean_reward for each in again.rounds] == [0.25, 0.75]
    run_file = RunFile.model_validate({"evaluation": {"goal_reward": 0.7}, "prompts": {"holdout": "h"}})
    status = buffer_pb2.GetStatusReply(phase=buffer_pb2.RUN_PHASE_FINISHED, step=40, version=5)
    outcome = Outcome(
        folder=folder,
        run_file=run_file,
        rounds=again.rounds,
        status=status,
        wall_s=3.0,
        stopped_because="goal",
    )
    assert outcome.goal_reached is True
    text = summarize(outcome)
    assert "held-out reward 0.250 (version 0) -> 0.750 (version 5); goal 0.7 reached" in text
    assert f"forklight audit {folder.path}" in text


def test_json_lines_leave_out_a_line_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a": 2')
    assert list(read_json_lines(path)) == [{"a": 1}]
    assert json.dumps(Step({"step": True}).text("step")) == '"-"'
