"""The run goes back to an older checkpoint: the real buffer delivers again, the real pod loads again."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import threading
from pathlib import Path

import pytest

from forklight_buffer.audit import audit_run
from forklight_trainer.loop import TrainingLoop
from tests.flow.one_process import run_all, write_run

STEPS, ASKED_AT, BACK_TO = 6, 4, 2
DEADLINE_S = 120.0


class Swaps(logging.Handler):
    """Versions that the pod put in use, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.versions: list[int] = []
        self.happened = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        if record.message == "weights swapped":
            with self.happened:
                self.versions.append(int(record.__dict__["version"]))
                self.happened.notify_all()

    def handle(self, record: logging.LogRecord) -> bool:
        record.message = record.getMessage()
        return bool(super().handle(record))

    def wait_for(self, version: int) -> None:
        """Until the pod uses that version, and no other."""
        with self.happened:
            assert self.happened.wait_for(lambda: self.versions[-1:] == [version], timeout=DEADLINE_S / 2)


class GoesBack(TrainingLoop):
    """Once, after step 4; and waits then until the pod has the older weights."""

    swaps: Swaps
    was_asked = False

    def _advance(self) -> None:
        super()._advance()
        if self._at.step == ASKED_AT and not self.was_asked:
            self._saver.wait()
            self.swaps.wait_for(ASKED_AT)
            self.was_asked = True
            self.request_roll_back(BACK_TO, "a person says so")

    def _start(self) -> None:
        super()._start()
        if self.was_asked:
            self.swaps.wait_for(BACK_TO)


async def test_a_run_goes_back_and_pods_load_the_older_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"id": f"p{number}", "prompt": f"{number}+1=", "kind": "math", "gold": str(number + 1)}
        for number in range(9)
    ]
    run_file = write_run(tmp_path, steps=STEPS, rows=rows)
    run_file.write_text(run_file.read_text() + "[checkpoints]\nkeep_last = 9\n")
    swaps = Swaps()
    watched = logging.getLogger("forklight_rollout")
    monkeypatch.setattr(watched, "handlers", [*watched.handlers, swaps])
    monkeypatch.setattr(GoesBack, "swaps", swaps, raising=False)
    monkeypatch.setattr("forklight_trainer.app.TrainingLoop", GoesBack)
    before = watched.level
    watched.setLevel(logging.INFO)
    try:
        async with run_all(tmp_path, run_file) as system, asyncio.timeout(DEADLINE_S):
            await system.trainer_ended.wait()
    finally:
        watched.setLevel(before)
    steps = [json.loads(line)["step"] for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert ASKED_AT in swaps.versions
    assert BACK_TO in swaps.versions[swaps.versions.index(ASKED_AT) :]
    assert lineages(tmp_path / "ledger.sqlite") == {"l0001": {1, 2}, "l0002": {3, 4, 5, 6}}
    report = audit_run(tmp_path, None)
    assert report.violations == ()
    assert report.num_rollbacks == 8


def lineages(ledger: Path) -> dict[str, set[int]]:
    """Steps that samples are trained at, by line."""
    with sqlite3.connect(ledger) as database:
        rows = database.execute("SELECT DISTINCT lineage, step FROM samples WHERE state = 10").fetchall()
    return {name: {step for other, step in rows if other == name} for name, _ in rows}
