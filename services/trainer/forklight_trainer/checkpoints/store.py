"""The checkpoints of a run: written whole, verified before use, pruned, and left behind when a run goes back.

checkpoints/step-00000042/
    state/           what the ranks hold: weights, moments, random state (`parts.py`); a hash beside each file
    config.json  tokenizer  run.toml
    state.json       run, lineage, step, version, steering
    commit.json      commit records since the checkpoint before
    manifest.json    size and blake3 of every file above
checkpoints/left-00000050/    of a line that the run went back from; stays until the new line has passed it
checkpoints/roll-backs.json   each time the run went back, and why
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from forklight.v1 import types_pb2
from forklight_core.errors import CheckpointError, ConfigError
from forklight_model.config import CONFIG_FILE
from forklight_model.policies import load_policy_config
from forklight_model.policy import PolicyConfig
from forklight_model.tokenizer import Tokenizer
from forklight_trainer.checkpoints.contents import (
    CheckpointState,
    read_commits,
    read_state,
    write_commits,
    write_state,
)
from forklight_trainer.checkpoints.manifest import verify_checkpoint, write_manifest
from forklight_trainer.checkpoints.retention import Retention
from forklight_trainer.checkpoints.roll_backs import RollBack, read_roll_backs, write_roll_backs
from forklight_trainer.durable import (
    canonical_json,
    remove_folder,
    rename_folder,
    staged_folder,
    sweep_leftovers,
)
from forklight_trainer.ports import Snapshot, TrainEngine

log = logging.getLogger(__name__)

RUN_FILE = "run.toml"
STEP, LEFT = "step", "left"
FOLDER = re.compile(r"(step|left)-(\d{8,})")


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
    config: PolicyConfig
    tokenizer: Tokenizer
    retention: Retention

    def write(
        self, snapshot: Snapshot, state: CheckpointState, commits: Sequence[types_pb2.CommitRecord]
    ) -> Path:
        """A durable folder of all of it. May be called from any thread, one at a time."""
        target = self._path(STEP, state.step)
        with staged_folder(target) as staging:
            staging.mkdir()
            snapshot.write(staging)
            (staging / CONFIG_FILE).write_bytes(canonical_json(self.config.to_published()))
            self.tokenizer.save(staging)
            shutil.copyfile(self.run_file, staging / RUN_FILE)
            write_state(staging, state)
            write_commits(staging, state, commits)
            write_manifest(staging)
        return target

    def prune(self, *, needed: Collection[int] = ()) -> None:
        """Remove what the run file does not keep, but nothing that a needed step goes on from."""
        steps = self.list_steps()
        for step in set(steps) - self.retention.choose(steps, needed=needed):
            remove_folder(self._path(STEP, step))
        for step in self.list_left():
            if steps and step <= steps[-1]:
                remove_folder(self._path(LEFT, step))

    def restore_latest(self, engine: TrainEngine, run_id: str) -> Restored | None:
        """Take over the newest sound checkpoint; None when there is none, an error when none is sound."""
        sweep_leftovers(self.folder)
        self._leave_as_decided()
        steps = self.list_steps()
        newest = self.find_sound()
        if newest is None:
            if steps:
                raise CheckpointError(
                    f"none of the {len(steps)} checkpoints in {self.folder} is sound; check the disk, and "
                    "remove the folder if the run is to start over"
                )
            return None
        restored = self._take_over(engine, newest, run_id)
        self._leave_behind(newest)
        return restored

    def find_sound(self, *, most: int | None = None) -> int | None:
        """The newest step, up to `most`, whose checkpoint is what its manifest says."""
        for step in reversed(self.list_steps()):
            if most is not None and step > most:
                continue
            try:
                verify_checkpoint(self._path(STEP, step))
            except CheckpointError as error:
                log.error(
                    "checkpoint refused, trying the one before", extra={"step": step, "reason": str(error)}
                )
                continue
            return step
        return None

    def go_back(self, roll_back: RollBack) -> None:
        """Decide for good that the run goes on from an older checkpoint. What lies beyond is left behind."""
        write_roll_backs(self.folder, [*self.roll_backs(), roll_back])
        self._leave_as_decided()

    def roll_backs(self) -> tuple[RollBack, ...]:
        """Each time the run went back, oldest first."""
        return read_roll_backs(self.folder)

    def list_steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending; not verified."""
        return self._list(STEP)

    def list_left(self) -> list[int]:
        """Steps of checkpoints that were left behind, ascending."""
        return self._list(LEFT)

    def _take_over(self, engine: TrainEngine, step: int, run_id: str) -> Restored:
        """A sound checkpoint that does not fit the run is an error: older ones would not fit either."""
        folder = self._path(STEP, step)
        state = read_state(folder)
        if (state.run_id, state.step) != (run_id, step):
            raise CheckpointError(
                f"{folder} holds step {state.step} of run {state.run_id!r}, expected step {step} of "
                f"{run_id!r}: it was copied here; move it away, or start a new run with model.path set to it"
            )
        check_architecture(folder, engine.config)
        commits = read_commits(folder)
        engine.restore(folder)
        return Restored(state=state, commits=commits)

    def _leave_as_decided(self) -> None:
        """The last roll back, if a crash came in between."""
        roll_backs = self.roll_backs()
        if roll_backs and not roll_backs[-1].is_done:
            self._leave_behind(roll_backs[-1].to_step)
            write_roll_backs(self.folder, [*roll_backs[:-1], roll_backs[-1].done()])

    def _leave_behind(self, newest: int) -> None:
        for step in reversed(self.list_steps()):
            if step > newest:
                log.warning("checkpoint is left behind", extra={"step": step, "run_goes_on_from": newest})
                rename_folder(self._path(STEP, step), self._path(LEFT, step))

    def _list(self, kind: str) -> list[int]:
        if not self.folder.is_dir():
            return []
        names = (FOLDER.fullmatch(path.name) for path in self.folder.iterdir() if path.is_dir())
        return sorted(int(found[2]) for found in names if found and found[1] == kind)

    def _path(self, kind: str, step: int) -> Path:
        return self.folder / f"{kind}-{step:08d}"


def check_architecture(folder: Path, config: PolicyConfig) -> None:
    """CheckpointError that names what differs between a checkpoint's model and the run's."""
    try:
        found = load_policy_config(folder).to_published()
    except ConfigError as error:
        raise CheckpointError(f"{folder} is of a model that this build does not run: {error}") from error
    wanted = config.to_published()
    names = [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
    if names:
        differences = "; ".join(
            f"{name} is {found.get(name)!r}, the run's model has {wanted.get(name)!r}" for name in names[:4]
        )
        raise CheckpointError(
            f"{folder} is of another architecture: {differences}. Set model.path or model.size back to what "
            "the run was started with, or start a new run"
        )
