"""Asks the rules that will judge responses whether they could ever say yes; stamps their version."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from forklight_core.errors import NotFoundError
from forklight_data.recipe import AnswersPart
from forklight_data.record import Record
from forklight_data.records_file import RecordsFile
from forklight_data.steps.step import Dropped, Outcome, Work


def check_answers(work: Work, part: AnswersPart) -> Iterator[Outcome]:
    """Row by row."""
    versions: dict[str, str | None] = {}
    with RecordsFile(work.source, is_ours=True) as records:
        for _, record in records:
            kind = record.verifier.kind
            if kind not in versions:
                versions[kind] = _version_of(work, kind)
            version = versions[kind]
            yield _judge(work, record, version)
    work.notes["versions"] = {kind: version or "unknown" for kind, version in sorted(versions.items())}


def _judge(work: Work, record: Record, version: str | None) -> Outcome:
    if version is None:
        return Dropped(id=record.id, reason="unknown_kind", detail=record.verifier.kind)
    if problem := work.rules.find_problem(record):
        return Dropped(id=record.id, reason="unverifiable_answer", detail=problem[:300])
    return replace(record, verifier=replace(record.verifier, version=version))


def _version_of(work: Work, kind: str) -> str | None:
    try:
        return work.rules.version(kind)
    except NotFoundError:
        return None
