"""Reads the text files of a repository from a folder or an archive of this machine, into memory only."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from forklight_core.errors import InvalidInputError
from forklight_reward.sandbox.repo.paths import path_problem
from forklight_reward.sandbox.repo.spec import MAX_FILES, MAX_TREE_BYTES

SUFFIXES = ("", ".tar.gz", ".tgz", ".tar", ".zip")
VERSION_CONTROL = frozenset({".git", ".hg", ".svn"})
Member = tuple[str, int, bytes | None]
"""Path, size, content; None for what is no plain file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeRead:
    """The text of a tree."""

    files: dict[str, str]
    num_left_out: int
    """Links, binary files, what an interpreter makes: a task has none of them."""
    commit: str
    """The commit that the archive says it is of; often empty."""


def find_tree(folder: Path, name: str) -> Path | None:
    """A folder or archive of this name."""
    places = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
    return next((place for place in places if place.exists()), None)


def read_tree(path: Path) -> TreeRead:
    """All text files, without version control and without the one folder that archives wrap around a tree.

    InvalidInputError says what is wrong with a tree that cannot be read or is too large.
    """
    try:
        members, commit = list_members(path)
    except (OSError, tarfile.TarError, zipfile.BadZipFile, EOFError, ValueError) as error:
        raise InvalidInputError(f"tree {path} cannot be read: {error}") from error
    files: dict[str, str] = {}
    num_left_out = 0
    for name, data in without_wrapper(members, is_archive=not path.is_dir()):
        if VERSION_CONTROL & set(name.split("/")):
            continue
        text = None if data is None else as_text(data)
        if text is None or path_problem(name):
            num_left_out += 1
        else:
            files[name] = text
    return TreeRead(files=files, num_left_out=num_left_out, commit=commit)


def as_text(data: bytes) -> str | None:
    """None for what is not text."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def without_wrapper(
    members: list[tuple[str, bytes | None]], *, is_archive: bool
) -> Iterator[tuple[str, bytes | None]]:
    """Names without the folder that all members of an archive lie in."""
    tops = {name.split("/")[0] for name, _ in members}
    is_wrapped = is_archive and len(tops) == 1 and all("/" in name for name, _ in members)
    for name, data in members:
        yield (name.partition("/")[2] if is_wrapped else name), data


def list_members(path: Path) -> tuple[list[tuple[str, bytes | None]], str]:
    """Everything in a tree, within bounds, and the commit that a tar says it holds."""
    if path.is_dir():
        return bounded(folder_members(path)), ""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            commit = archive.comment.decode("ascii", "replace") if len(archive.comment) == 40 else ""
            return bounded(zip_members(archive)), commit
    with tarfile.open(path) as tar:
        found = bounded(tar_members(tar))
        return found, str(tar.pax_headers.get("comment", ""))


def bounded(members: Iterator[Member]) -> list[tuple[str, bytes | None]]:
    """As long as number and size are within what a task may have. A bomb is never unpacked."""
    found: list[tuple[str, bytes | None]] = []
    total = 0
    for name, size, data in members:
        total += size
        found.append((name.removeprefix("./"), data))
        if len(found) > MAX_FILES or total > MAX_TREE_BYTES:
            raise ValueError(f"more than {MAX_FILES} files or {MAX_TREE_BYTES} bytes")
    return found


def folder_members(folder: Path) -> Iterator[Member]:
    """Files below a folder; links are not followed."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if VERSION_CONTROL & set(name.split("/")) or (path.is_dir() and not path.is_symlink()):
            continue
        is_plain = path.is_file() and not path.is_symlink()
        size = path.stat().st_size if is_plain else 0
        yield name, size, path.read_bytes() if is_plain and size <= MAX_TREE_BYTES else None


def zip_members(archive: zipfile.ZipFile) -> Iterator[Member]:
    """Files of a zip; the size is what its table says, and reading stops there."""
    for info in archive.infolist():
        if not info.is_dir():
            is_plain = info.external_attr >> 28 in (0, 8) and info.file_size <= MAX_TREE_BYTES
            yield info.filename, info.file_size, archive.read(info) if is_plain else None


def tar_members(tar: tarfile.TarFile) -> Iterator[Member]:
    """Files of a tar."""
    for info in tar:
        if not info.isdir():
            stream = tar.extractfile(info) if info.isreg() and info.size <= MAX_TREE_BYTES else None
            yield info.name, info.size, None if stream is None else stream.read()
