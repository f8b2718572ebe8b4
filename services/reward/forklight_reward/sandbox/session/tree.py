"""What a session's folder holds: read from a request, filtered after a command, or as a patch."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping

from forklight_core.errors import InvalidInputError
from forklight_reward.sandbox.repo.paths import path_problem

Tree = Mapping[str, bytes]

MAX_TREE_BYTES = 64 * 2**20
MAX_TREE_FILES = 20_000
MAX_SHOWN_BYTES = 2**20
"""Of a file in a patch; a larger one is left out."""
PASSING = frozenset({"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".git", ".hg"})
"""Folders that tools leave behind; nothing of them is kept."""


def read_workspace(text: str) -> dict[str, bytes]:
    """The files that a session begins with. InvalidInputError for what is no tree."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"session: the workspace is not JSON ({error})") from error
    if not isinstance(found, dict) or not all(isinstance(body, str) for body in found.values()):
        raise InvalidInputError("session: the workspace must be an object of path to text")
    if len(found) > MAX_TREE_FILES or len(text) > MAX_TREE_BYTES:
        raise InvalidInputError(
            f"session: the workspace has more than {MAX_TREE_FILES} files or {MAX_TREE_BYTES} bytes"
        )
    for path in found:
        if problem := path_problem(path):
            raise InvalidInputError(f"session: workspace path {path[:100]!r} {problem}")
    return {path: body.encode("utf-8", "replace") for path, body in found.items()}


def keep(collected: Mapping[str, bytes], folder: str) -> dict[str, bytes]:
    """What stays of a collected folder: files that a tree may have, under their own names."""
    found = {}
    for path, body in collected.items():
        name = path.removeprefix(f"{folder}/")
        if name != path and not PASSING & set(name.split("/")) and not path_problem(name):
            found[name] = body
    return found


def changes_between(before: Tree, after: Tree) -> str:
    """A unified diff, empty when nothing has changed. Files that are no text are left out."""
    parts = []
    for path in sorted({*before, *after}):
        old, new = read_text(before.get(path)), read_text(after.get(path))
        if old is None or new is None or before.get(path) == after.get(path):
            continue
        parts += [f"diff --git {quoted('a/' + path)} {quoted('b/' + path)}\n"]
        parts += [] if path in before else ["new file mode 100644\n"]
        parts += [] if path in after else ["deleted file mode 100644\n"]
        parts += file_diff(path, old, new, is_old=path in before, is_new=path in after)
    return "".join(parts)


def read_text(body: bytes | None) -> str | None:
    """A file as text, empty where there is none; None for what no patch shows."""
    if body is None:
        return ""
    if len(body) > MAX_SHOWN_BYTES or b"\0" in body:
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def file_diff(path: str, old: str, new: str, *, is_old: bool, is_new: bool) -> Iterator[str]:
    """The hunks of one file, with the mark of a missing last newline."""
    name = quoted("a/" + path) if is_old else "/dev/null"
    new_name = quoted("b/" + path) if is_new else "/dev/null"
    for line in difflib.unified_diff(lines_of(old), lines_of(new), name, new_name):
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def lines_of(text: str) -> list[str]:
    """Lines as a patch counts them: ended by a newline and by nothing else."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def quoted(path: str) -> str:
    """A path as it stands in a header of a patch."""
    if all(character.isprintable() and character not in '"\\' for character in path) and path.isascii():
        return path
    escaped = "".join(
        f"\\{byte:03o}" if byte < 32 or byte > 126 or byte in b'"\\' else chr(byte) for byte in path.encode()
    )
    return f'"{escaped}"'


def fenced(patch: str) -> str:
    """A patch as an answer, in a fence that nothing in it can close."""
    longest = max((len(run) for run in re.findall(r"~+", patch)), default=0)
    fence = "~" * max(3, longest + 1)
    return f"{fence}diff\n{patch}{fence}\n"
