"""Published weights: weights/vNNNNNNNN/ with tensors, tokenizer and a manifest that names every byte.

A version appears whole, and publishing it twice changes nothing. It is full, and then a model folder, or
holds what changed against an older one.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from forklight.v1 import types_pb2
from forklight_core.errors import ForklightError, PreconditionError, WeightsError
from forklight_core.runfile.sections.publication import PublicationSection
from forklight_core.weights.files import describe_file
from forklight_core.weights.layout import version_folder
from forklight_core.weights.manifest import (
    MANIFEST_FILE,
    BaseVersion,
    Manifest,
    Probe,
    TensorEntry,
    VersionKind,
    encode_manifest,
)
from forklight_core.weights.reading import Layer, open_layers, verify_tensors
from forklight_model.tokenizer import Tokenizer
from forklight_trainer import metrics
from forklight_trainer.durable import remove_folder, staged_folder, sweep_leftovers
from forklight_trainer.ports import TrainEngine
from forklight_trainer.publishing import mirror
from forklight_trainer.publishing.bases import BaseRules, choose_base, list_versions, needed_versions
from forklight_trainer.publishing.folders import by_name, describe_model
from forklight_trainer.publishing.plan import SinkManner, SinkPlan
from forklight_trainer.publishing.probe import compute_probe
from forklight_trainer.publishing.sending import VersionSender

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A version before its tensors are written."""

    version: int
    step: int
    probe: Probe
    base: tuple[Layer, ...]
    """What its changes are against, newest first; empty when it is full."""
    mirror: str


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
    publication: PublicationSection = field(default_factory=PublicationSection)
    sender: VersionSender | None = None
    """Sends announced versions to all pods at once; None: they read files."""

    def publish(self, engine: TrainEngine, *, version: int, step: int) -> types_pb2.WeightsRef:
        """Write a version, or keep it when these very weights are there; forget old ones."""
        sweep_leftovers(self.folder)
        if not self._holds(engine, version, step):
            started = time.perf_counter()
            try:
                manifest = self._write(engine, version, step)
            except (ForklightError, OSError) as error:
                metrics.count_publication_failure(error)
                raise
            _note_publication(manifest, time.perf_counter() - started)
        self._forget_oldest(version)
        return self._name(self._open(version)[0])

    def reference(self, version: int) -> types_pb2.WeightsRef:
        """Read a version back, prove every tensor, and name it."""
        layers = self._open(version)
        verify_tensors(layers)
        if not self._is_mirrored(layers[0].manifest):
            raise WeightsError(f"version {version} is not in {self.publication.url}: publish it again")
        return self._name(layers[0])

    def send(self, weights: types_pb2.WeightsRef) -> None:
        """The version has been announced: send it to the pods that wait for that. Returns at once."""
        if self.sender is None:
            return
        try:
            layer = self._open(weights.version)[0]
        except WeightsError as error:
            log.warning("a version is not sent, pods read files", extra={"reason": str(error)})
            return
        paths = [layer.folder / entry.file for entry in layer.manifest.files]
        self.sender.send(weights.manifest_id, paths)

    def list_versions(self) -> list[int]:
        """Versions on disk, ascending."""
        return list_versions(self.folder)

    def find_version(self, version: int) -> Path | None:
        """Folder of a version that is still here."""
        folder = self.version_folder(version)
        return folder if (folder / MANIFEST_FILE).exists() else None

    def version_folder(self, version: int) -> Path:
        return self.folder / version_folder(version)

    def _open(self, version: int) -> tuple[Layer, ...]:
        """A version of this run and contract, and what it builds on. Its tensors are not looked at."""
        path = self.version_folder(version) / MANIFEST_FILE
        layers = open_layers(path)
        manifest = layers[0].manifest
        if (manifest.run_id, manifest.version) != (self.run_id, version):
            raise WeightsError(f"{path} is not version {version} of run {self.run_id!r}: remove the folder")
        if manifest.contract != self.contract:
            raise WeightsError(
                f"{path} was published under the numeric contract {manifest.contract!r}, this trainer "
                f"computes under {self.contract!r}: rollout pods of this release refuse it"
            )
        return layers

    def _name(self, layer: Layer) -> types_pb2.WeightsRef:
        manifest, path = layer.manifest, layer.folder.resolve() / MANIFEST_FILE
        where = mirror.manifest_url(manifest.mirror) if manifest.mirror else str(path)
        return types_pb2.WeightsRef(version=manifest.version, manifest=where, manifest_id=layer.manifest_id)

    def _holds(self, engine: TrainEngine, version: int, step: int) -> bool:
        """Whether the folder already has the weights the engine holds: compared by content, never by name."""
        try:
            layers = self._open(version)
            manifest = layers[0].manifest
            if manifest.step != step or manifest.probe is None or not self._is_mirrored(manifest):
                return False
            fresh = by_name(engine.publish(SinkPlan(manner=self._manner)))
            if _contents(fresh) != _contents(manifest.tensors):
                return False
            verify_tensors(layers)
        except WeightsError as error:
            if self.version_folder(version).exists():
                log.warning("a version is written again", extra={"version": version, "reason": str(error)})
            return False
        return True

    def _is_mirrored(self, manifest: Manifest) -> bool:
        url = self.publication.url
        if not url:
            return not manifest.mirror
        is_here = manifest.mirror.startswith(mirror.run_url(url, self.run_id))
        return is_here and mirror.is_whole(manifest.mirror)

    def _write(self, engine: TrainEngine, version: int, step: int) -> Manifest:
        draft = self._draft(engine, version, step)
        # Not flushed to the disk: what power loss tears is found by its hashes, here and by every reader,
        # and the checkpoint is what a run goes on from.
        with staged_folder(self.version_folder(version), is_flushed=False) as staging:
            staging.mkdir(parents=True)
            entries = by_name(engine.publish(self._plan(staging, draft)))
            manifest = self._manifest(engine, draft, entries, staging)
            self.tokenizer.save(staging)
            if not draft.base:
                files = {name: entry.file for name, entry in entries.items()}
                describe_model(staging, engine.config.to_published(), files)
            (staging / MANIFEST_FILE).write_bytes(encode_manifest(manifest))
            if draft.mirror:
                mirror.upload_small_files(draft.mirror, staging)
        return manifest

    def _draft(self, engine: TrainEngine, version: int, step: int) -> Draft:
        rules = BaseRules(
            run_id=self.run_id, contract=self.contract, dtype=self.dtype, publication=self.publication
        )
        url = self.publication.url
        return Draft(
            version=version,
            step=step,
            probe=compute_probe(engine, self.mode),
            base=choose_base(self.folder, version, rules),
            mirror=mirror.new_folder(url, self.run_id, version) if url else "",
        )

    def _plan(self, folder: Path, draft: Draft) -> SinkPlan:
        publication = self.publication
        holds = publication.base_values == "host" and publication.full_every > 1
        return SinkPlan(
            folder=folder,
            mirror=draft.mirror,
            base=draft.base,
            store=str(self.folder.resolve()) if holds else "",
            remembers=not draft.base or publication.delta_base == "previous",
            manner=self._manner,
        )

    def _manifest(
        self, engine: TrainEngine, draft: Draft, entries: Mapping[str, TensorEntry], folder: Path
    ) -> Manifest:
        base = draft.base[0] if draft.base else None
        if base is not None and base.manifest.tensors.keys() != entries.keys():
            raise PreconditionError(
                f"version {draft.version} has {len(entries)} tensors, of other names than the "
                f"{len(base.manifest.tensors)} of version {base.manifest.version} before it"
            )
        return Manifest(
            run_id=self.run_id,
            version=draft.version,
            step=draft.step,
            contract=self.contract,
            kernels=engine.config.numerics,
            config_json=json.dumps(engine.config.to_published()),
            files=tuple(describe_file(folder / name) for name in sorted(_file_names(entries))),
            tensors=entries,
            probe=draft.probe,
            kind=VersionKind.FULL if base is None else VersionKind.DELTA,
            base=None if base is None else _name_base(base),
            depth=0 if base is None else base.manifest.depth + 1,
            mirror=draft.mirror,
            created_at=round(time.time(), 3),
        )

    @property
    def _manner(self) -> SinkManner:
        return SinkManner(
            num_lanes=self.publication.lanes,
            largest_file_bytes=self.publication.largest_file,
            reads_back=self.publication.verify == "read-back",
        )

    def _forget_oldest(self, newest: int) -> None:
        """Keep the newest ones and what they build on. Those beyond belong to a lineage that was left."""
        versions = self.list_versions()
        kept = [version for version in versions if version <= newest][-self.publication.keep_versions :]
        needed = needed_versions(self.folder, kept)
        for version in versions:
            if version not in needed:
                remove_folder(self.version_folder(version))
        if self.publication.url:
            mirror.forget_others(self.publication.url, self.run_id, needed.values())


def _file_names(entries: Mapping[str, TensorEntry]) -> set[str]:
    return {entry.file for entry in entries.values() if entry.file}


def _name_base(layer: Layer) -> BaseVersion:
    return BaseVersion(
        version=layer.manifest.version,
        manifest_id=layer.manifest_id,
        folder=layer.folder.name,
        mirror=layer.manifest.mirror,
    )


def _contents(entries: Mapping[str, TensorEntry]) -> dict[str, tuple[str, tuple[int, ...], str]]:
    """What tensors are, wherever they are stored."""
    return {name: (entry.dtype, entry.shape, entry.hash) for name, entry in entries.items()}


def _note_publication(manifest: Manifest, seconds: float) -> None:
    metrics.record_publication(
        manifest.kind.value,
        seconds=seconds,
        num_bytes=manifest.num_bytes,
        num_stored_bytes=manifest.num_stored_bytes,
    )
    log.info(
        "weights written",
        extra={
            "version": manifest.version,
            "kind": manifest.kind.value,
            "base": manifest.base.version if manifest.base else None,
            "bytes": manifest.num_bytes,
            "stored_bytes": manifest.num_stored_bytes,
            "seconds": round(seconds, 3),
        },
    )
