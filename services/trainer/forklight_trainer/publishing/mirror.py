"""The copy of published versions in an object store, which pods elsewhere read from.

A version's folder there has a name that is never used again, and its manifest comes last: what a reader finds
is whole and stays so. What no version on disk speaks of is a rest of a crash, or was forgotten.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable
from pathlib import Path

from forklight_core.errors import ForklightError
from forklight_core.weights.layout import CHANGES_FILE, WHOLE_FILE, version_folder
from forklight_core.weights.manifest import MANIFEST_FILE
from forklight_core.weights.objects import open_objects

log = logging.getLogger(__name__)

TENSOR_FILES = (Path(WHOLE_FILE).suffix, Path(CHANGES_FILE).suffix)


def run_url(url: str, run_id: str) -> str:
    """Where a run's versions are."""
    return f"{url.rstrip('/')}/{run_id}"


def new_folder(url: str, run_id: str, version: int) -> str:
    """URL of a folder for a version that is about to be written."""
    return f"{run_url(url, run_id)}/{version_folder(version)}-{secrets.token_hex(4)}"


def manifest_url(mirror: str) -> str:
    """Of a version's manifest."""
    return f"{mirror}/{MANIFEST_FILE}"


def upload_small_files(mirror: str, folder: Path) -> None:
    """What lies beside the tensors, which their ranks have uploaded; the manifest at the end."""
    objects = open_objects(mirror)
    names = [path.name for path in sorted(folder.iterdir()) if path.suffix not in TENSOR_FILES]
    for name in sorted(names, key=lambda name: name == MANIFEST_FILE):
        objects.upload(name, (folder / name).read_bytes())


def is_whole(mirror: str) -> bool:
    """Whether a version is there."""
    return open_objects(mirror).has(MANIFEST_FILE)


def forget_others(url: str, run_id: str, kept: Iterable[str]) -> None:
    """Remove every folder of the run but these. A store that does not answer is asked the next time."""
    objects = open_objects(run_url(url, run_id), deadline_s=10.0)
    names = {mirror.rpartition("/")[2] for mirror in kept}
    try:
        for folder in objects.list_folders():
            if folder not in names:
                objects.remove(folder)
    except ForklightError as error:
        log.warning("versions are left in the mirror", extra={"reason": str(error)})
