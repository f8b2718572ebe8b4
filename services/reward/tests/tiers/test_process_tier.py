"""Tier process: what it keeps, and what it says of what it does not."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import time
from pathlib import Path

import pytest

from forklight_core.errors import ConfigError
from forklight_reward.sandbox.result import Class
from forklight_reward.sandbox.runner import Tier
from forklight_reward.sandbox.tiers.process import ProcessRunner
from services.reward.tests.tiers.jobs import DAEMON, HOSTILE, program, run_command, run_honest, run_own_file


@pytest.fixture
def bare() -> ProcessRunner:
    return ProcessRunner(allow_unsafe=True)


def test_jobs_of_every_kind_run(bare: ProcessRunner) -> None:
    run_honest(bare)
    assert run_command(bare).broke is None
    run_own_file(bare)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_is_stopped(bare: ProcessRunner, name: str) -> None:
    source, classes = HOSTILE[name]
    began = time.monotonic()
    assert bare.run(program(source)).broke in classes
    assert time.monotonic() - began < 15


def test_a_daemon_does_not_outlive_its_job(
    bare: ProcessRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where no other sandbox has its jobs
    mark = f"daemon-{os.getpid()}-{time.monotonic_ns()}"
    ended = bare.run(program(f"# {mark}\nimport os\nos.environ['X'] = {mark!r}\n{DAEMON}"))
    assert ended.stdout == b"gone\n"
    assert not [path for path in Path("/proc").glob("[0-9]*/cwd") if str(tmp_path) in link_of(path)]
    assert not list(tmp_path.iterdir())


def link_of(path: Path) -> str:
    """Where a link leads; nothing when its process has just ended."""
    try:
        return str(path.readlink())
    except OSError:
        return ""


def test_a_program_that_kills_its_guest_is_a_violation(bare: ProcessRunner) -> None:
    ended = bare.run(program("import os\nos.kill(os.getppid(), 9)\nprint('still here')"))
    assert ended.broke is Class.VIOLATION


def test_a_megabyte_of_input_that_nobody_reads_is_fine(bare: ProcessRunner) -> None:
    assert bare.run(program("print('done')", b"x" * 1_000_000)).stdout == b"done\n"


def test_it_is_refused_unless_allowed_and_never_quiet(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError, match="allow_unsafe"):
        ProcessRunner(allow_unsafe=False)
    with caplog.at_level(logging.WARNING):
        allowed = ProcessRunner(allow_unsafe=True)
    assert "UNSAFE" in caplog.text
    assert "UNSAFE" in allowed.version
    assert allowed.tier is Tier.PROCESS


def test_a_signal_shows_as_in_a_shell(bare: ProcessRunner) -> None:
    ended = bare.run(program("import os\nos.kill(os.getpid(), 11)"))
    assert ended.exit_code == 128 + signal.SIGSEGV
