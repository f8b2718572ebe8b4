"""`forklight rollback` against a running system: asked, refused, confirmed, seen in `forklight status`."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from forklight_buffer.audit import audit_run
from forklight_cli.commands.control import pause
from forklight_cli.commands.rollback import rollback
from forklight_cli.commands.status import status
from forklight_cli.commands.up import resume
from forklight_cli.run_folder import RunFolder, SystemRecord, lock_run_folder, write_system
from forklight_core.errors import ForklightError, NotFoundError
from tests.flow.one_process import RUN_ID, run_all, write_run

STEPS = 12
DEADLINE_S = 120.0


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[RunFolder]:
    """The run folder as a supervisor holds it."""
    folder = RunFolder(tmp_path)
    lock = lock_run_folder(folder)
    yield folder
    os.close(lock)


async def forklight(command: object, *arguments: object, typed: str = "") -> Result:
    """In a thread: the doors that are asked are served by this loop."""
    return await asyncio.to_thread(
        CliRunner().invoke,
        command,
        [str(each) for each in arguments],
        typed,  # type: ignore[arg-type]
    )


async def said(command: object, *arguments: object, typed: str = "") -> str:
    result = await forklight(command, *arguments, typed=typed)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


async def refusal(*arguments: object) -> ForklightError:
    result = await forklight(rollback, *arguments)
    assert isinstance(result.exception, ForklightError), result.output
    return result.exception


async def until(condition: Callable[[], bool]) -> None:
    """In a thread too."""

    def look() -> None:
        deadline = time.monotonic() + DEADLINE_S / 2
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    await asyncio.to_thread(look)


async def test_a_person_pauses_a_run_looks_goes_back_and_lets_it_go_on(
    tmp_path: Path, locked: RunFolder
) -> None:
    rows = [
        {"id": f"p{number}", "prompt": f"{number}+1=", "kind": "math", "gold": str(number + 1)}
        for number in range(9)
    ]
    run_file = write_run(tmp_path, steps=STEPS, rows=rows)
    run_file.write_text(run_file.read_text() + "[checkpoints]\nkeep_last = 50\n")
    async with run_all(tmp_path, run_file) as system, asyncio.timeout(DEADLINE_S):
        write_system(locked, SystemRecord(run_id=RUN_ID, addresses=system.addresses))
        await until((tmp_path / "checkpoints" / "step-00000003").is_dir)
        await said(pause, tmp_path)
        await until(lambda: trainer_stage(tmp_path) == "paused")

        listed = await said(rollback, tmp_path, "--list")
        assert "  step      1  version 1  reward " in listed and "checkpoints\n" in listed
        assert "no checkpoint as old as step 0: there are those of the steps 1, 2, 3" in str(
            await refusal(tmp_path, 0)
        )
        assert isinstance(await refusal(tmp_path, 0, "--yes"), NotFoundError)
        told = await said(rollback, tmp_path, 2, "--dry-run", "--reason", "garble")
        assert "checkpoint of step 2 (version 2)" in told and "given up  step 3," in told
        assert told.endswith("nothing was asked of the run (--dry-run)\n")
        declined = await forklight(rollback, tmp_path, 2, "--reason", "garble", typed="n\n")
        assert declined.exit_code == 1 and "Go back? [y/N]" in declined.output
        assert "rolled_back" not in await said(status, tmp_path)

        accepted = await said(rollback, tmp_path, 2, "--reason", "garble", typed="y\n")
        assert "accepted: the run goes back to step 2" in accepted
        await until(lambda: len(lineages(tmp_path)) == 2)
        # The event is told after the line is taken up.
        await until(lambda: "rolled_back: went" in CliRunner().invoke(status, [str(tmp_path)]).output)
        shown = await said(status, tmp_path)
        assert "phase      paused (paused by hand)" in shown
        assert "to step 2, as a person asked: garble" in shown
        await said(resume, tmp_path)
        await system.trainer_ended.wait()
    steps = [json.loads(line)["step"] for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))
    assert audit_run(tmp_path, None).violations == ()


def trainer_stage(folder: Path) -> str:
    from forklight_cli.trainer_client import connect_trainer

    with connect_trainer(RunFolder(folder)) as trainer:
        return trainer.status().stage


def lineages(folder: Path) -> list[str]:
    with sqlite3.connect(folder / "ledger.sqlite") as database:
        return [name for (name,) in database.execute("SELECT lineage FROM lineages")]


def test_a_run_that_is_not_up_cannot_be_asked(tmp_path: Path) -> None:
    from forklight_cli.run_folder import create_run_folder
    from forklight_core.errors import UnavailableError
    from forklight_core.runfile import RunFile, dump_run_file

    folder = create_run_folder(tmp_path / "run", "run-1", dump_run_file(RunFile()))
    result = CliRunner().invoke(rollback, [str(folder.path), "1"])
    assert isinstance(result.exception, UnavailableError) and "is not up" in str(result.exception)
    assert CliRunner().invoke(rollback, [str(folder.path)]).exit_code == 2
