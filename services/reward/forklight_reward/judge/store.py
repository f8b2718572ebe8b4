"""The measures against length on disk, shared by all judges of a run: RUN/judge/.

  calibration.json  what should hold now, which calibration each policy version has, what the ladder remembers
  log.jsonl         windows, probes and switches, for people
  frozen.jsonl      answers of the padding probe
  lock, leader      held while calibration.json is changed; held by the one judge that fits and decides

A policy version gets its calibration when any judge first sees one of its groups, and keeps it: no group is
ever judged under two. Only a version that was switched off gets another one: none of its samples has a score.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO

from forklight_core.errors import DataLossError, PreconditionError, UnavailableError
from forklight_reward.judge.length_monitor import MonitorState
from forklight_reward.judge.recalibration import Calibration, LadderState, Level

FORMAT = 1
MOST_PINS = 128
MOST_LOG_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """What is on disk."""

    current: Calibration = field(default_factory=Calibration)
    """Of policy versions that nobody has seen yet."""
    pins: Mapping[int, Calibration] = field(default_factory=dict)
    """By policy version."""
    ladder: LadderState | None = None
    memory: Mapping[str, int] = field(default_factory=dict)
    """Counters of the ladder."""


class CalibrationStore:
    """Files of a run. Every method blocks for as long as a small file takes."""

    def __init__(self, run_folder: Path) -> None:
        self.folder = run_folder / "judge"
        self._leading: IO[str] | None = None

    @property
    def log_path(self) -> Path:
        """Windows, probes and switches."""
        return self.folder / "log.jsonl"

    @property
    def frozen_path(self) -> Path:
        """Answers of the padding probe."""
        return self.folder / "frozen.jsonl"

    def read(self) -> Book:
        """What is on disk; nothing yet is an empty book."""
        path = self.folder / "calibration.json"
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return Book()
        except OSError as error:
            raise _away(path, error) from error
        try:
            return read_book(json.loads(text))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise DataLossError(
                f"{path} cannot be read ({error!r}): no group can be judged as its others were. Move it "
                "away to begin again without measures against length"
            ) from None

    def pin(self, version: int) -> Calibration:
        """The calibration of a policy version, chosen now if nobody has yet."""
        with self._locked():
            book = self.read()
            pinned = book.pins.get(version)
            if pinned is not None and not _is_over(pinned, book.current):
                return pinned
            pins = dict(book.pins) | {version: book.current}
            for old in sorted(pins)[:-MOST_PINS]:
                if old != version:
                    del pins[old]
            self._write(replace(book, pins=pins))
            return book.current

    def propose(self, ladder: LadderState, memory: Mapping[str, int], *, known: int) -> Calibration | None:
        """Keep what the ladder remembers; what it proposes holds for versions to come. Only of the leader.
        None when somebody else changed what holds since version `known`: read the book again.
        """
        with self._locked():
            book = self.read()
            current, proposal = book.current, ladder.pending
            if current.version != known:
                return None
            if replace(proposal, version=0) != replace(current, version=0):
                current = replace(proposal, version=current.version + 1)
            self._write(replace(book, current=current, ladder=ladder, memory=dict(memory)))
            return current

    def allow_again(self) -> Calibration:
        """A person has looked at a judge that was switched off: back to the neutral prompt."""
        with self._locked():
            book = self.read()
            if book.current.level is not Level.OFF:
                raise PreconditionError(
                    f"the judge of this run is at level {book.current.level.value}, it is not switched off: "
                    "there is nothing to allow"
                )
            back = replace(book.current, version=book.current.version + 1, level=Level.PROMPT)
            ladder = book.ladder and replace(
                book.ladder,
                pending=back,
                active=back,
                num_windows=0,
                raw=MonitorState(),
                residual=MonitorState(),
            )
            self._write(replace(book, current=back, ladder=ladder))
            return back

    def try_to_lead(self) -> bool:
        """Whether this process is the one that decides; once it is, it stays so until `close` or its end."""
        if self._leading is not None:
            return True
        file = self._open("leader")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        except OSError as error:
            file.close()
            raise _away(self.folder / "leader", error) from error
        self._leading = file
        return True

    def close(self) -> None:
        """Let another one lead."""
        if self._leading is not None:
            self._leading.close()
            self._leading = None

    def log(self, record: Mapping[str, object]) -> None:
        """One line for people. A file that got too long begins anew."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.log_path.exists() and self.log_path.stat().st_size > MOST_LOG_BYTES:
                self.log_path.replace(self.log_path.with_suffix(".old.jsonl"))
            with self.log_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise _away(self.log_path, error) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._open("lock") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                raise _away(self.folder / "lock", error) from error
            yield

    def _open(self, name: str) -> IO[str]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return (self.folder / name).open("a", encoding="utf-8")
        except OSError as error:
            raise _away(self.folder / name, error) from error

    def _write(self, book: Book) -> None:
        path = self.folder / "calibration.json"
        partial = path.with_suffix(".partial")
        try:
            with partial.open("w", encoding="utf-8") as file:
                json.dump(book_fields(book), file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            raise _away(path, error) from error


def _is_over(pinned: Calibration, current: Calibration) -> bool:
    """Switched off, and allowed again since."""
    return pinned.level is Level.OFF and current.level is not Level.OFF


def _away(path: Path, error: OSError) -> UnavailableError:
    return UnavailableError(
        f"judge: {path} cannot be used: {error.strerror or error}; judges of a run share the run folder and "
        "need a file system there that they may write to and lock files on"
    )


def book_fields(book: Book) -> dict[str, object]:
    """As JSON has it."""
    return {
        "format": FORMAT,
        "current": asdict(book.current),
        "pins": {str(version): asdict(each) for version, each in book.pins.items()},
        "ladder": None if book.ladder is None else asdict(book.ladder),
        "memory": dict(book.memory),
    }


def read_book(fields: Mapping[str, object]) -> Book:
    """The book again. ValueError, LookupError or TypeError when it is none."""
    if fields["format"] != FORMAT:
        raise ValueError(f"format {fields['format']}, this release reads {FORMAT}")
    pins, memory = _table(fields["pins"]), _table(fields["memory"])
    return Book(
        current=_calibration(fields["current"]),
        pins={int(version): _calibration(each) for version, each in pins.items()},
        ladder=None if fields["ladder"] is None else _ladder(_table(fields["ladder"])),
        memory={name: int(str(value)) for name, value in memory.items()},
    )


def _table(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError(f"{type(value).__name__} where an object is expected")
    return value


def _calibration(value: object) -> Calibration:
    found = _table(value)
    return Calibration(
        version=int(str(found["version"])),
        level=Level(int(str(found["level"]))),
        beta=float(str(found["beta"])),
        anchor=float(str(found["anchor"])),
    )


def _monitor(value: object) -> MonitorState:
    found = _table(value)
    return MonitorState(
        cusum=float(str(found["cusum"])),
        is_alarm=bool(found["is_alarm"]),
        num_quiet=int(str(found["num_quiet"])),
        gains=bool(found["gains"]),
        gains_much=bool(found["gains_much"]),
    )


def _ladder(found: Mapping[str, object]) -> LadderState:
    drift, anchor = found["drift"], found["anchor"]
    if not isinstance(drift, list):
        raise TypeError("drift is no list")
    return LadderState(
        active=_calibration(found["active"]),
        pending=_calibration(found["pending"]),
        beta=float(str(found["beta"])),
        anchor=None if anchor is None else float(str(anchor)),
        num_windows=int(str(found["num_windows"])),
        raw=_monitor(found["raw"]),
        residual=_monitor(found["residual"]),
        drift=tuple((float(length), float(rate)) for length, rate in drift),
    )
