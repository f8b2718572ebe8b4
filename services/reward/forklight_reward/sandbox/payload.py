"""A job as the bytes that a jail reads: a plan, then the files it names, one behind the other."""

from __future__ import annotations

import json
import marshal
from pathlib import PurePosixPath

from forklight_core.errors import InvalidInputError
from forklight_reward.sandbox.runner import Job, JobKind

SOURCE_NAME = "main.py"
PLAN_FORMAT = 2
"""Of marshal, which the interpreter has built in: json would cost every jail milliseconds of imports."""


def pack_payload(job: Job, command: tuple[str, ...], limits: dict[str, int]) -> bytes:
    """All that a jail must know of its job but the input. InvalidInputError when a path leaves the folder."""
    files = dict(job.files)
    if job.kind is not JobKind.COMMAND:
        files[SOURCE_NAME] = job.source
    for name in [*files, *job.collect]:
        check_path(name)
    plan = {
        "kind": job.kind.value,
        "entry": job.entry,
        "command": list(command),
        "environment": dict(job.environment),
        "collect": list(job.collect),
        "limits": limits,
        "files": [[name, len(data)] for name, data in files.items()],
    }
    return b"".join([marshal.dumps(plan, PLAN_FORMAT), *files.values()])


def check_path(name: str) -> None:
    """Refuse what does not lie below the working folder."""
    path = PurePosixPath(name)
    if not name or "\0" in name or path.is_absolute() or ".." in path.parts:
        raise InvalidInputError(
            f"sandbox: {name!r} is no place for a job's file: give a relative path without '..'"
        )


def unpack_files(report: bytes) -> dict[str, bytes]:
    """The files in a report; what cannot be read as such ends the reading."""
    files: dict[str, bytes] = {}
    position = 0
    while (end := report.find(b"\n", position)) >= 0:
        try:
            head = json.loads(report[position:end])
            name, size = str(head["file"]), int(head["size"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            break
        if size < 0 or end + 1 + size > len(report):
            break
        files[name] = report[end + 1 : end + 1 + size]
        position = end + 1 + size
    return files
