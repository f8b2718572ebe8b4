"""Folders that appear whole or not at all, and stay after power is lost."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import blake3

from forklight_core.errors import BusyError

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """A path to fill; when the block ends well its folder takes the target's name, else nothing remains."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        yield staging
        sync_tree(staging)
        _swap_in(staging, target)
    except OSError as error:
        if error.errno in FULL:
            raise BusyError(
                f"no room to write {target}: {error.strerror}; free disk space, it is tried again"
            ) from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Delete a folder; a crash in between leaves a hidden rest, never half a folder under its name."""
    hidden = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def sweep_leftovers(parent: Path) -> None:
    """Remove what a killed process left half written."""
    for path in parent.glob(".*") if parent.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """Flush every file and every folder below to the disk."""
    for path in sorted(folder.rglob("*")):
        _sync(path)
    _sync(folder)


def write_file(path: Path, data: bytes) -> None:
    """Replace a file in one step, flushed."""
    staging = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    staging.write_bytes(data)
    _sync(staging)
    staging.replace(path)
    _sync(path.parent)


def canonical_json(content: Mapping[str, object]) -> bytes:
    """The same content always gives the same bytes."""
    return (json.dumps(content, sort_keys=True, separators=(",", ":")) + "\n").encode()


def hash_file(path: Path) -> str:
    """blake3 of a file, hex."""
    return blake3.blake3().update_mmap(path).hexdigest()


def _swap_in(staging: Path, target: Path) -> None:
    if target.exists():
        remove_folder(target)
    staging.rename(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
