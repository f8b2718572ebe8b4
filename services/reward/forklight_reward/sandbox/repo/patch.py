"""Makes the patched tree from an answer, in the trusted process and on text: no tool, no file of this
machine and no version control takes part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from forklight_reward.sandbox.repo.diff import (
    FileChange,
    ForbiddenPatchError,
    Hunk,
    MalformedPatchError,
    read_diff,
)
from forklight_reward.sandbox.repo.paths import Protection, clash_in, path_problem

MAX_PATCH_BYTES = 2**19
MAX_CHANGED_FILES = 64
MAX_FILE_BYTES = 2**20
MAX_GROWTH = 2**20
"""Characters that a tree may gain: copies cost a patch one line, however large the file."""
MAX_HUNKS = 2000
MAX_SHIFT_LINES = 5000
MAX_SEARCH = 2_000_000
"""Line comparisons that looking for moved hunks may cost altogether."""

FENCE = re.compile(r"^(`{3,}|~{3,})[ \t]*([\w+-]*)[ \t]*$")
"""At the margin only: a line of a diff never begins there with a mark of a fence."""
DIFF_NAMES = frozenset({"diff", "patch", "udiff"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Patched:
    """The tree with the patch, and what of the patch did not count."""

    tree: Mapping[str, str]
    ignored: tuple[str, ...]


def find_patch(answer: str) -> str:
    """The last closed fence that holds a diff, else the whole text."""
    found, mark, language = "", "", ""
    body: list[str] = []
    for line in answer.split("\n"):
        fence = FENCE.match(line.removesuffix("\r"))
        if not mark:
            if fence:
                mark, language, body = fence[1], fence[2].casefold(), []
        elif fence and not fence[2] and fence[1].startswith(mark):
            text = "".join(part + "\n" for part in body)
            if language in DIFF_NAMES or (not language and "\n+++ " in "\n" + text):
                found = text
            mark = ""
        else:
            body.append(line)
    return found or answer


def apply_answer(answer: str, files: Mapping[str, str], protection: Protection) -> Patched:
    """The patched tree. MalformedPatchError: not a diff, or it does not fit; ForbiddenPatchError: it asks
    for what no patch may do.
    """
    text = find_patch(answer)
    if len(text.encode("utf-8", "surrogatepass")) > MAX_PATCH_BYTES:
        raise ForbiddenPatchError(f"the patch is larger than {MAX_PATCH_BYTES} bytes")
    changes = read_diff(text)
    check_changes(changes)
    tree, ignored, budget, growth = dict(files), [], SearchBudget(MAX_SEARCH), 0
    for change in changes:
        names = [name for name in (change.old, change.new) if name is not None]
        is_held = any(protection.holds(name) for name in names)
        if is_held:
            ignored.append(change.name)
        else:
            growth += apply_change(change, tree, budget)
        if growth > MAX_GROWTH:
            raise ForbiddenPatchError(f"the tree would gain more than {MAX_GROWTH} characters")
    if clash := clash_in([*tree, *protection.exact]):
        raise ForbiddenPatchError(f"{clash!r} would be a file and a folder")
    return Patched(tree=tree, ignored=tuple(ignored))


def check_changes(changes: list[FileChange]) -> None:
    """Paths, counts and sizes."""
    if len(changes) > MAX_CHANGED_FILES:
        raise ForbiddenPatchError(f"the patch changes more than {MAX_CHANGED_FILES} files")
    if sum(len(change.hunks) for change in changes) > MAX_HUNKS:
        raise ForbiddenPatchError(f"the patch has more than {MAX_HUNKS} hunks")
    for change in changes:
        for name in (change.old, change.new):
            if name is not None and (problem := path_problem(name)):
                raise ForbiddenPatchError(f"path {name[:100]!r} {problem}")


def apply_change(change: FileChange, tree: dict[str, str], budget: SearchBudget) -> int:
    """One file's changes; how many characters the tree has gained."""
    if change.old is None:
        if change.new in tree:
            raise MalformedPatchError(f"{change.name} is to be made, but the tree has it")
        before = ""
    elif change.old in tree:
        before = tree[change.old]
    else:
        raise MalformedPatchError(f"{change.old} is to be changed, but the tree does not have it")
    after = apply_hunks(before, change.hunks, budget)
    if len(after) > MAX_FILE_BYTES and len(after) > len(before):
        raise ForbiddenPatchError(f"{change.name} would be larger than {MAX_FILE_BYTES} characters")
    if change.new is None and after:
        raise MalformedPatchError(f"{change.old} is to be deleted, but lines of it are left")
    if change.old != change.new and change.old is not None and change.new is not None and change.new in tree:
        raise MalformedPatchError(f"{change.old} is to become {change.new}, but the tree has that already")
    gain = 0
    if change.old is not None and not change.is_copy:
        gain -= len(tree.pop(change.old))
    if change.new is not None:
        tree[change.new] = after
        gain += len(after)
    return gain


@dataclass(slots=True)
class SearchBudget:
    """What is left of the work that looking for hunks may cost."""

    left: int

    def spend(self, cost: int) -> None:
        """ForbiddenPatchError when nothing is left."""
        self.left -= cost
        if self.left < 0:
            raise ForbiddenPatchError("finding where the hunks belong takes too much work")


def apply_hunks(text: str, hunks: list[Hunk], budget: SearchBudget) -> str:
    """Each hunk where its old lines stand, exactly; nearest to where it says, after the hunk before it."""
    lines = text.split("\n")
    lines = [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    out: list[str] = []
    done, shift = 0, 0
    for hunk in hunks:
        wanted = hunk.old_start - 1 if hunk.old else hunk.old_start
        start = find_lines(lines, hunk, wanted + shift, done, budget)
        out += lines[done:start] + hunk.new
        done, shift = start + len(hunk.old), start - wanted
    out += lines[done:]
    for line in out[:-1]:
        if not line.endswith("\n"):
            raise MalformedPatchError(f"{hunks[-1].header}: a line without newline is not the last one")
    return "".join(out)


def find_lines(lines: list[str], hunk: Hunk, wanted: int, first: int, budget: SearchBudget) -> int:
    """Index of the hunk's old lines in the file."""
    last = len(lines) - len(hunk.old)
    if not hunk.old:
        if first <= wanted <= last:
            return wanted
        raise MalformedPatchError(f"{hunk.header} inserts after line {hunk.old_start}, which is not there")
    for distance in range(MAX_SHIFT_LINES + 1):
        if wanted - distance < first and wanted + distance > last:
            break
        for start in dict.fromkeys((wanted + distance, wanted - distance)):
            if first <= start <= last:
                budget.spend(1)
                if lines[start] == hunk.old[0]:
                    budget.spend(len(hunk.old))
                    if lines[start : start + len(hunk.old)] == hunk.old:
                        return start
    raise MalformedPatchError(
        f"{hunk.header} does not apply: its {len(hunk.old)} old lines, beginning with "
        f"{hunk.old[0].strip()[:60]!r}, stand nowhere near line {hunk.old_start} of the file"
    )
