"""One image really built and run, where an engine answers and FORKLIGHT_TEST_BASE_IMAGE names a base."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from infra.docker.build import NoEngineError, find_engine, main
from tests.images.dockerfiles import ROOT

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1200)]
TAG = "forklight-test"
IMAGE = f"forklight-console:{TAG}"
HARDENED = (
    "--network=none",
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--pids-limit=64",
    "--memory=512m",
    "--tmpfs=/tmp:rw,noexec,nosuid,size=64m",
)
SETTINGS = {
    "RUN_FILE": "/tmp/run.toml",
    "RUN_FOLDER": "/tmp",
    "RUN_ID": "test",
    "BUFFER_ADDRESS": "127.0.0.1:7100",
    "LISTEN": "127.0.0.1:7117",
}
IMPORTS = """
import importlib.util, os, pkgutil, forklight_console
for module in pkgutil.walk_packages(forklight_console.__path__, "forklight_console."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert importlib.util.find_spec("torch") is None
assert os.getuid() == os.getgid() == 65532
try:
    open("/opt/rooms/forklight_console/x", "w")
except OSError as error:
    print(error.strerror)
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    base = os.environ.get("FORKLIGHT_TEST_BASE_IMAGE", "")
    if not base:
        pytest.skip(
            "FORKLIGHT_TEST_BASE_IMAGE names no base image: infra/docker/README.md says how to make one"
        )
    try:
        found = find_engine("")
    except NoEngineError as error:
        pytest.skip(f"no engine: {error}; start docker or set DOCKER_HOST")
    os.environ["BASE_IMAGE"] = base
    try:
        assert main(["--only", "console", "--tag", TAG, "--network", "host"]) == 0
        yield found
    finally:
        del os.environ["BASE_IMAGE"]
        subprocess.run([found, "image", "rm", "--force", IMAGE], capture_output=True, timeout=120)


def run(engine: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([engine, *arguments], capture_output=True, text=True, timeout=180, cwd=ROOT)


def test_the_image_has_the_whole_package_no_torch_and_a_fixed_root(engine: str) -> None:
    done = run(engine, "run", "--rm", "--network=none", "--entrypoint=python", IMAGE, "-c", IMPORTS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "Permission denied"
    help_text = run(engine, "run", "--rm", "--network=none", IMAGE, "--help")
    assert "FORKLIGHT_BUFFER_ADDRESS" in help_text.stdout, help_text.stderr
    missing = run(engine, "run", "--rm", "--network=none", IMAGE)
    assert missing.returncode == 2
    assert "FORKLIGHT_RUN_FILE" in missing.stderr


def test_a_hardened_container_serves_and_ends_when_told(engine: str) -> None:
    settings = [part for name, value in SETTINGS.items() for part in ("-e", f"FORKLIGHT_{name}={value}")]
    name = f"forklight-test-{os.getpid()}"
    script = "printf '[run]\\nname = \"test\"\\n' >/tmp/run.toml && exec python -m forklight_console"
    started = run(
        engine, "run", "-d", "--name", name, *HARDENED, *settings, "--entrypoint=sh", IMAGE, "-c", script
    )
    assert started.returncode == 0, started.stderr
    try:
        deadline = time.monotonic() + 120
        probe = ("exec", name, "forklight-health", "http://127.0.0.1:7117/healthz")
        while (answer := run(engine, *probe)).returncode:
            logs = run(engine, "logs", name)
            assert time.monotonic() < deadline, answer.stderr + logs.stdout + logs.stderr
        assert "answers 200" in answer.stdout
        run(engine, "stop", "--time", "30", name)
        state = json.loads(run(engine, "inspect", "--format", "{{json .State}}", name).stdout)
        assert state["ExitCode"] == 0
    finally:
        run(engine, "rm", "--force", name)
