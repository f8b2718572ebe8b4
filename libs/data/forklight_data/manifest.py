"""What a step did: to which bytes, by which code and parameters, what stayed, what went and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import blake3

from forklight_core.errors import InvalidInputError
from forklight_core.whole_files import WholeFile, named_errors
from forklight_data.record import Json, read_json, write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What decides a step's output: the same task gives the same bytes."""

    step: str
    code_version: str
    rules: str
    parameters: Json
    input_digest: str


@dataclass(slots=True, kw_only=True)
class Manifest:
    """A task and what came of it. No times, no paths: the same task gives the same manifest."""

    task: Task
    num_input: int
    num_kept: int
    output_digest: str
    num_dropped: int
    dropped_digest: str
    dropped_by_reason: dict[str, int] = field(default_factory=dict)
    notes: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFiles:
    """The three files of a step in the folder of a curation."""

    records: Path
    dropped: Path
    manifest: Path


def files_of(folder: Path, number: int, step: str) -> StepFiles:
    """Numbered by the order of all steps, so that leaving one out renames none."""
    stem = f"{number:02d}_{step}"
    return StepFiles(
        records=folder / f"{stem}.jsonl",
        dropped=folder / f"{stem}.dropped.jsonl",
        manifest=folder / f"{stem}.manifest.json",
    )


def write_manifest(manifest: Manifest, path: Path) -> None:
    """One JSON object."""
    with WholeFile(path) as file:
        file.write(write_json(asdict(manifest)).encode() + b"\n")


def read_manifest(path: Path) -> Manifest | None:
    """None when there is none, or it is not one of ours."""
    if not path.is_file():
        return None
    with named_errors(path):
        text = path.read_bytes()
    try:
        found = read_json(text)
        assert isinstance(found, dict)
        return Manifest(**{**found, "task": Task(**found["task"])})  # type: ignore[arg-type]
    except (InvalidInputError, TypeError, KeyError, AssertionError):
        return None


@lru_cache(maxsize=1)
def code_version() -> str:
    """The release, and the hash of every source file of the package."""
    root = Path(__file__).parent
    digest = blake3.blake3()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return f"forklight-data {version('forklight-data')} {digest.hexdigest()[:16]}"


def count_reasons(reasons: Counter[str]) -> dict[str, int]:
    """Sorted, for the same bytes."""
    return dict(sorted(reasons.items()))
