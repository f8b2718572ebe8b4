"""Folders that appear whole or not at all, and stay after power is lost."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import blake3
from safetensors import SafetensorError

from forklight_core.errors import BusyError

FULL = (errno.ENOSPC, errno.EDQUOT)
OS_ERROR = re.compile(r"\(os error (\d+)\)")
SMALL_BYTES = 16 * 1024**2


@contextmanager
def staged_folder(target: Path, *, is_flushed: bool = True) -> Iterator[Path]:
    """A path to fill; when the block ends well its folder takes the target's name, else nothing remains.

    Not flushed, it may be torn after power is lost: for what is proven before it is used.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        yield staging
        if is_flushed:
            sync_tree(staging)
        rename_folder(staging, target)
    except (OSError, SafetensorError) as error:
        if _errno_of(error) in FULL:
            raise BusyError(
                f"no room to write {target}: {error}; free disk space, it is tried again"
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
        else:
            path.unlink(missing_ok=True)


def rename_folder(folder: Path, target: Path) -> None:
    """Give a folder another name, for good; what had that name goes first."""
    if target.exists():
        remove_folder(target)
    folder.rename(target)
    sync_path(target.parent)


def sync_tree(folder: Path) -> None:
    """Flush every file and every folder below to the disk."""
    for path in sorted(folder.rglob("*")):
        sync_path(path)
    sync_path(folder)


def sync_path(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_file(path: Path, data: bytes) -> None:
    """Replace a file in one step, flushed."""
    staging = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    staging.write_bytes(data)
    sync_path(staging)
    staging.replace(path)
    sync_path(path.parent)


def canonical_json(content: Mapping[str, object]) -> bytes:
    """The same content always gives the same bytes."""
    return (json.dumps(content, sort_keys=True, separators=(",", ":")) + "\n").encode()


def hash_file(path: Path) -> str:
    """blake3 of a file, hex. Large files are hashed by all cores."""
    threads = blake3.blake3.AUTO if path.stat().st_size > SMALL_BYTES else 1
    return blake3.blake3(max_threads=threads).update_mmap(path).hexdigest()


def _errno_of(error: OSError | SafetensorError) -> int | None:
    """Which system call failed, and why; the writer of safetensors says it in words only."""
    if isinstance(error, OSError):
        return error.errno
    found = OS_ERROR.search(str(error))
    return int(found[1]) if found else None
