"""Run folders beside each other under one allowed folder. A name is one folder's; paths are never taken."""

from __future__ import annotations

import re
import threading
import tomllib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from forklight_console.steps.log import StepLog
from forklight_core.errors import NotFoundError

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MOST_LISTED = 500
MOST_OPEN = 16
MOST_RUN_FILE_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ShelvedRun:
    """A run folder on disk: its steps and its run file as dotted keys."""

    name: str
    log: StepLog
    keys: Mapping[str, str]


class RunShelf:
    """Lists and opens; keeps the last few step files open in memory."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder.resolve() if folder is not None else None
        self._logs: OrderedDict[str, StepLog] = OrderedDict()
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Folders that hold a run with steps, the newest first."""
        if self._folder is None or not self._folder.is_dir():
            return []
        found = [(path.stat().st_mtime, path.parent.name) for path in self._folder.glob("*/steps.jsonl")]
        found = [each for each in found if self._path_of(each[1]) is not None]
        return [name for _, name in sorted(found, reverse=True)[:MOST_LISTED]]

    def open(self, name: str) -> ShelvedRun:
        """A run by its folder's name, or NotFoundError."""
        path = self._path_of(name)
        if path is None:
            raise NotFoundError(
                f"no run {name[:128]!r} to compare: a folder with run.toml and steps.jsonl in the folder of "
                "FORKLIGHT_RUNS_FOLDER"
            )
        with self._lock:
            log = self._logs.pop(name, None) or StepLog(path / "steps.jsonl")
            self._logs[name] = log
            while len(self._logs) > MOST_OPEN:
                self._logs.popitem(last=False)
        return ShelvedRun(name=name, log=log, keys=read_keys(path / "run.toml"))

    def _path_of(self, name: str) -> Path | None:
        """The folder of a name; None also where a link leads out of the allowed folder."""
        if self._folder is None or not RUN_NAME.fullmatch(name):
            return None
        path = (self._folder / name).resolve()
        inside = path.parent == self._folder
        files = (path / "run.toml", path / "steps.jsonl")
        is_run = inside and all(file.is_file() and file.resolve().parent == path for file in files)
        return path if is_run else None


def read_keys(path: Path) -> Mapping[str, str]:
    """The values of a run file by dotted key; one that cannot be read has one key that says so."""
    try:
        if path.stat().st_size > MOST_RUN_FILE_BYTES:
            return {"run.toml": "too large to compare"}
        return dict(_flatten(tomllib.loads(path.read_text(encoding="utf-8")), ""))
    except (OSError, ValueError) as error:
        return {"run.toml": f"cannot be read: {error}"}


def _flatten(values: Mapping[str, object], prefix: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found += _flatten(value, f"{key}.")
        else:
            found.append((key, str(value)))
    return found
