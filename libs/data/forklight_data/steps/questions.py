"""Drops questions whose answer cannot be one value: several parts, proofs, yes or no."""

from __future__ import annotations

import re
from collections.abc import Iterator

from forklight_data.recipe import QuestionsPart
from forklight_data.record import Record, Reference
from forklight_data.records_file import RecordsFile
from forklight_data.steps.step import Dropped, Outcome, Work

KINDS = frozenset({"math"})
PROOF = re.compile(
    r"\b(?:prove|disprove)\b(?! ?d)|\bshow\s+that\b|\bgive\s+a\s+(?:formal\s+|rigorous\s+)?proof\b"
    r"|\bdemonstrate\s+that\b",
    re.IGNORECASE,
)
PART_PAIRS = tuple(
    (re.compile(first), re.compile(second))
    for first, second in (
        (r"(?:^|[\s.;])\(a\)\s", r"[\s.;]\(b\)\s"),
        (r"(?:^|\n)\s*a[).]\s", r"\n\s*b[).]\s"),
        (r"(?:^|[\s.;])\(?i\)\s", r"[\s.;]\(?ii\)\s"),
        (r"(?i:\bpart\s+(?:a|1|i)\b)", r"(?i:\bpart\s+(?:b|2|ii)\b)"),
    )
)
LETTER = re.compile(r"\s*\(?\s*(?:\\text\{)?\(?[A-Ha-h]\)?\}?\s*[).]?\s*")
TWO_VALUED = frozenset(
    {"yes", "no", "true", "false", "\\text{yes}", "\\text{no}", "\\text{true}", "\\text{false}"}
)


def drop_questions(work: Work, part: QuestionsPart) -> Iterator[Outcome]:
    """Row by row; other kinds than maths pass."""
    with RecordsFile(work.source, is_ours=True) as records:
        for _, record in records:
            reason = find_reason(record, part) if record.verifier.kind in KINDS else ""
            yield Dropped(id=record.id, reason=reason) if reason else record


def find_reason(record: Record, part: QuestionsPart) -> str:
    """Why a question has no single value for an answer; empty when it may have one."""
    answer = "" if isinstance(record.answer, Reference) else record.answer
    text = record.prompt[-1].content
    if part.drop_yes_no and answer.strip(" .$").casefold() in TWO_VALUED:
        return "yes_no"
    if part.drop_proofs and PROOF.search(text):
        return "proof"
    if part.drop_multi_part and not LETTER.fullmatch(answer) and has_parts(text):
        return "multi_part"
    return ""


def has_parts(text: str) -> bool:
    """A first part, and a second one after it."""
    for first, second in PART_PAIRS:
        found = first.search(text)
        if found and second.search(text, found.end() - 1):
            return True
    return False
