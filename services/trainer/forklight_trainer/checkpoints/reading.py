"""Reads the JSON files of a checkpoint: what cannot be read is an error that names the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from forklight_core.errors import CheckpointError


def read_json(path: Path) -> Mapping[str, object]:
    """A JSON object of a checkpoint."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return content
