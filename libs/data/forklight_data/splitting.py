"""Cuts a file of records into the prompt files of runs. Near duplicates never fall into different parts.

A record's part depends on ids alone: with shares, records that are added move no other that is not near them.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from forklight_core.blobs import BlobStore
from forklight_core.errors import InvalidInputError
from forklight_core.whole_files import WholeFile, digest_of, named_errors
from forklight_data.manifest import code_version, count_reasons
from forklight_data.neighbours import Neighbours
from forklight_data.parts import PartSpec
from forklight_data.ports import NobodyWatches, Watcher
from forklight_data.prompt_file import prompt_line
from forklight_data.reading.lines import read_lines
from forklight_data.record import Json, Record, write_json
from forklight_data.records_file import RecordsFile
from forklight_data.steps.step import Dropped
from forklight_data.steps.verdicts import hash_text, rank_of
from forklight_data.text import words_of

MANIFEST = "split.manifest.json"
LEFT_OUT = "split.left_out.jsonl"
THRESHOLD = 0.6
"""Lower than where curation drops: the same problem with other numbers is no test of anything."""
NOBODY = -1
TORN = -2


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRequest:
    """What to cut, into what, and where it goes."""

    source: Path
    folder: Path
    parts: tuple[PartSpec, ...]
    by: Literal["domain", "source", "none"] = "domain"
    seed: int = 0
    previous: Path | None = None
    """The folder of an earlier split: its records keep their part."""
    blobs: BlobStore | None = None


@dataclass(slots=True, kw_only=True)
class SplitReport:
    """What came of it; also the manifest."""

    input_digest: str
    code_version: str
    parameters: dict[str, Json]
    num_groups: int = 0
    parts: dict[str, dict[str, Json]] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Survey:
    """Of every record: its group, its stratum, and the part it had."""

    ids: NDArray[np.uint64]
    groups: NDArray[np.int64]
    strata: NDArray[np.int64]
    before: NDArray[np.int64]


def split_records(request: SplitRequest, watcher: Watcher | None = None) -> SplitReport:
    """Two passes: find the groups, then write."""
    watcher = watcher or NobodyWatches()
    with named_errors(request.folder):
        request.folder.mkdir(parents=True, exist_ok=True)
    report = SplitReport(
        input_digest=digest_of(request.source),
        code_version=code_version(),
        parameters={
            "parts": {part.name: str(part.share or part.count or "rest") for part in request.parts},
            "by": request.by,
            "seed": request.seed,
            "previous": digest_of(request.previous / MANIFEST) if request.previous else None,
        },
    )
    with RecordsFile(request.source) as records:
        watcher.begin("groups", None)
        survey = _survey(records, request, watcher)
        chosen = choose(survey, request)
        report.num_groups = len(np.unique(survey.groups))
        watcher.begin("write", len(chosen))
        _write(records, chosen, (request, report), watcher)
    with WholeFile(request.folder / MANIFEST) as file:
        file.write(write_json(asdict(report)).encode() + b"\n")
    return report


def _survey(records: RecordsFile, request: SplitRequest, watcher: Watcher) -> _Survey:
    earlier = read_previous(request)
    ids, strata, before = array("Q"), array("q"), array("q")
    names: dict[str, int] = {}
    with Neighbours(request.folder) as neighbours:
        for _, record in records:
            words = words_of(record.question)
            neighbours.add(words)
            key = hash_text(record.id)
            ids.append(key)
            strata.append(names.setdefault(stratum_of(record, request.by), len(names)))
            before.append(earlier.get(key, NOBODY))
            watcher.advance(1)
        keys = np.frombuffer(ids, dtype=np.uint64)
        groups = neighbours.groups(THRESHOLD, rank_of(keys))
    return _Survey(keys, groups, np.frombuffer(strata, dtype=np.int64), np.frombuffer(before, dtype=np.int64))


def read_previous(request: SplitRequest) -> dict[int, int]:
    """The part of every record of an earlier split, by the hash of its id."""
    found: dict[int, int] = {}
    if request.previous is None:
        return found
    for number, part in enumerate(request.parts):
        path = request.previous / f"{part.name}.jsonl"
        for row in read_lines(path, frozenset()):
            name = (row.fields or {}).get("id")
            if not isinstance(name, str):
                raise InvalidInputError(f"{path}: {row.where}: not a line of a prompt file")
            found[hash_text(name)] = number
    return found


def stratum_of(record: Record, by: str) -> str:
    """What shares and numbers are counted in."""
    return record.domain.value if by == "domain" else record.source if by == "source" else ""


def choose(survey: _Survey, request: SplitRequest) -> NDArray[np.int64]:
    """The part of every record; TORN where its group has records of two parts already."""
    chosen = np.full(len(survey.ids), NOBODY, dtype=np.int64)
    leaders, members = np.unique(survey.groups, return_inverse=True)
    old = _old_parts(survey, members, len(leaders))
    luck = np.array(
        [_luck(int(survey.ids[leader]), request.seed) for leader in leaders.tolist()], dtype=np.uint64
    )
    sizes = np.bincount(members, minlength=len(leaders))
    strata = survey.strata[leaders] if len(leaders) else leaders
    of_group = _assign(request.parts, old, luck, sizes, strata)
    chosen = of_group[members]
    is_old = survey.before != NOBODY
    chosen[is_old] = survey.before[is_old]
    return chosen


def _old_parts(survey: _Survey, members: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """The part a group has already; NOBODY when none, TORN when two."""
    old = np.full(size, NOBODY, dtype=np.int64)
    for number in np.flatnonzero(survey.before != NOBODY).tolist():
        group, part = int(members[number]), int(survey.before[number])
        old[group] = part if old[group] in (NOBODY, part) else TORN
    return old


def _assign(
    parts: Sequence[PartSpec],
    old: NDArray[np.int64],
    luck: NDArray[np.uint64],
    sizes: NDArray[np.int64],
    strata: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Shares by luck alone; numbers by the luckiest groups of each stratum that still fit."""
    chosen = old.copy()
    rest = next((number for number, part in enumerate(parts) if part.is_rest), NOBODY)
    shares = [part.share for part in parts]
    if any(share is not None for share in shares):
        bounds, total = [], 0.0
        for number, share in enumerate(shares):
            if share is not None:
                total += float(share)
                bounds.append((total, number))
        place = luck.astype(np.float64) / 2.0**64
        free = chosen == NOBODY
        last = bounds[-1][1] if rest == NOBODY else rest
        wanted = np.full(len(luck), last, dtype=np.int64)
        for bound, number in reversed(bounds):
            wanted[place < bound] = number
        chosen[free] = wanted[free]
        return chosen
    for stratum in np.unique(strata).tolist():
        inside = np.flatnonzero(strata == stratum)
        inside = inside[np.argsort(luck[inside], kind="stable")]
        for number, part in enumerate(parts):
            if part.count is not None:
                _take(chosen, inside, sizes, (number, part))
        chosen[inside[chosen[inside] == NOBODY]] = rest
    return chosen


