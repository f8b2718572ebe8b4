"""Verdicts of a sample from the reward service's audit log (RUN/verdicts/*.jsonl), found by time.

Unproven: `forklight verdict check` proves the files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from forklight_console.samples.ports import Body, VerdictLine
from forklight_core.blobs import FolderBlobStore
from forklight_core.errors import ForklightError

FOLDER = "verdicts"
SLACK_S = 30.0
"""Clocks of two machines, and lines that waited for a disk."""
LONGEST_LINE = 1 << 20
MOST_READ_BYTES = 256 * 2**20
LOOK_EVERY = 64


class VerdictFiles:
    """Implements `VerdictSource`."""

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder / FOLDER

    def find(self, sample_id: str, *, since: float, until: float) -> Sequence[VerdictLine]:
        found, bounds, left = list[VerdictLine](), (since - SLACK_S, until + SLACK_S), MOST_READ_BYTES
        for path in sorted(self._folder.glob("*.jsonl")):
            try:
                if path.stat().st_mtime < bounds[0] or left <= 0:
                    continue
                bodies, num_bytes = _read_between(path, sample_id, bounds, left)
            except OSError:
                continue
            left -= num_bytes
            found += [self._line(path.name, body) for body in bodies]
        return sorted(found, key=lambda line: _time_of(line.body))

    def _line(self, name: str, body: Body) -> VerdictLine:
        reference = str(body.get("evidence_ref") or "")
        if not reference:
            return VerdictLine(file=name, body=body)
        evidence = self._folder / "evidence"
        if not evidence.is_dir():
            return VerdictLine(file=name, body=body, longer_problem=f"{reference} is gone")
        try:
            longer = FolderBlobStore(evidence).get(reference).decode("utf-8", "replace")
        except (ForklightError, OSError) as error:
            return VerdictLine(file=name, body=body, longer_problem=str(error))
        return VerdictLine(file=name, body=body, longer=longer)


def _read_between(
    path: Path, sample_id: str, bounds: tuple[float, float], most: int
) -> tuple[list[Body], int]:
    """Lines of a sample, from the first line that is not too old to the first that is too new; bytes read."""
    needle, found, num_bytes = json.dumps(sample_id).encode(), list[Body](), 0
    with path.open("rb") as file:
        file.seek(_first_offset(path, bounds[0]))
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b"")):
            num_bytes += len(line)
            if needle in line:
                body = _body(line)
                if body.get("type") == "verdict" and body.get("sample") == sample_id:
                    found.append(body)
            elif number % LOOK_EVERY == 0 and _time_of(_body(line)) > bounds[1]:  # parsing is what costs
                break
            if num_bytes >= most:
                break
    return found, num_bytes


def _first_offset(path: Path, since: float) -> int:
    """Where the first line begins that was written at or after a time; lines are in the order of writing."""
    low, high = 0, path.stat().st_size
    with path.open("rb") as file:
        while high - low > LONGEST_LINE // 16:
            middle = (low + high) // 2
            file.seek(middle)
            file.readline(LONGEST_LINE)
            at = _time_of(_body(file.readline(LONGEST_LINE)))
            if at and at < since:
                low = middle
            else:
                high = middle
        file.seek(low)
        if low:
            file.readline(LONGEST_LINE)
        return file.tell()


def _body(line: bytes) -> Body:
    try:
        body = json.loads(line)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _time_of(body: Body) -> float:
    at = body.get("at")
    return float(at) if isinstance(at, int | float) else 0.0
