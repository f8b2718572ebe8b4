"""Published weights as a folder that vLLM loads: the manifest's configuration, and links to the shards."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from forklight_rollout.weights.manifest import PublishedWeights

CONFIG_FILE = "config.json"


def make_model_folder(weights: PublishedWeights) -> tempfile.TemporaryDirectory[str]:
    """A folder that lives as long as the object; the shards are not copied."""
    made = tempfile.TemporaryDirectory(prefix=f"forklight-v{weights.version}-")
    folder = Path(made.name)
    (folder / CONFIG_FILE).write_text(weights.manifest.config_json, encoding="utf-8")
    for path in shard_paths(weights):
        (folder / path.name).symlink_to(path)
    return made


def shard_paths(weights: PublishedWeights) -> list[Path]:
    """The files of a version."""
    return [(weights.folder / shard.file).resolve() for shard in weights.manifest.shards]


def max_positions(weights: PublishedWeights) -> int | None:
    """Longest sequence that the model's configuration allows; None where it does not say."""
    found = json.loads(weights.manifest.config_json).get("max_position_embeddings")
    return int(found) if isinstance(found, int) else None
