"""Rows of any shape into one file of records; every row that is none goes to the rejects, with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path

from forklight_core.blobs import BlobStore
from forklight_core.errors import InvalidInputError
from forklight_core.whole_files import WholeFile
from forklight_data.ports import NobodyWatches, Watcher
from forklight_data.reading.folders import read_path
from forklight_data.reading.row import Row
from forklight_data.record import Record, Reference, write_json, write_record
from forklight_data.seen import SeenIds
from forklight_data.shapes import ColumnMapping, Shape, find_shape, fit_columns, make_record

LOOKED_AT = 20
INLINE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """What to read, as what, and where it goes; no `out`: nothing is written."""

    sources: tuple[Path, ...]
    out: Path | None
    rejects: Path | None = None
    mapping: ColumnMapping = field(default_factory=ColumnMapping)
    split: str | None = None
    limit: int | None = None
    leave_out: frozenset[str] = frozenset()
    blobs: BlobStore | None = None
    """Where answers and specifications go that are larger than 64 KiB; None: they stay in the record."""


@dataclass(slots=True, kw_only=True)
class ImportReport:
    """What came of it."""

    shapes: dict[str, str] = field(default_factory=dict)
    num_read: int = 0
    num_written: int = 0
    num_rejected: int = 0
    digest: str = ""
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A row that is no record."""

    where: str
    reason: str
    row: Mapping[str, object] | str | None

    def line(self) -> bytes:
        """With the row itself, so that nothing is lost."""
        told: dict[str, object] = {"where": self.where, "reason": self.reason, "row": self.row}
        try:
            return write_json(told).encode() + b"\n"
        except (UnicodeEncodeError, ValueError, RecursionError):  # what cannot be written is why it is here
            return (
                write_json(told | {"row": repr(self.row)[:100_000]}).encode("ascii", "backslashreplace")
                + b"\n"
            )


def import_rows(request: ImportRequest, watcher: Watcher | None = None) -> ImportReport:
    """Read everything; the files appear together when all of it is read."""
    watcher = watcher or NobodyWatches()
    report = ImportReport()
    rejects = request.rejects or (request.out and request.out.with_suffix(".rejects.jsonl"))
    if request.out is not None and rejects == request.out:
        raise InvalidInputError(f"{rejects}: records and rejects cannot be the same file")
    watcher.begin("import", request.limit)
    with ExitStack() as stack:
        kept = stack.enter_context(WholeFile(request.out)) if request.out else None
        lost = stack.enter_context(WholeFile(rejects)) if request.out and rejects else None
        for item in _records(request, report, watcher):
            watcher.advance(1)
            if isinstance(item, Reject):
                _count(report, item)
                if lost is not None:
                    lost.write(item.line())
                continue
            report.num_written += 1
            if kept is not None:
                kept.write(item)
        report.digest = kept.digest if kept else ""
        if report.num_read == 0:
            raise InvalidInputError(f"{', '.join(map(str, request.sources))}: there is no row to read")
    return report


def _count(report: ImportReport, reject: Reject) -> None:
    report.num_rejected += 1
    report.reasons[reject.reason[:60]] += 1
    if len(report.examples) < 5:
        report.examples.append(f"{reject.where}: {reject.reason}")


def _records(request: ImportRequest, report: ImportReport, watcher: Watcher) -> Iterator[bytes | Reject]:
    """A written record or a reject for every row of every source."""
    seen, places = SeenIds(), 0
    for source in request.sources:
        rows = read_path(source, request.split, request.leave_out)
        left = None if request.limit is None else request.limit - report.num_read
        rows = islice(rows, left)
        head = list(islice(rows, LOOKED_AT))
        shape, mapping = _look(source, head, request, report, watcher)
        for row in chain(head, rows):
            report.num_read += 1
            places += 1
            if shape is None or row.fields is None:
                yield Reject(
                    where=row.where, reason=row.problem or "no row shows its shape", row=row.fields or row.raw
                )
                continue
            try:
                record = make_record(row.fields, shape, mapping)
                line = write_record(_store_large(record, request.blobs))
            except InvalidInputError as error:
                yield Reject(where=row.where, reason=str(error), row=row.fields)
                continue
            earlier = seen.first_place(record.id, places)
            if earlier is not None:
                reason = f"id {record.id!r} is taken by row {earlier} of this import"
                yield Reject(where=row.where, reason=reason, row=row.fields)
                continue
            yield line


def _look(
    source: Path, head: list[Row], request: ImportRequest, report: ImportReport, watcher: Watcher
) -> tuple[Shape | None, ColumnMapping]:
    """Shape and columns by the first rows, said aloud."""
    mapping = request.mapping
    fields = next((row.fields for row in head if row.fields is not None), None)
    if fields is None:
        return None, mapping
    shape, why = find_shape(fields, mapping)
    told = f"{source.name}: shape {shape} ({why})"
    if shape is Shape.COLUMNS:
        mapping = fit_columns(fields, mapping)
        told += f", prompt from {mapping.prompt_column}, answer from {mapping.answer_column or 'nothing'}"
    if shape is not Shape.RECORD:
        mapping = replace(mapping, file_name=source.name.partition(".")[0] or "import")
        kind, name = (
            mapping.kind or "of the row, else math",
            mapping.source or f"of the row, else {mapping.file_name}",
        )
        told += f", kind {kind}, source {name}"
    report.shapes[source.name] = told
    watcher.say(told)
    return shape, mapping


def _store_large(record: Record, blobs: BlobStore | None) -> Record:
    """What is large lies beside the records, under its hash."""
    if blobs is None:
        return record
    if isinstance(record.answer, str) and len(record.answer) > INLINE_BYTES:
        record = replace(record, answer=Reference(blobs.put(record.answer.encode()).id))
    spec = record.verifier.spec
    if not isinstance(spec, Reference) and len(written := write_json(dict(spec)).encode()) > INLINE_BYTES:
        verifier = replace(record.verifier, spec=Reference(blobs.put(written).id))
        record = replace(record, verifier=verifier)
    return record
