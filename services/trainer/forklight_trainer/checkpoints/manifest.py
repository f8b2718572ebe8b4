"""The manifest of a checkpoint: size and blake3 of every file, and the proof that they are still so."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from forklight_core.errors import CheckpointError
from forklight_model.parts import PART_FILE, STATE_FOLDER
from forklight_trainer.checkpoints.parts import hash_of
from forklight_trainer.checkpoints.reading import read_json
from forklight_trainer.durable import canonical_json, hash_file

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"
NUM_READERS = 8


def write_manifest(folder: Path) -> None:
    """Of everything in the folder. What a rank has hashed when it wrote it is not read again."""
    files = {
        path.relative_to(folder).as_posix(): _entry(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    (folder / MANIFEST_FILE).write_bytes(canonical_json({"schema_version": SCHEMA_VERSION, "files": files}))


def verify_checkpoint(folder: Path) -> None:
    """CheckpointError unless every file is what the manifest says, and no other part is there."""
    files = read_json(folder / MANIFEST_FILE).get("files")
    if not isinstance(files, dict):
        raise CheckpointError(f"{folder / MANIFEST_FILE} lists no files: the checkpoint is torn")
    found = {path.relative_to(folder).as_posix() for path in (folder / STATE_FOLDER).glob("*")}
    if strangers := sorted(found - files.keys()):
        raise CheckpointError(f"{folder} has {strangers[0]}, which its {MANIFEST_FILE} does not name")
    with ThreadPoolExecutor(max_workers=NUM_READERS) as readers:
        for _ in readers.map(lambda name: _verify(folder / name, files[name]), sorted(files)):
            pass


def _entry(path: Path) -> Mapping[str, object]:
    if PART_FILE.fullmatch(path.name) and path.parent.name == STATE_FOLDER:
        return read_json(hash_of(path))
    return {"size_bytes": path.stat().st_size, "blake3": hash_file(path)}


def _verify(path: Path, entry: Mapping[str, object]) -> None:
    try:
        size = path.stat().st_size
        is_sound = size == entry["size_bytes"] and hash_file(path) == entry["blake3"]
    except (OSError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be verified: {error!r}") from error
    if not is_sound:
        raise CheckpointError(f"{path} is torn: {size} bytes do not hash to what {MANIFEST_FILE} says")
