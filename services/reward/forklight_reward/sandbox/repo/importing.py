"""Makes tasks of records like SWE-bench's, or says for each why not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue, ValidationError

from forklight_core.errors import InvalidInputError
from forklight_core.whole_files import WholeFile
from forklight_reward.sandbox.repo.diff import ForbiddenPatchError, MalformedPatchError, read_diff
from forklight_reward.sandbox.repo.patch import (
    MAX_SEARCH,
    SearchBudget,
    apply_answer,
    apply_change,
    check_changes,
)
from forklight_reward.sandbox.repo.task import RepoTask
from forklight_reward.sandbox.repo.trees import find_tree, read_tree

NEEDED = ("repo", "instance_id", "base_commit", "patch", "test_patch", "problem_statement")
IMAGE_KEYS = ("image", "image_digest", "rootfs", "rootfs_digest")
TREE_KEYS = ("archive", "tree")
DIGEST = re.compile(r"(?:[\w./:-]+@)?sha256:[0-9a-f]{64}")
Record = Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A record that became no task."""

    record: str
    reason: str


@dataclass(slots=True)
class Summary:
    """What became of a file of records."""

    num_written: int = 0
    refused: list[Refusal] = field(default_factory=list)


def import_file(records: Path, out: Path, trees: Path) -> Summary:
    """Write a task file for every record that can be one. Nothing is fetched."""
    summary, seen = Summary(), set()
    try:
        lines = records.read_text(encoding="utf-8").split("\n")
        out.mkdir(parents=True, exist_ok=True)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"records {records} or folder {out}: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name = f"line {number}"
        try:
            record = read_record(line)
            name = str(record["instance_id"])
            if name in seen:
                raise InvalidInputError("an earlier record has the same instance_id")
            task = make_task(record, trees)
            seen.add(name)
        except InvalidInputError as error:
            summary.refused.append(Refusal(record=name, reason=str(error)))
            continue
        write_task(task, out / f"{task.id}.json")
        summary.num_written += 1
    return summary


def write_task(task: RepoTask, path: Path) -> None:
    """The file, whole or not at all."""
    with WholeFile(path) as file:
        file.write(json.dumps(task.model_dump(exclude_defaults=True), indent=1).encode() + b"\n")


def read_record(line: str) -> Record:
    """A record with everything that a task is made of."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"not JSON: {error}") from error
    if not isinstance(record, dict):
        raise InvalidInputError("not a JSON object")
    for key in NEEDED:
        if not isinstance(record.get(key), str) or not record[key].strip():
            raise InvalidInputError(f"has no {key}")
    return record


def read_ids(record: Record, key: str) -> list[str]:
    """A list of ids, or the JSON text of one, as some files have it."""
    found = record.get(key)
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except ValueError as error:
            raise InvalidInputError(f"{key} is not a list of ids: {error}") from error
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise InvalidInputError(f"{key} is not a list of ids")
    return [str(item) for item in found]


def image_of(record: Record) -> str:
    """The image by its digest; a name alone may mean another image tomorrow."""
    for key in IMAGE_KEYS:
        value = record.get(key)
        if value:
            if not isinstance(value, str) or DIGEST.fullmatch(value) is None:
                raise InvalidInputError(f"{key} {str(value)[:80]!r} has no digest (name@sha256:...)")
            return value
    return ""


def tree_of(record: Record, trees: Path) -> tuple[dict[str, str], str]:
    """The faulty tree, from an archive or folder of this machine, and how many files were left out."""
    named = next((str(record[key]) for key in TREE_KEYS if record.get(key)), "")
    place: Path | None = trees / named if named else find_tree(trees, str(record["instance_id"]))
    if place is None or not place.exists():
        raise InvalidInputError(
            f"there is no tree {named or record['instance_id']} in {trees}: put a folder or archive of the "
            "repository at base_commit there"
        )
    found = read_tree(place)
    if found.commit and found.commit != record["base_commit"]:
        raise InvalidInputError(f"tree {place.name} is of commit {found.commit}, not {record['base_commit']}")
    if not found.files:
        raise InvalidInputError(f"tree {place.name} has no text file")
    return found.files, str(found.num_left_out)


def apply_test_patch(text: str, files: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The tree without tests that the patch removes, and the files that it writes."""
    try:
        changes, tree, budget = read_diff(text), dict(files), SearchBudget(MAX_SEARCH)
        check_changes(changes)
        for change in changes:
            apply_change(change, tree, budget)
    except (MalformedPatchError, ForbiddenPatchError) as error:
        raise InvalidInputError(f"test_patch: {error}") from error
    hidden = {path: body for path, body in tree.items() if files.get(path) != body}
    return {path: body for path, body in files.items() if path in tree}, hidden


def make_task(record: Record, trees: Path) -> RepoTask:
    """The task of a record. InvalidInputError says what is missing or wrong."""
    origin = {"repo": str(record["repo"]), "commit": str(record["base_commit"])}
    if image := image_of(record):
        origin["image"] = image
    f2p, p2p = read_ids(record, "FAIL_TO_PASS"), read_ids(record, "PASS_TO_PASS")
    files, origin["num_left_out"] = tree_of(record, trees)
    files, hidden = apply_test_patch(str(record["test_patch"]), files)
    fields: dict[str, JsonValue] = {
        "id": record["instance_id"],
        "issue": record["problem_statement"],
        "fix": record["patch"],
        "tests": {"files": dict(files), "hidden": dict(hidden), "f2p": [*f2p], "p2p": [*p2p]},
        "origin": dict(origin),
    }
    try:
        task = RepoTask.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInputError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    try:
        apply_answer(task.fix, task.tests.files, task.tests.protection)
    except (MalformedPatchError, ForbiddenPatchError) as error:
        raise InvalidInputError(f"patch: {error}") from error
    return task
