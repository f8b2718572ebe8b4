"""The programs that manifests bring along do what they are there for: run here as a pod would."""

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

from forklight_cli.arithmetic import ArithmeticTask, write_arithmetic
from tests.deploy.rendering import K8S, Rendered, look

RUN = K8S / "overlays/local/run"
TASK = ArithmeticTask(largest=29, num_holdout=80, num_demonstrations=1500)


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_data_of_overlay_local_is_the_demo_s(tmp_path: Path) -> None:
    files = write_arithmetic(tmp_path, TASK)
    for path in (files.prompts, files.holdout, files.demonstrations):
        assert (RUN / "data" / path.name).read_bytes() == path.read_bytes()


def test_config_maps_fit() -> None:
    for doc in Rendered(look("overlays/local")).of("ConfigMap"):
        assert len(json.dumps(doc["data"])) < 1_000_000


def test_the_cold_start_makes_the_model_that_the_run_file_names(tmp_path: Path) -> None:
    text = (RUN / "run.toml").read_text()
    text = text.replace("/forklight/run", str(tmp_path)).replace("/etc/forklight-data", str(RUN / "data"))
    run_file = tmp_path / "run.toml"
    run_file.write_text(text.replace("steps = 450", "steps = 2"))
    script = str(K8S / "components/cold-start/cold_start.py")
    twice = "import runpy, sys\nfor _ in range(2): runpy.run_path(sys.argv[1], run_name='__main__')"
    environment = {**os.environ, "FORKLIGHT_RUN_FILE": str(run_file), "FORKLIGHT_DEVICE": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", twice, script], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sft/config.json").is_file()
    results = [event for event in map(json.loads, done.stdout.splitlines()) if event["event"] == "end"]
    assert len(results) == 2, "a pod that starts again finds it done"


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """A service that tells of its starts, and a package of ours beside it."""
    rooms = tmp_path / "rooms/forklight_x"
    rooms.mkdir(parents=True)
    (rooms / "module.py").write_text("one = 1\n")
    program = tmp_path / "service.py"
    program.write_text(
        "import signal, sys, time\n"
        "def leave(*_): print('drained', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, leave)\n"
        "print('started', flush=True)\n"
        "if len(sys.argv) > 1: sys.exit(int(sys.argv[1]))\n"
        "while True: time.sleep(0.1)\n"
    )
    return program


def _reload(service: Path, *arguments: str) -> tuple[subprocess.Popen[bytes], Path]:
    output = service.parent / "output"
    with output.open("wb") as file:
        child = subprocess.Popen(
            [sys.executable, str(K8S / "components/dev/reload.py"), sys.executable, str(service), *arguments],
            env={**os.environ, "FORKLIGHT_DEV_ROOMS": str(service.parent / "rooms")},
            stdout=file,
        )
    return child, output


def test_a_changed_file_drains_the_service_and_starts_it_again(service: Path) -> None:
    child, output = _reload(service)
    wait_until(lambda: output.read_text().count("started") == 1)
    (service.parent / "rooms/forklight_x/module.py").write_text("one = 2\n")
    wait_until(lambda: output.read_text().split() == ["started", "drained", "started"])
    child.send_signal(signal.SIGTERM)
    assert child.wait(30) == 0
    assert output.read_text().split()[-1] == "drained"


def test_a_service_that_ends_by_itself_ends_the_pod_with_its_code(service: Path) -> None:
    child, _ = _reload(service, "3")
    assert child.wait(30) == 3
