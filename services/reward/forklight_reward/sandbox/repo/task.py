"""Repository tasks as people keep them: one readable file each, with the issue and the known fix."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError

from forklight_core.errors import InvalidInputError
from forklight_reward.sandbox.repo.spec import RepoTests

FOLDER = Path(__file__).with_name("tasks")
MAX_TASK_BYTES = 256 * 2**20
MAX_ISSUE_CHARACTERS = 100_000
LIMITS: dict[str, float] = {"cpu_s": 10, "wall_s": 30}
"""Of one run: generous on the clock, since a neighbour's load is no fault of a patch."""

PROMPT = """You are given a repository and an issue about it. Mend the repository so that the issue \
is settled and everything else works as before.

# Issue

{issue}

# Repository

{listing}

Answer with one unified diff (lines `--- a/path` and `+++ b/path`, then hunks with exact context) \
in a fence that begins with ```diff. Tests that you cannot see decide. Configuration and existing \
tests stay as they are, whatever the diff says of them.
"""

SHELL_PROMPT = """You are given a repository and an issue about it. Mend the repository so that the issue \
is settled and everything else works as before.

# Issue

{issue}

# Repository

Your shell begins in it; its files are

{listing}

Call the tool `shell` with one command line at a time: look around, change files, try what you have \
done. What a command changes stays. End your answer when you are done: what the repository holds \
then is judged, by tests that you cannot see. Configuration and existing tests stay as they are, \
whatever you do to them.
"""


class RepoTask(BaseModel):
    """A fault, how a user tells of it, how it is proven and how it was mended."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,150}$")]
    issue: Annotated[str, StringConstraints(min_length=1, max_length=MAX_ISSUE_CHARACTERS)]
    """As a user would write it."""
    fix: Annotated[str, StringConstraints(min_length=1)]
    """The known fix, a unified diff. Never part of a prompt or of a spec."""
    tests: RepoTests
    origin: dict[str, str] = Field(default_factory=dict)
    """Where an imported task comes from: repository, commit, image."""
    limits: dict[str, float] = Field(default_factory=dict)
    """Limits of one run, where the usual ones do not do."""

    def spec(self) -> dict[str, JsonValue]:
        """What the reward service judges by: no fix, no patch."""
        tests = self.tests.model_dump(exclude={"patch"})
        limits: dict[str, JsonValue] = {**LIMITS, **self.limits}
        return {"mode": "repo", "language": "python", "tests": tests, "limits": limits}

    def prompt(self) -> str:
        """What the policy reads: the issue and the faulty tree, no hidden test."""
        parts = [f"## {path}\n\n{fenced(text)}" for path, text in sorted(self.tests.files.items())]
        return PROMPT.format(issue=self.issue.strip(), listing="\n\n".join(parts))

    def shell_prompt(self) -> str:
        """The same for a policy with a shell, which reads the files itself."""
        return SHELL_PROMPT.format(issue=self.issue.strip(), listing="\n".join(sorted(self.tests.files)))


def fenced(text: str) -> str:
    """A file in a fence longer than any in it."""
    longest = max((len(mark) for mark in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}\n{text}{'' if text.endswith(chr(10)) or not text else chr(10)}{fence}"


def prompt_row(task: RepoTask, *, with_shell: bool = False) -> Mapping[str, JsonValue]:
    """A row of a prompt file. With a shell its files come as the workspace, else in the prompt."""
    files: dict[str, JsonValue] = dict(task.tests.files)
    return {
        "id": f"repo-{task.id}",
        "prompt": task.shell_prompt() if with_shell else task.prompt(),
        "kind": "code",
        "gold": "",
        "spec": task.spec(),
        **({"workspace": files, "tools": ["shell"]} if with_shell else {}),
    }


def load_task(path: Path) -> RepoTask:
    """Read and check a task file (TOML, or JSON with the same keys)."""
    try:
        if path.stat().st_size > MAX_TASK_BYTES:
            raise InvalidInputError(f"task {path} is larger than {MAX_TASK_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
        raw = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"task {path} cannot be read: {error}") from error
    try:
        return RepoTask.model_validate(raw)
    except ValidationError as error:
        where = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:5])
        raise InvalidInputError(f"task {path}: {where}") from error


def packaged_names() -> list[str]:
    """Names of the tasks that come with this package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def find_task(name: str) -> RepoTask:
    """A task of this package by its name, or one in a file of one's own."""
    if name in packaged_names():
        return load_task(FOLDER / f"{name}.toml")
    path = Path(name)
    if path.suffix in (".toml", ".json"):
        return load_task(path)
    raise InvalidInputError(
        f"there is no task {name!r}: give a path that ends in .toml or .json, or one of "
        f"{', '.join(packaged_names())}"
    )
