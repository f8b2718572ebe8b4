"""The small files of a checkpoint: where the run stood (state.json), what was learned since (commit.json)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from forklight.v1 import types_pb2
from forklight_core.errors import CheckpointError
from forklight_trainer.checkpoints.reading import read_json
from forklight_trainer.durable import canonical_json

SCHEMA_VERSION = 2
STATE_FILE = "state.json"
COMMIT_FILE = "commit.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointState:
    """Where a checkpoint stands."""

    run_id: str
    lineage: str
    step: int
    version: int
    contract: str = ""
    """Numeric contract of the trainer that wrote it."""
    steering: Mapping[str, object] = field(default_factory=dict)
    """What the steering remembers: a JSON object of its own, passed through."""
    schedule: Mapping[str, object] = field(default_factory=dict)
    """Likewise of schedules that have a position of their own."""


def write_state(folder: Path, state: CheckpointState) -> None:
    content = {"schema_version": SCHEMA_VERSION, **asdict(state)}
    (folder / STATE_FILE).write_bytes(canonical_json(content))


def read_state(folder: Path) -> CheckpointState:
    """Where a checkpoint stands; CheckpointError when it says what this build does not know."""
    path = folder / STATE_FILE
    content = dict(read_json(path))
    version = content.pop("schema_version", None)
    known = {each.name for each in fields(CheckpointState)}
    if unknown := sorted(content.keys() - known):
        raise CheckpointError(
            f"{path} has {', '.join(unknown)} (schema version {version}), which this build does not know: a "
            "newer release wrote it; go on with that release, or remove the folder to take the one before"
        )
    try:
        return CheckpointState(
            run_id=str(content["run_id"]),
            lineage=str(content["lineage"]),
            step=int(str(content["step"])),
            version=int(str(content["version"])),
            contract=str(content.get("contract", "")),
            steering=_object(content, "steering"),
            schedule=_object(content, "schedule"),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is not a checkpoint's state: {error!r}") from error


def write_commits(folder: Path, state: CheckpointState, commits: Sequence[types_pb2.CommitRecord]) -> None:
    """The records since the checkpoint before; the buffer's audit reads them too."""
    records = [
        {"lineage": c.lineage, "step": c.step, "batch_id": c.batch_id, "sample_ids": list(c.sample_ids)}
        for c in commits
    ]
    content = {"schema_version": 1, "lineage": state.lineage, "step": state.step, "records": records}
    (folder / COMMIT_FILE).write_bytes(canonical_json(content))


def read_commits(folder: Path) -> tuple[types_pb2.CommitRecord, ...]:
    """The commit records of a checkpoint."""
    records = read_json(folder / COMMIT_FILE).get("records")
    try:
        if not isinstance(records, list):
            raise TypeError("records is no list")
        return tuple(types_pb2.CommitRecord(**record) for record in records)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / COMMIT_FILE} holds no commit records: {error!r}") from error


def _object(content: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = content.get(name, {})
    if not isinstance(value, dict):
        raise TypeError(f"{name} is no JSON object")
    return value
