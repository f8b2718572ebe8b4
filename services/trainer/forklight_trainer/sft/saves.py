"""How a stage survives: a folder beside its result, with checkpoints of weights, optimizer and data cursor.

OUT.partial/
    lock            held by the process that works here
    data/           what the check of the files found
    checkpoints/step-00000100/   state/ (weights, optimizer, random state), stage.json, manifest.json
It is gone once OUT is there.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from forklight_core.errors import BusyError, CheckpointError, ConfigError
from forklight_core.runfile.schema import RunFile
from forklight_trainer.checkpoints.manifest import verify_checkpoint, write_manifest
from forklight_trainer.checkpoints.reading import read_json
from forklight_trainer.durable import canonical_json, remove_folder, staged_folder, sweep_leftovers
from forklight_trainer.ports import TrainEngine
from forklight_trainer.sft.holdout import HoldoutState

log = logging.getLogger(__name__)

STAGE_FILE = "stage.json"
SCHEMA_VERSION = 1
NUM_KEPT = 2
LOCK_WAIT_S = 60.0
STEP_FOLDER = re.compile(r"step-(\d{8,})")
FREE = {"demonstrations", "holdout", "holdout_every_steps", "checkpoint_every_steps"}
"""Settings that may change under a stage: files count by content, and the others change no number."""

Identity = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageState:
    """Where a stage stands between two steps."""

    step: int = 0
    place: int = 0
    """Demonstrations taken since the first step."""
    num_tokens: int = 0
    loss: float | None = None
    """Of the last step."""
    holdout: HoldoutState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFolder:
    """The folder of a stage that is not over."""

    path: Path

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def list_steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending; not verified."""
        if not self.checkpoints.is_dir():
            return []
        names = (STEP_FOLDER.fullmatch(path.name) for path in self.checkpoints.iterdir())
        return sorted(int(found[1]) for found in names if found)

    def save(self, engine: TrainEngine, state: StageState, identity: Identity) -> None:
        """Write a checkpoint, durable before the older ones go."""
        snapshot = engine.snapshot()
        try:
            with staged_folder(self._path_of(state.step)) as staging:
                staging.mkdir()
                snapshot.write(staging)
                content = {"schema_version": SCHEMA_VERSION, "identity": identity, "state": asdict(state)}
                (staging / STAGE_FILE).write_bytes(canonical_json(content))
                write_manifest(staging)
        finally:
            snapshot.release()
        for step in self.list_steps()[:-NUM_KEPT]:
            remove_folder(self._path_of(step))

    def restore_latest(self, engine: TrainEngine, identity: Identity) -> StageState:
        """Take over the newest sound checkpoint; the beginning when there is none."""
        sweep_leftovers(self.checkpoints)
        steps = self.list_steps()
        for step in reversed(steps):
            folder = self._path_of(step)
            try:
                verify_checkpoint(folder)
            except CheckpointError as error:
                log.error("checkpoint refused, trying the one before", extra={"reason": str(error)})
                continue
            content = read_json(folder / STAGE_FILE)
            check_identity(content.get("identity"), identity, folder)
            engine.restore(folder)
            return read_state(content, folder / STAGE_FILE)
        if steps:
            raise CheckpointError(
                f"none of the {len(steps)} checkpoints in {self.checkpoints} is sound; check the disk, and "
                f"remove {self.path} to start anew"
            )
        return StageState()

    def remove(self) -> None:
        """The stage is over."""
        remove_folder(self.path)

    def _path_of(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:08d}"


@contextmanager
def hold_stage(out: Path) -> Iterator[StageFolder]:
    """The folder of the stage that writes `out`, for this process alone. Left empty, it does not stay."""
    folder = StageFolder(path=out.with_name(f"{out.name}.partial"))
    lock = _lock(folder.path)
    try:
        _sweep_beside(out)
        yield folder
    finally:
        if folder.path.is_dir() and not folder.list_steps() and not list(folder.data.glob("*")):
            folder.remove()
        os.close(lock)


def identity_of(run_file: RunFile, data_key: str) -> dict[str, object]:
    """What a stage's numbers follow from: two stages with the same identity give the same weights."""
    sft = {
        f"sft.{name}": value
        for name, value in run_file.sft.model_dump(mode="json").items()
        if name not in FREE
    }
    model = {f"model.{name}": value for name, value in run_file.model.model_dump(mode="json").items()}
    return {"data": data_key, "run.seed": run_file.run.seed, **model, **sft}


def check_identity(found: object, wanted: Identity, where: Path) -> None:
    """ConfigError that names what is not as it was when the stage began."""
    if not isinstance(found, dict):
        raise CheckpointError(f"{where / STAGE_FILE} is not a stage's state")
    names = [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
    if names:
        changes = "; ".join(
            "the demonstrations, the tokenizer or the chat template are not what they were"
            if name == "data"
            else f"{name} was {found.get(name)!r} and is {wanted.get(name)!r}"
            for name in names
        )
        raise ConfigError(
            f"the cold start in {where.parent.parent} cannot go on: {changes}. Put it back, or remove that "
            "folder to start anew"
        )


def read_state(content: Mapping[str, object], path: Path) -> StageState:
    """The state in a file's content."""
    state = content.get("state")
    try:
        if not isinstance(state, dict):
            raise TypeError("state is no JSON object")
        holdout = state["holdout"] and HoldoutState(**state["holdout"])
        return StageState(**{**state, "holdout": holdout})
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a stage's state: {error!r}") from error


def _lock(path: Path) -> int:
    """A process that was told to stop may still be saving; one that is done takes its folder away."""
    end_s = time.monotonic() + LOCK_WAIT_S
    while True:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (path / "lock").stat().st_ino == os.fstat(lock).st_ino:
                return lock
        except (BlockingIOError, FileNotFoundError):
            time.sleep(0.1)
        os.close(lock)
        if time.monotonic() > end_s:
            raise BusyError(f"{path} is held by another process: stop it first")


def _sweep_beside(out: Path) -> None:
    """Remove what a killed process left of this result and of its folder."""
    leftover = re.compile(rf"\.{re.escape(out.name)}(\.partial)?\.[0-9a-f]{{8}}")
    for path in out.parent.iterdir():
        if leftover.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)
