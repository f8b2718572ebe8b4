"""Files from one GPU's process to another's through NCCL: whole, or an error in time and whole the next time.

Alone: python -m pytest -m gpu libs/model/tests/gpu/test_gpu_file_sending.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from forklight_core.errors import UnavailableError
from forklight_model.file_sending import FileSender
from forklight_model.sending_group import SendRules

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs"),
    pytest.mark.filterwarnings("ignore:.*c10d.*"),
]
RULES = SendRules(rendezvous="127.0.0.1:0", backend="nccl", join_s=60.0, deadline_s=25.0)
RECEIVER = Path(__file__).parents[1] / "receiving_process.py"
SIZES = {"a": 20 * RULES.bucket_bytes + 17, "b": 2 * RULES.bucket_bytes, "c": 0}


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    (tmp_path / "sent").mkdir()
    made = [tmp_path / "sent" / name for name in SIZES]
    for path in made:
        path.write_bytes(os.urandom(SIZES[path.name]))
    return made


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def receive(folder: Path, sender: FileSender, sessions: str, *kill_after: str) -> subprocess.Popen[str]:
    folder.mkdir()
    sizes = ",".join(f"{name}={size}" for name, size in SIZES.items())
    command = [sys.executable, str(RECEIVER), f"127.0.0.1:{sender.port}", sessions, str(folder), sizes]
    environment = os.environ | {
        "BACKEND": "nccl",
        "DEVICE": "cuda:1",
        "BUCKET_BYTES": str(RULES.bucket_bytes),
        "DEADLINE_S": str(RULES.deadline_s),
    }
    return subprocess.Popen([*command, *kill_after], stdout=subprocess.PIPE, text=True, env=environment)


def test_a_receiver_on_another_gpu_gets_every_byte_twice(
    tmp_path: Path, paths: list[Path], started: list[subprocess.Popen[str]]
) -> None:
    sender = FileSender(RULES, torch.device("cuda:0"))
    started.append(receive(tmp_path / "got", sender, "v1,v2"))
    for session in ("v1", "v2"):
        before = time.monotonic()
        assert sender.send(session, paths, threading.Event()) == 1
        print(f"{session}: {sum(SIZES.values()) / 1e9:.2f} GB in {time.monotonic() - before:.2f} s")  # noqa: T201
    assert started[0].communicate(timeout=100)[0].splitlines()[-2:] == ["v1 whole", "v2 whole"]
    for path in paths:
        for session in ("v1", "v2"):
            assert (tmp_path / "got" / session / path.name).read_bytes() == path.read_bytes()


def test_a_receiver_that_dies_ends_one_sending_in_time_and_not_the_process(
    tmp_path: Path, paths: list[Path], started: list[subprocess.Popen[str]]
) -> None:
    sender = FileSender(replace(RULES, deadline_s=15.0), torch.device("cuda:0"))
    started.append(receive(tmp_path / "dead", sender, "v1", "5"))
    before = time.monotonic()
    with pytest.raises(UnavailableError):
        sender.send("v1", paths, threading.Event())
    assert time.monotonic() - before < RULES.join_s + 15.0
    started.append(receive(tmp_path / "next", sender, "v2"))
    assert sender.send("v2", paths, threading.Event()) == 1
    assert started[1].communicate(timeout=100)[0].splitlines()[-1] == "v2 whole"
