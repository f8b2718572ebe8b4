"""A verdict in words, from the audit log or from the buffer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forklight.v1 import types_pb2
from forklight_console.samples.ports import VerdictLine
from forklight_console.shown import enum_word, format_moment, format_number, visible

MOST_EVIDENCE = 4000
MOST_LONGER = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictPanel:
    """What the template draws."""

    status: str
    score: str
    masked: bool
    parts: Sequence[tuple[str, str]]
    evidence: str
    longer: str
    longer_problem: str
    facts: Sequence[tuple[str, str]]


def from_line(line: VerdictLine) -> VerdictPanel:
    """A line of the audit log; whatever a line says is only shown."""
    body = line.body
    facts = [
        ("judged", _moment(body.get("at"))),
        ("worker", f"{_text(body, 'worker')} {_text(body, 'worker_version')}".strip()),
        ("tier", _text(body, "tier")),
        ("attempt", f"{_text(body, 'attempt')}, {_text(body, 'num_attempts')} tries"),
        ("took", f"{_text(body, 'wall_s')} s"),
        ("used", ", ".join(f"{name} {value}" for name, value in _mapping(body.get("usage")).items())),
        ("versions", ", ".join(f"{name} {value}" for name, value in _mapping(body.get("versions")).items())),
        ("reused", "yes: the same answer was judged before" if body.get("reused") else ""),
        ("key", _text(body, "key")),
        ("line", f"{line.file}, number {_text(body, 'seq')} (unproven: `forklight verdict check`)"),
    ]
    score = body.get("score")
    return VerdictPanel(
        status=_text(body, "status"),
        score=format_number(score)
        if isinstance(score, int | float)
        else visible(str(score or "none"), most=40),
        masked=bool(body.get("mask")),
        parts=[
            (visible(name, most=60), _figure(value)) for name, value in _mapping(body.get("parts")).items()
        ],
        evidence=visible(str(body.get("evidence") or ""), most=MOST_EVIDENCE),
        longer=visible(line.longer, most=MOST_LONGER),
        longer_problem=visible(line.longer_problem, most=400),
        facts=[(name, visible(value, most=400)) for name, value in facts if value],
    )


def from_message(verdict: types_pb2.Verdict) -> VerdictPanel:
    """What the buffer still has of one."""
    status = enum_word(types_pb2.VerdictStatus.Name(verdict.status), "VERDICT_STATUS_")
    return VerdictPanel(
        status="scored" if status == "unspecified" else status,
        score=format_number(verdict.score) if verdict.HasField("score") else "none",
        masked=verdict.mask,
        parts=[(visible(part.name, most=60), format_number(part.value)) for part in verdict.parts],
        evidence=visible(verdict.evidence, most=MOST_EVIDENCE),
        longer="",
        longer_problem="",
        facts=[("worker", visible(verdict.worker, most=200))] if verdict.worker else [],
    )


def _text(body: Mapping[str, object], name: str) -> str:
    value = body.get(name)
    return "" if value is None else str(value)


def _mapping(value: object) -> Mapping[str, object]:
    return {str(name): each for name, each in value.items()} if isinstance(value, dict) else {}


def _figure(value: object) -> str:
    return format_number(value) if isinstance(value, int | float) else visible(str(value), most=60)


def _moment(value: object) -> str:
    return format_moment(value) if isinstance(value, int | float) and 0 <= value < 1e11 else ""
