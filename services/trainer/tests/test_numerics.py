"""Parity or tolerance mode in a whole run: what is said at start, what pauses, what only counts."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from forklight.v1 import buffer_pb2
from forklight_core import blobs as core_blobs
from forklight_core.runfile import RunFile
from forklight_model.parity import check_numeric_mode
from forklight_trainer import app, numerics
from forklight_trainer.adapters.memory import MemoryBuffer
from forklight_trainer.numerics import announce_numeric_mode
from forklight_trainer.settings import TrainerSettings

Maker = Any
Write = Callable[..., Path]


@pytest.fixture
def settings(tmp_path: Path, maker: Maker, write_run_file: Write) -> TrainerSettings:
    """A run of two steps whose recorded log-probs are a hair off: the gate is content, no bit is."""
    maker.temperature = 1.0001
    core_blobs._MEMORY[str(tmp_path)] = maker.blobs
    return TrainerSettings(
        run_file=write_run_file(tmp_path, steps=2),
        run_folder=tmp_path,
        run_id="test-run",
        blobs_url=f"memory://{tmp_path}",
        buffer_address="unused",
        device="cpu",
        lease_wait_s=0.05,
    )


@pytest.fixture
def in_parity_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this device had passed the self-test."""
    found = replace(check_numeric_mode("cpu", torch.float32), is_parity=True, reason="all equal")
    monkeypatch.setattr(numerics, "numeric_mode_of", lambda config, device, dtype: found)


def require_equal(settings: TrainerSettings) -> None:
    text = settings.run_file.read_text()
    settings.run_file.write_text(text.replace("require_equal = false", "require_equal = true"))


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


def test_announce_when_equal_bits_are_required_on_a_cpu_says_that_nothing_comes_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        mode = announce_numeric_mode(RunFile.model_validate({"parity": {"require_equal": True}}), "cpu")
    assert (mode.is_parity, mode.device) == (False, "cpu")
    assert "numeric mode" in messages(caplog, logging.INFO)
    assert messages(caplog, logging.WARNING) == ["parity.require_equal has no effect in tolerance mode"]


def test_run_when_bits_differ_in_tolerance_mode_counts_them_and_goes_on(
    settings: TrainerSettings, maker: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    require_equal(settings)
    app.run(settings, threading.Event(), buffer=MemoryBuffer(maker.batch).connect())
    steps = [json.loads(line) for line in (settings.run_folder / "steps.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2]
    assert all(0 < step["unequal_tokens"] <= step["parity_tokens"] for step in steps)
    assert "log-probs differ in parity mode" not in messages(caplog, logging.WARNING)


@pytest.mark.usefixtures("in_parity_mode")
def test_run_when_bits_differ_in_parity_mode_warns_every_step(
    settings: TrainerSettings, maker: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    app.run(settings, threading.Event(), buffer=MemoryBuffer(maker.batch).connect())
    assert messages(caplog, logging.WARNING).count("log-probs differ in parity mode") == 2


@pytest.mark.usefixtures("in_parity_mode")
def test_run_when_bits_differ_and_must_not_pauses_before_the_update(
    settings: TrainerSettings, maker: Maker
) -> None:
    require_equal(settings)
    buffer, stop = MemoryBuffer(maker.batch), threading.Event()
    connection = buffer.connect()
    pause = connection.set_phase

    def pause_and_stop(phase: buffer_pb2.RunPhase, reason: str) -> None:
        pause(phase, reason)
        stop.set()

    connection.set_phase = pause_and_stop  # type: ignore[method-assign]
    app.run(settings, stop, buffer=connection)
    assert buffer.phase == buffer_pb2.RUN_PHASE_PAUSED
    assert "tokens that version 0 sampled have log-probs that differ in bits" in buffer.reason
    assert buffer.ledger == {}


def test_checkpoint_when_written_under_another_contract_is_taken_over_with_a_warning(
    settings: TrainerSettings,
    maker: Maker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    buffer = MemoryBuffer(maker.batch)
    app.run(settings, threading.Event(), buffer=buffer.connect())
    state = json.loads((settings.run_folder / "checkpoints/step-00000002/state.json").read_text())
    assert state["contract"] == app.contract_hash(maker.model.config, "float32")
    assert "checkpoint comes from another numeric contract" not in messages(caplog, logging.WARNING)
    monkeypatch.setattr(app, "contract_hash", lambda config, dtype: "newer")
    app.run(settings, threading.Event(), buffer=buffer.connect())
    assert "checkpoint comes from another numeric contract" in messages(caplog, logging.WARNING)
