"""Which version a new one is stored against, and which versions have to stay for those that need them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from forklight_core.errors import WeightsError
from forklight_core.runfile.sections.publication import PublicationSection
from forklight_core.weights.layout import read_version, version_folder
from forklight_core.weights.manifest import ITEM_BYTES, MANIFEST_FILE
from forklight_core.weights.reading import Layer, open_layers
from forklight_trainer.publishing.mirror import run_url

log = logging.getLogger(__name__)

MOST_ITEM_BYTES = 2
"""With more, the least update changes almost every element: there is nothing to leave out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseRules:
    """What a base must have in common with what is built on it."""

    run_id: str
    contract: str
    dtype: str
    publication: PublicationSection


def list_versions(folder: Path) -> list[int]:
    """Versions on disk, ascending."""
    names = (read_version(path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(version for version in names if version is not None)


def choose_base(folder: Path, version: int, rules: BaseRules) -> tuple[Layer, ...]:
    """What the version's changes are against, newest first; empty when it is to be a full one."""
    older = [each for each in list_versions(folder) if each < version]
    if not older or rules.publication.full_every == 1 or ITEM_BYTES[rules.dtype] > MOST_ITEM_BYTES:
        return ()
    try:
        layers = open_layers(folder / version_folder(older[-1]) / MANIFEST_FILE)
    except WeightsError as error:
        log.warning("a full version is published: its base is gone", extra={"reason": str(error)})
        return ()
    full = layers[-1].manifest
    is_due = version - full.version >= rules.publication.full_every
    is_alike = all(_fits(layer, rules) for layer in layers)
    if is_due or not is_alike:
        return ()
    return layers[-1:] if rules.publication.delta_base == "full" else layers


def needed_versions(folder: Path, kept: Iterable[int]) -> dict[int, str]:
    """These, and what they build on, with their folders in the mirror."""
    needed: dict[int, str] = {}
    for version in kept:
        try:
            layers = open_layers(folder / version_folder(version) / MANIFEST_FILE)
        except WeightsError:
            needed.setdefault(version, "")  # torn: of no use to anyone, and forgotten in its turn
            continue
        needed |= {layer.manifest.version: layer.manifest.mirror for layer in layers}
    return needed


def _fits(layer: Layer, rules: BaseRules) -> bool:
    manifest, url = layer.manifest, rules.publication.url
    prefix = f"{run_url(url, rules.run_id)}/" if url else ""
    is_mirrored = manifest.mirror.startswith(prefix) if url else not manifest.mirror
    return (manifest.run_id, manifest.contract) == (rules.run_id, rules.contract) and is_mirrored
