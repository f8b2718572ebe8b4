"""Training state as flat stretches of parameters: what a rank owns, and the file it writes of it.

`forklight_model.parts` names what is inside and reads it back, at any number of ranks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from forklight_core.errors import CheckpointError, InvalidInputError
from forklight_model.parts import FORMAT, RANDOM_PREFIX, STATE_FOLDER, StateKey, part_name, stretch_name
from forklight_trainer.durable import canonical_json, hash_file, sync_path, write_file

HASH_SUFFIX = ".json"
POLL_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StatePart:
    """A stretch of one parameter, or of one of its moments."""

    name: str
    """Of the parameter in the module."""
    key: StateKey
    shape: tuple[int, ...]
    """Of the whole parameter."""
    start: int
    """Its first element in the flattened parameter."""
    values: Tensor
    """Flat, fp32."""


def write_parts(
    folder: Path,
    parts: Sequence[StatePart],
    *,
    rank: int,
    num_ranks: int,
    adam_step: int,
    random: Mapping[str, Tensor],
) -> Path:
    """Write a rank's file and flush it; then its hash beside it, which says that the file is whole."""
    path = folder / STATE_FOLDER / part_name(rank, num_ranks)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        "format": FORMAT,
        "adam_step": str(adam_step),
        "shapes": json.dumps({part.name: list(part.shape) for part in parts}),
    }
    save_file(
        _tensors(parts) | {RANDOM_PREFIX + name: state for name, state in random.items()}, path, metadata
    )
    path.chmod(0o644)
    sync_path(path)
    entry = {"size_bytes": path.stat().st_size, "blake3": hash_file(path)}
    write_file(hash_of(path), canonical_json(entry))
    return path


def await_parts(folder: Path, num_ranks: int, *, deadline_s: float) -> None:
    """Return when every rank's file is whole; after the deadline, an error names the missing ranks."""
    end_s = time.monotonic() + deadline_s
    paths = {rank: folder / STATE_FOLDER / part_name(rank, num_ranks) for rank in range(num_ranks)}
    while missing := [rank for rank, path in paths.items() if not hash_of(path).exists()]:
        if time.monotonic() > end_s:
            raise CheckpointError(
                f"{len(missing)} of {num_ranks} ranks have not written their part of {folder.name} within "
                f"{deadline_s:g} s: rank {', '.join(map(str, missing[:8]))}; look at their logs and at the "
                "disk they share, then start again from the checkpoint before"
            )
        time.sleep(POLL_S)


def hash_of(part: Path) -> Path:
    """The file that says what another one hashes to."""
    return part.with_suffix(HASH_SUFFIX)


def _tensors(parts: Sequence[StatePart]) -> dict[str, Tensor]:
    """Empty parts are left out; what they are a part of is known all the same."""
    held = [part for part in parts if len(part.values)]
    tensors = {stretch_name(part.name, part.key, part.start): part.values for part in held}
    if len(tensors) != len(held):
        raise InvalidInputError("two parts of a rank begin at the same element of the same parameter")
    return tensors
