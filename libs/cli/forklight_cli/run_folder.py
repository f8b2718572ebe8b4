"""The run folder on disk: where things are, what was started, one supervisor at a time."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from forklight_core.errors import BusyError, InvalidInputError, NotFoundError
from forklight_core.ids import check_run_id


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @property
    def run_file(self) -> Path:
        """The resolved run file; a folder without one is no run folder."""
        return self.path / "run.toml"

    @property
    def redis(self) -> Path:
        """Folder of the embedded server."""
        return self.path / "redis"

    @property
    def blobs(self) -> Path:
        """Folder of payload blobs."""
        return self.path / "blobs"

    @property
    def ledger(self) -> Path:
        """Terminal states and commits."""
        return self.path / "ledger.sqlite"

    @property
    def steps(self) -> Path:
        """Records of optimizer steps, JSON lines."""
        return self.path / "steps.jsonl"

    @property
    def logs(self) -> Path:
        """One log a process."""
        return self.path / "logs"

    @property
    def cold_start(self) -> Path:
        """Checkpoint of the supervised cold start."""
        return self.path / "sft"

    def log_of(self, name: str) -> Path:
        """The log file of a process."""
        return self.logs / f"{name}.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemRecord:
    """What `system.json` says: who was started last, and where it listens."""

    run_id: str
    supervisor: int = 0
    redis_url: str = ""
    addresses: Mapping[str, str] = field(default_factory=dict)
    pids: Mapping[str, int] = field(default_factory=dict)


def open_run_folder(path: Path | str) -> RunFolder:
    """An existing run folder, or an error that says what is missing."""
    folder = RunFolder(Path(path).resolve())
    if not folder.run_file.is_file():
        raise NotFoundError(
            f"{path} is not a run folder: it has no run.toml. `forklight up RUN.toml` makes one"
        )
    return folder


def create_run_folder(path: Path, run_id: str, run_toml: str) -> RunFolder:
    """A new run folder; the run file is written last, so a folder that has one is complete."""
    folder = RunFolder(path.resolve())
    if folder.run_file.exists():
        raise InvalidInputError(f"{path} already holds a run: `forklight resume {path}` goes on with it")
    folder.logs.mkdir(parents=True, exist_ok=True)
    write_system(folder, SystemRecord(run_id=check_run_id(run_id)))
    write_atomically(folder.run_file, run_toml)
    return folder


def read_system(folder: RunFolder) -> SystemRecord:
    """The record of the last start."""
    path = folder.path / "system.json"
    try:
        return SystemRecord(**json.loads(path.read_text()))
    except FileNotFoundError:
        raise NotFoundError(f"{path} is missing: the run id of this folder is unknown") from None
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"{path} cannot be read: {error}") from None


def write_system(folder: RunFolder, record: SystemRecord) -> None:
    """Replace the record."""
    write_atomically(folder.path / "system.json", json.dumps(asdict(record), indent=2) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Readers see the old text or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def lock_run_folder(folder: RunFolder, *, wait_s: float = 3.0) -> int:
    """Be the folder's only supervisor.

    Children inherit the descriptor: the lock of a killed supervisor goes with its last child.
    """
    descriptor = os.open(folder.path / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                owner = read_system(folder).supervisor
                raise BusyError(
                    f"the run of {folder.path} is already up (supervisor process {owner}): stop it by Ctrl-C "
                    f"in its terminal or `kill {owner}`, or see `forklight status {folder.path}`"
                ) from None
            time.sleep(0.1)
        else:
            return descriptor


def is_locked(folder: RunFolder) -> bool:
    """Whether a supervisor holds the folder right now."""
    path = folder.path / "supervisor.lock"
    if not path.exists():
        return False
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_json_lines(path: Path) -> Iterator[Mapping[str, object]]:
    """Objects of a JSON-lines file; a last line that is still being written is left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            value = json.loads(line)
            if isinstance(value, dict):
                yield value
