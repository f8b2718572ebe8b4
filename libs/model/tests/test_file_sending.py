"""Files to a fleet at once: whole at every end, or an error everywhere in time. Real processes, over gloo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from forklight_core.errors import UnavailableError
from forklight_model.file_sending import FileReceiver, FileSender
from forklight_model.sending_group import SendRules

BUCKET_BYTES = 1 << 14
RULES = SendRules(
    rendezvous="127.0.0.1:0", num_receivers=2, join_s=60.0, deadline_s=6.0, bucket_bytes=BUCKET_BYTES
)
RECEIVER = Path(__file__).with_name("receiving_process.py")
pytestmark = pytest.mark.filterwarnings("ignore:.*c10d.*")


@pytest.fixture(autouse=True)
def on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("BUCKET_BYTES", str(BUCKET_BYTES))
    monkeypatch.setenv("DEADLINE_S", str(RULES.deadline_s))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "FATAL")


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Three files: of several buckets and a rest, of exactly some, and empty."""
    folder = tmp_path / "sent"
    folder.mkdir()
    made = []
    for name, size in (("a", 40 * BUCKET_BYTES + 17), ("b", 2 * BUCKET_BYTES), ("c", 0)):
        made.append(folder / name)
        made[-1].write_bytes(os.urandom(size))
    return made


class Fleet:
    """Processes that receive."""

    def __init__(self, root: Path, paths: list[Path], sender: FileSender) -> None:
        self._root, self._port = root, sender.port
        self._sizes = ",".join(f"{path.name}={path.stat().st_size}" for path in paths)
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, sessions: str, kill_after: int | None = None) -> Path:
        folder = self._root / f"got{len(self.processes)}"
        folder.mkdir()
        arguments = [f"127.0.0.1:{self._port}", sessions, str(folder), self._sizes]
        arguments += [] if kill_after is None else [str(kill_after)]
        command = [sys.executable, str(RECEIVER), *arguments]
        self.processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return folder

    def end(self) -> list[tuple[int, list[str]]]:
        """Exit code and what it said, of each."""
        said = [process.communicate(timeout=100)[0].splitlines() for process in self.processes]
        return [(process.returncode, lines) for process, lines in zip(self.processes, said, strict=True)]


@pytest.fixture
def sender() -> FileSender:
    return FileSender(RULES)


@pytest.fixture
def fleet(tmp_path: Path, paths: list[Path], sender: FileSender) -> Iterator[Fleet]:
    made = Fleet(tmp_path, paths, sender)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


def contents(paths: Iterable[Path]) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in paths}


def test_every_receiver_gets_every_byte(sender: FileSender, fleet: Fleet, paths: list[Path]) -> None:
    folders = [fleet.start("v1"), fleet.start("v1")]
    assert sender.send("v1", paths, threading.Event()) == 2
    assert fleet.end() == [(0, ["v1 whole"])] * 2
    for folder in folders:
        assert contents((folder / "v1").iterdir()) == contents(paths)
    late = FileReceiver(replace(RULES, rendezvous=f"127.0.0.1:{sender.port}"))
    with pytest.raises(UnavailableError, match="this process came late"):
        late.receive("v1", [])


def test_a_receiver_that_is_killed_ends_one_sending_for_all_and_no_other(
    sender: FileSender, fleet: Fleet, paths: list[Path]
) -> None:
    fleet.start("v1", kill_after=10)
    survivor = fleet.start("v1,v2")
    started = time.monotonic()
    with pytest.raises(UnavailableError, match="sending broke off"):
        sender.send("v1", paths, threading.Event())
    assert time.monotonic() - started < RULES.join_s + RULES.deadline_s
    sender._rules = replace(RULES, num_receivers=1)  # the fleet is smaller now
    assert sender.send("v2", paths, threading.Event()) == 1
    (killed, _), (other, said) = fleet.end()
    assert (killed, other) == (-signal.SIGKILL, 0)
    assert said[0].startswith("v1 sending broke off") and said[1] == "v2 whole"
    assert contents((survivor / "v2").iterdir()) == contents(paths)


def test_nobody_is_waited_for_longer_than_agreed(paths: list[Path]) -> None:
    sender = FileSender(replace(RULES, join_s=0.2))
    started = time.monotonic()
    assert sender.send("v1", paths, threading.Event()) == 0
    assert time.monotonic() - started < 10


def test_a_sending_that_is_cancelled_ends(sender: FileSender, paths: list[Path]) -> None:
    cancelled = threading.Event()
    cancelled.set()
    started = time.monotonic()
    assert sender.send("v1", paths, cancelled) == 0
    assert time.monotonic() - started < 10


def test_a_receiver_without_a_sender_gives_up(paths: list[Path]) -> None:
    port = FileSender(RULES).port  # gone at once
    receiver = FileReceiver(replace(RULES, rendezvous=f"127.0.0.1:{port}", join_s=0.5))
    with pytest.raises(UnavailableError, match="nobody sends v1"):
        receiver.receive("v1", [(paths[0], 3)])


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sender's end in a child, as with NCCL."""
    monkeypatch.setattr(SendRules, "is_apart", property(lambda self: True))


@pytest.mark.usefixtures("apart")
def test_an_end_in_a_child_sends_every_byte(sender: FileSender, fleet: Fleet, paths: list[Path]) -> None:
    sender._rules = replace(RULES, num_receivers=1, deadline_s=60.0)
    folder = fleet.start("v1")
    assert sender.send("v1", paths, threading.Event()) == 1
    assert fleet.end() == [(0, ["v1 whole"])]
    assert contents((folder / "v1").iterdir()) == contents(paths)


@pytest.mark.usefixtures("apart")
def test_an_end_in_a_child_that_breaks_is_an_error_with_its_last_words(
    sender: FileSender, fleet: Fleet, paths: list[Path]
) -> None:
    sender._rules = replace(RULES, num_receivers=1, deadline_s=60.0)
    fleet.start("v1", kill_after=10)
    with pytest.raises(UnavailableError, match="sending broke off .1.: .*sending broke off"):
        sender.send("v1", paths, threading.Event())
    ((exit_code, _),) = fleet.end()
    assert exit_code == -signal.SIGKILL
