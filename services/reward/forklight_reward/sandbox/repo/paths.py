"""Which paths a repository task may hold, and which of them a patch cannot change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

MAX_PATH_BYTES = 400
MAX_PART_BYTES = 200
CONFIG_NAMES = frozenset(
    {
        "conftest.py", "pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "tox.ini", "setup.cfg",
        "pyproject.toml", "sitecustomize.py", "usercustomize.py",
    }
)  # fmt: skip
TEST_FOLDERS = frozenset({"test", "tests", "testing"})
GIT_NAMES = frozenset({"git", "gitmodules", "git~1"})


def path_problem(path: str) -> str:
    """Why a path may not be in a tree; empty when it may."""
    if not path or len(path.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        return "is empty or too long"
    if any(ord(letter) < 32 or ord(letter) == 127 or 0xD800 <= ord(letter) < 0xE000 for letter in path):
        return "has a control character or half a letter"
    if path.startswith("/") or "\\" in path:
        return "is absolute or has a backslash"
    for part in path.split("/"):
        if part in ("", ".", "..") or len(part.encode()) > MAX_PART_BYTES:
            return "has an empty, '.', '..' or overlong part"
        if part.casefold().strip(". ") in GIT_NAMES:
            return "is in the version control's own folder"
        if part == "__pycache__" or part.endswith((".pyc", ".pyo", ".pth", ".so")):
            return "is made by an interpreter or compiler, not written"
    return ""


def folders_of(path: str) -> list[str]:
    """Every folder above a path."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: depth + 1]) for depth in range(len(parts))]


def clash_in(paths: Iterable[str]) -> str:
    """A path that is a file and a folder at once; empty when there is none."""
    known = set(paths)
    return next((folder for path in sorted(known) for folder in folders_of(path) if folder in known), "")


def test_folder_of(path: str) -> str | None:
    """The topmost folder of tests that a test file lies in."""
    return next((folder for folder in folders_of(path) if folder.rpartition("/")[2] in TEST_FOLDERS), None)


@dataclass(frozen=True, slots=True)
class Protection:
    """What stays as the task has it, whatever a patch says."""

    trusted: frozenset[str]
    """Files of the task's own tree."""
    exact: frozenset[str]
    """Hidden tests and the files that the ids name."""
    folders: tuple[str, ...]
    """Folders of tests: their files are trusted, new ones may come."""

    def holds(self, path: str) -> bool:
        """True when a patch cannot change this path."""
        if path.rpartition("/")[2].casefold() in CONFIG_NAMES or path in self.exact:
            return True
        return path in self.trusted and any(path.startswith(folder + "/") for folder in self.folders)


def protect(files: Iterable[str], hidden: Iterable[str], test_files: Iterable[str]) -> Protection:
    """The protection of a task."""
    exact = frozenset(hidden) | frozenset(test_files)
    folders = {folder for path in exact if (folder := test_folder_of(path)) is not None}
    return Protection(frozenset(files), exact, tuple(sorted(folders)))