def _take(
    chosen: NDArray[np.int64],
    inside: NDArray[np.int64],
    sizes: NDArray[np.int64],
    asked: tuple[int, PartSpec],
) -> None:
    number, part = asked
    left = (part.count or 0) - int(sizes[inside[chosen[inside] == number]].sum())
    for group in inside[chosen[inside] == NOBODY].tolist():
        if left <= 0:
            return
        if sizes[group] <= left:
            chosen[group] = number
            left -= int(sizes[group])
    if left > 0:
        raise InvalidInputError(
            f"part {part.name}: {part.count} records of each stratum were asked for; one has {left} too few"
        )


def _luck(key: int, seed: int) -> int:
    digest = hashlib.blake2b(key.to_bytes(8, "little"), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "little")


def _write(
    records: RecordsFile, chosen: NDArray[np.int64], asked: tuple[SplitRequest, SplitReport], watcher: Watcher
) -> None:
    request, report = asked
    counts = [Counter[str]() for _ in request.parts]
    reasons: Counter[str] = Counter()
    with ExitStack() as stack:
        files = [
            stack.enter_context(WholeFile(request.folder / f"{part.name}.jsonl")) for part in request.parts
        ]
        lost = stack.enter_context(WholeFile(request.folder / LEFT_OUT))
        for number, (_, record) in enumerate(records):
            watcher.advance(1)
            part = int(chosen[number])
            dropped = Dropped(id=record.id, reason="near_two_parts") if part == TORN else None
            if dropped is None:
                try:
                    files[part].write(prompt_line(record, request.blobs))
                    counts[part][record.domain.value] += 1
                except InvalidInputError as error:
                    dropped = Dropped(id=record.id, reason="not_a_prompt_of_a_run", detail=str(error))
            if dropped is not None:
                lost.write(write_json(asdict(dropped)).encode() + b"\n")
                reasons[dropped.reason] += 1
        for part_spec, file, count in zip(request.parts, files, counts, strict=True):
            report.parts[part_spec.name] = {
                "file": file.path.name,
                "digest": file.digest,
                "num_rows": file.num_lines,
                "by_domain": dict(sorted(count.items())),
            }
    report.left_out = count_reasons(reasons)
