"""Published weights: weights/vNNNNNNNN/ with shards, tokenizer and a manifest that names every byte.

A version appears whole, is read back and verified before anyone hears of it, and publishing it twice changes
nothing.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import blake3
from safetensors import SafetensorError, safe_open

from forklight.v1 import types_pb2
from forklight_core.errors import WeightsError
from forklight_kernels.contract import contract_hash as kernels_contract
from forklight_model.tokenizer import Tokenizer
from forklight_trainer.durable import canonical_json, hash_file, remove_folder, staged_folder, sweep_leftovers
from forklight_trainer.ports import TrainEngine
from forklight_trainer.publishing.probe import compute_probe

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"
NUM_KEPT = 4
DTYPE_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsStore:
    """The published versions of one run."""

    folder: Path
    run_id: str
    tokenizer: Tokenizer
    dtype: str
    contract: str
    mode: types_pb2.NumericMode = field(default_factory=types_pb2.NumericMode)
    """Where the probe is computed; pods that compute likewise must find its very bits."""

    def publish(self, engine: TrainEngine, *, version: int, step: int) -> types_pb2.WeightsRef:
        """Write a version (or keep it, when these very bytes are there), verify it, forget old ones."""
        sweep_leftovers(self.folder)
        target = self.version_folder(version)
        if not self._holds(target, engine, step):
            with staged_folder(target) as staging:
                engine.save_published(staging)
                self.tokenizer.save(staging)
                manifest = self._manifest(staging, engine, version=version, step=step)
                (staging / MANIFEST_FILE).write_bytes(canonical_json(manifest))
        reference = self.reference(version)
        self._forget_oldest(version)
        return reference

    def reference(self, version: int) -> types_pb2.WeightsRef:
        """Read a version back, verify every shard, and name it."""
        path = self.version_folder(version) / MANIFEST_FILE
        manifest = verify_manifest(path)
        if (manifest["run_id"], manifest["version"]) != (self.run_id, version):
            raise WeightsError(f"{path} is not version {version} of run {self.run_id!r}: remove the folder")
        if manifest["contract"] != self.contract:
            raise WeightsError(
                f"{path} was published under the numeric contract {manifest['contract']!r}, this trainer "
                f"computes under {self.contract!r}: rollout pods of this release refuse it"
            )
        manifest_id = "b3:" + blake3.blake3(path.read_bytes()).hexdigest()
        return types_pb2.WeightsRef(version=version, manifest=str(path.resolve()), manifest_id=manifest_id)

    def list_versions(self) -> list[int]:
        """Versions on disk, ascending."""
        return sorted(int(path.name[1:]) for path in self.folder.glob("v*") if path.name[1:].isdigit())

    def find_version(self, version: int) -> Path | None:
        """Folder of a version that is still here."""
        folder = self.version_folder(version)
        return folder if (folder / MANIFEST_FILE).exists() else None

    def version_folder(self, version: int) -> Path:
        return self.folder / f"v{version:08d}"

    def _holds(self, target: Path, engine: TrainEngine, step: int) -> bool:
        """Whether the folder already has the weights the engine holds: compared by content, never by name."""
        try:
            manifest = verify_manifest(target / MANIFEST_FILE)
        except WeightsError:
            return False
        with tempfile.TemporaryDirectory(prefix=".fresh.", dir=self.folder) as folder:
            engine.save_published(Path(folder) / "model")
            fresh = _shards(Path(folder) / "model")
        found = (manifest["shards"], manifest["step"], manifest["contract"])
        return found == (fresh, step, self.contract) and bool(manifest.get("probe"))

    def _manifest(self, folder: Path, engine: TrainEngine, *, version: int, step: int) -> dict[str, object]:
        return {
            "schema_version": SCHEMA_VERSION,
            "run_id": self.run_id,
            "version": version,
            "step": step,
            "kind": "full",
            "dtype": self.dtype,
            "contract": self.contract,
            "kernels": kernels_contract(),
            "config": engine.config.to_published(),
            "shards": _shards(folder),
            "tensors": _tensors(folder),
            "probe": compute_probe(engine, self.mode),
            "created_at": round(time.time(), 3),
        }

    def _forget_oldest(self, newest: int) -> None:
        versions = self.list_versions()
        kept = [version for version in versions if version <= newest][-NUM_KEPT:]
        for version in versions:
            if version not in kept:
                remove_folder(self.version_folder(version))


def verify_manifest(path: Path) -> Mapping[str, object]:
    """The manifest, when every shard beside it is what it says."""
    try:
        manifest = json.loads(path.read_bytes())
        for shard in manifest["shards"]:
            file = path.parent / shard["file"]
            if file.stat().st_size != shard["size_bytes"] or hash_file(file) != shard["blake3"]:
                raise WeightsError(
                    f"{file} is torn: it does not hash to what {path} says; publish the version again"
                )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path} is not a readable manifest: {error!r}; publish the version again"
        ) from error
    return manifest if isinstance(manifest, dict) else {}


def _shard_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _shards(folder: Path) -> list[dict[str, object]]:
    return [
        {"file": path.name, "size_bytes": path.stat().st_size, "blake3": hash_file(path)}
        for path in _shard_files(folder)
    ]


def _tensors(folder: Path) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for path in _shard_files(folder):
        try:
            with safe_open(path, framework="pt") as shard:
                for name in shard.keys():  # noqa: SIM118 - not a dict
                    view = shard.get_slice(name)
                    dtype = DTYPE_NAMES[view.get_dtype()]
                    found[name] = {"shape": list(view.get_shape()), "dtype": dtype, "shard": path.name}
        except (OSError, SafetensorError) as error:
            raise WeightsError(
                f"{path} was just written and cannot be read: {error}; check the disk"
            ) from error
    return found
