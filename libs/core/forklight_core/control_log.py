"""Who asked a run for what, when, why, and what became of it: RUN/control.jsonl, two lines an action.

The first line is on disk before anything is asked, so that no action is without a trace, whatever dies.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

from forklight_core.errors import BusyError, ForklightError, InvalidInputError

FILE = "control.jsonl"
MOST_READ_BYTES = 8 * 2**20
MOST_TEXT = 2000


class Outcome(StrEnum):
    """How an action ended."""

    ASKED = "asked"
    """Nobody has said yet: it runs, or whoever asked died meanwhile."""
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlLine:
    """One action."""

    id: str
    at: float
    who: str
    action: str
    target: str
    reason: str
    outcome: Outcome = Outcome.ASKED
    detail: str = ""


class Answer:
    """What the action says of itself for the log."""

    detail: str = ""


@contextmanager
def audited(run_folder: Path, *, who: str, action: str, reason: str, target: str = "") -> Iterator[Answer]:
    """Around an action: its line before, its outcome after; what the action raises goes on, as failed."""
    line = begin_line(run_folder, who=who, action=action, reason=reason, target=target)
    answer = Answer()
    try:
        yield answer
    except BaseException as error:
        end_line(run_folder, line, failure=error)
        raise
    end_line(run_folder, line, answer.detail)


def begin_line(run_folder: Path, *, who: str, action: str, reason: str, target: str = "") -> ControlLine:
    """Before anything is asked. InvalidInputError without a reason, BusyError where it cannot be written."""
    if not reason.strip():
        raise InvalidInputError(f"a reason is needed to {action}: say why, for those who look later")
    line = ControlLine(
        id=secrets.token_hex(8),
        at=time.time(),
        who=_short(who),
        action=_short(action),
        target=_short(target),
        reason=_short(reason),
    )
    append_line(run_folder / FILE, line)
    return line


def end_line(
    run_folder: Path, line: ControlLine, detail: str = "", *, failure: BaseException | None = None
) -> None:
    """What became of it."""
    outcome = Outcome.DONE
    if failure is not None:
        is_ours = isinstance(failure, ForklightError)
        detail = str(failure) if is_ours else f"{type(failure).__name__}: {failure}"
        outcome = Outcome.FAILED
    ended = replace(line, at=time.time(), outcome=outcome, detail=_short(detail))
    append_line(run_folder / FILE, ended)


def append_line(path: Path, line: ControlLine) -> None:
    """Whole, behind every other writer's, and synced."""
    data = json.dumps(asdict(line), ensure_ascii=True).encode() + b"\n"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                data = b"\n" + data  # what a killed writer left is no part of ours
            if os.write(descriptor, data) != len(data):
                raise OSError("the disk took a part of the line")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise BusyError(
            f"{path} cannot be written ({error}), and nothing is done to a run without its line there: "
            "free disk space, or make the folder writable"
        ) from error


def read_lines(run_folder: Path, *, limit: int) -> list[ControlLine]:
    """The newest actions first, each as it ended; torn lines are left out."""
    path = run_folder / FILE
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - MOST_READ_BYTES))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BusyError(f"{path} cannot be read: {error}") from error
    found: dict[str, ControlLine] = {}
    for raw in text.split("\n"):
        line = _parse(raw)
        if line is None:
            continue
        before = found.get(line.id)
        found[line.id] = line if before is None else replace(line, at=before.at)
    return list(reversed(found.values()))[:limit]


def _parse(raw: str) -> ControlLine | None:
    try:
        fields = json.loads(raw)
        return ControlLine(**{**fields, "outcome": Outcome(fields["outcome"]), "at": float(fields["at"])})
    except (ValueError, TypeError, KeyError):
        return None


def _short(text: str) -> str:
    return " ".join(text.split())[:MOST_TEXT]
