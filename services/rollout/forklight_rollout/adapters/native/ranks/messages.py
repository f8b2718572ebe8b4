"""What a follower is asked now and then, and what it answers: JSON objects with the name of their kind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from forklight_core.errors import DataLossError
from forklight_core.weights.manifest import encode_manifest, parse_manifest, without_probe
from forklight_core.weights.reading import Layer
from forklight_model.parity import NumericMode
from forklight_rollout.memory_plan import MemoryPlan
from forklight_rollout.weights.manifest import PublishedWeights

Fields = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """Become process `rank` of `size`."""

    rank: int
    size: int
    device: str  # cuda or cpu
    threads: int  # 0 lets torch choose
    timeout_s: float  # of a message between the models' parts
    folder: str  # of this engine's processes alone: where they find each other, and leave last words


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Load your part of verified weights, beside those in use if there are any."""

    weights: PublishedWeights
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """Make the cache, and record graphs, with the weights that are loaded."""

    plan: MemoryPlan
    uses_graphs: bool
    runs_ahead: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Every process has loaded the same weights: stage them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """Some process could not: drop them."""


Task = Join | Load | Build | Keep | Forget


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """To each task; only what it asked for is filled in."""

    error: str = ""
    digest: int = 0  # of the weights loaded
    free_bytes: int = 0  # of the device afterwards
    mode: NumericMode | None = None


def encode_task(task: Task) -> bytes:
    fields = (
        {"weights": _encode_weights(task.weights), "dtype": task.dtype}
        if isinstance(task, Load)
        else asdict(task)
    )
    return json.dumps({"task": type(task).__name__, **fields}).encode()


def decode_task(data: bytes) -> Task:
    fields = json.loads(data)
    match fields.pop("task"):
        case "Join":
            return Join(**fields)
        case "Load":
            return Load(weights=_weights(fields["weights"]), dtype=str(fields["dtype"]))
        case "Build":
            return Build(plan=MemoryPlan(**fields.pop("plan")), **fields)
        case "Keep":
            return Keep()
        case "Forget":
            return Forget()
        case name:
            raise DataLossError(f"{name!r} is no task")


def encode_answer(answer: Answer) -> bytes:
    return json.dumps(asdict(answer)).encode()


def decode_answer(data: bytes) -> Answer:
    fields = json.loads(data)
    mode = fields.pop("mode")
    return Answer(mode=None if mode is None else NumericMode(**mode), **fields)


def _encode_weights(weights: PublishedWeights) -> dict[str, object]:
    """A follower needs neither the probe nor, in a large model, its long list of numbers."""
    layers = [
        {
            "folder": str(layer.folder),
            "manifest_id": layer.manifest_id,
            "manifest": encode_manifest(without_probe(layer.manifest)).decode(),
        }
        for layer in weights.layers
    ]
    return {"layers": layers, "tokenizer_hash": weights.tokenizer_hash}


def _weights(fields: Fields) -> PublishedWeights:
    newest, *bases = (_layer(each) for each in cast("list[Fields]", fields["layers"]))
    return PublishedWeights(
        folder=newest.folder,
        manifest_id=newest.manifest_id,
        manifest=newest.manifest,
        tokenizer_hash=str(fields["tokenizer_hash"]),
        bases=tuple(bases),
    )


def _layer(fields: Fields) -> Layer:
    folder = str(fields["folder"])
    manifest = parse_manifest(str(fields["manifest"]).encode(), folder)
    return Layer(folder=Path(folder), manifest=manifest, manifest_id=str(fields["manifest_id"]))
