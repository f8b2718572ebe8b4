"""Published weights as a folder that vLLM loads: the manifest's configuration, and whole tensors."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from forklight_core.weights.files import write_whole
from forklight_rollout.weights.manifest import PublishedWeights

CONFIG_FILE = "config.json"


def make_model_folder(weights: PublishedWeights) -> tempfile.TemporaryDirectory[str]:
    """Lives as long as the object. A full version's files are linked to, a delta is put together."""
    made = tempfile.TemporaryDirectory(prefix=f"forklight-v{weights.version}-")
    folder = Path(made.name)
    (folder / CONFIG_FILE).write_text(weights.manifest.config_json, encoding="utf-8")
    if weights.bases:
        write_whole(weights.layers, folder)
    else:
        for entry in weights.manifest.files:
            (folder / entry.file).symlink_to((weights.folder / entry.file).resolve())
    return made


def shard_paths(folder: str) -> list[Path]:
    """The files of tensors in such a folder."""
    return sorted(path.resolve() for path in Path(folder).glob("*.safetensors"))


def max_positions(weights: PublishedWeights) -> int | None:
    """Longest sequence that the model's configuration allows; None where it does not say."""
    found = json.loads(weights.manifest.config_json).get("max_position_embeddings")
    return int(found) if isinstance(found, int) else None
