"""Checkpoints: weights, optimizer, random state, and which samples they have learned from, in one atomic
folder.

checkpoints/step-00000042/   a model folder in the published layout (config, shards, tokenizer), and beside it
    optimizer.safetensors  random.safetensors  run.toml
    state.json             run, lineage, step, version
    commit.json            commit records since the checkpoint before
    manifest.json          size and blake3 of every file above
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from forklight.v1 import types_pb2
from forklight_core.errors import CheckpointError
from forklight_model.tokenizer import Tokenizer
from forklight_trainer.durable import canonical_json, hash_file, remove_folder, staged_folder, sweep_leftovers
from forklight_trainer.ports import TrainEngine

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"
STATE_FILE = "state.json"
COMMIT_FILE = "commit.json"
RUN_FILE = "run.toml"
STEP_FOLDER = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointState:
    """Where a checkpoint stands."""

    run_id: str
    lineage: str
    step: int
    version: int
    contract: str = ""
    """Numeric contract of the trainer that wrote it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A checkpoint that was taken over."""

    state: CheckpointState
    commits: tuple[types_pb2.CommitRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointStore:
    """The checkpoints of one run."""

    folder: Path
    run_file: Path
    tokenizer: Tokenizer
    num_kept: int

    def save(
        self, engine: TrainEngine, state: CheckpointState, commits: Sequence[types_pb2.CommitRecord]
    ) -> Path:
        """Write a checkpoint, then forget the oldest ones."""
        target = self.folder / f"step-{state.step:08d}"
        with staged_folder(target) as staging:
            engine.save_master(staging)
            self.tokenizer.save(staging)
            engine.save_optimizer(staging)
            shutil.copyfile(self.run_file, staging / RUN_FILE)
            (staging / STATE_FILE).write_bytes(
                canonical_json({"schema_version": SCHEMA_VERSION, **asdict(state)})
            )
            (staging / COMMIT_FILE).write_bytes(canonical_json(commit_json(state, commits)))
            (staging / MANIFEST_FILE).write_bytes(canonical_json(_manifest(staging)))
        self._forget_oldest(state.step)
        return target

    def restore_latest(self, engine: TrainEngine, run_id: str) -> Restored | None:
        """Take over the newest sound checkpoint; None when there is none, an error when none is sound."""
        sweep_leftovers(self.folder)
        found = self.list_steps()
        for step in reversed(found):
            try:
                return self.restore(engine, step, run_id)
            except CheckpointError as error:
                log.error(
                    "checkpoint refused, trying the one before", extra={"step": step, "reason": str(error)}
                )
        if found:
            raise CheckpointError(
                f"none of the {len(found)} checkpoints in {self.folder} is sound; check the disk, and "
                "remove the folder if the run is to start over"
            )
        return None

    def restore(self, engine: TrainEngine, step: int, run_id: str) -> Restored:
        """Verify one checkpoint and load it into the engine."""
        folder = self.folder / f"step-{step:08d}"
        verify_checkpoint(folder)
        state = read_state(folder)
        if (state.run_id, state.step) != (run_id, step):
            raise CheckpointError(
                f"{folder} holds step {state.step} of run {state.run_id!r}, expected step {step} of "
                f"{run_id!r}"
            )
        commits = read_commits(folder)
        engine.restore(folder)
        return Restored(state=state, commits=commits)

    def list_steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending; not verified."""
        if not self.folder.is_dir():
            return []
        names = (STEP_FOLDER.fullmatch(path.name) for path in self.folder.iterdir() if path.is_dir())
        return sorted(int(match.group(1)) for match in names if match)

    def _forget_oldest(self, newest: int) -> None:
        """Keep the newest `num_kept`. Steps beyond the newest belong to a lineage that was left behind."""
        steps = self.list_steps()
        kept = [step for step in steps if step <= newest][-self.num_kept :]
        for step in steps:
            if step not in kept:
                remove_folder(self.folder / f"step-{step:08d}")


def verify_checkpoint(folder: Path) -> None:
    """CheckpointError unless every file is what the manifest says."""
    files = _read_json(folder / MANIFEST_FILE).get("files")
    if not isinstance(files, dict):
        raise CheckpointError(f"{folder / MANIFEST_FILE} lists no files: the checkpoint is torn")
    for name, entry in files.items():
        path = folder / name
        try:
            size = path.stat().st_size
            is_sound = size == entry["size_bytes"] and hash_file(path) == entry["blake3"]
        except (OSError, TypeError, KeyError) as error:
            raise CheckpointError(f"{path} cannot be verified: {error!r}") from error
        if not is_sound:
            raise CheckpointError(f"{path} is torn: {size} bytes do not hash to what {MANIFEST_FILE} says")


def read_state(folder: Path) -> CheckpointState:
    """Where a checkpoint stands."""
    content = _read_json(folder / STATE_FILE)
    try:
        return CheckpointState(
            run_id=str(content["run_id"]),
            lineage=str(content["lineage"]),
            step=int(str(content["step"])),
            version=int(str(content["version"])),
            contract=str(content.get("contract", "")),
        )
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{folder / STATE_FILE} is not a checkpoint's state: {error!r}") from error


def commit_json(state: CheckpointState, commits: Sequence[types_pb2.CommitRecord]) -> dict[str, object]:
    """What commit.json holds."""
    records = [
        {"lineage": c.lineage, "step": c.step, "batch_id": c.batch_id, "sample_ids": list(c.sample_ids)}
        for c in commits
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "lineage": state.lineage,
        "step": state.step,
        "records": records,
    }


def read_commits(folder: Path) -> tuple[types_pb2.CommitRecord, ...]:
    """The commit records of a checkpoint."""
    records = _read_json(folder / COMMIT_FILE).get("records")
    try:
        if not isinstance(records, list):
            raise TypeError("records is no list")
        return tuple(types_pb2.CommitRecord(**record) for record in records)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / COMMIT_FILE} holds no commit records: {error!r}") from error


def _manifest(folder: Path) -> dict[str, object]:
    files = {
        path.relative_to(folder).as_posix(): {"size_bytes": path.stat().st_size, "blake3": hash_file(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return {"schema_version": SCHEMA_VERSION, "files": files}


def _read_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return content
