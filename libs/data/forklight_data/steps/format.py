"""Cleans the spelling of prompts and answers, and drops what no cleaning mends."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import replace

from forklight_data.recipe import FormatPart
from forklight_data.record import Message, Record, Reference
from forklight_data.records_file import RecordsFile
from forklight_data.steps.step import Dropped, Outcome, Work

INVISIBLE = re.compile("[\u200b\u2060\ufeff\u00ad]")
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
LINE_ENDS = re.compile("\r\n?|\u2028|\u2029")
LOOSE_ENDS = re.compile(r"[ \t\u00a0]+$", re.MULTILINE)
EMPTY_LINES = re.compile(r"\n{3,}")
PICTURE = re.compile(
    r"<image|<img\b|!\[[^\]]*\]\(|\[asy\]|\\includegraphics|\\begin\{tikzpicture\}"
    r"|\b(?:in|see|from|shown in) the (?:figure|diagram|picture|image|graph)\b|\bas shown below\b",
    re.IGNORECASE,
)
LINK = re.compile(r"https?://\S+")
GRADE_SCHOOL_MARK = "####"
BOX = "\\boxed{"
LEAD = re.compile(r"^\s*(?:the\s+)?(?:final\s+)?answer\s*(?:is)?\s*[:=]\s*", re.IGNORECASE)
BARE_KINDS = frozenset({"math"})


def clean_format(work: Work, part: FormatPart) -> Iterator[Outcome]:
    """Row by row."""
    num_changed = 0
    with RecordsFile(work.source, is_ours=True) as records:
        for _, record in records:
            cleaned = clean(record)
            num_changed += cleaned != record
            reason = find_flaw(cleaned, part)
            yield Dropped(id=record.id, reason=reason) if reason else cleaned
    work.notes["num_changed"] = num_changed


def clean(record: Record) -> Record:
    """One spelling of the same text; cleaning twice changes nothing."""
    prompt = tuple(Message(message.role, clean_text(message.content)) for message in record.prompt)
    answer = record.answer
    if not isinstance(answer, Reference):
        answer = clean_text(answer)
        if record.verifier.kind in BARE_KINDS:
            answer = bare_answer(answer)
    return replace(record, prompt=prompt, answer=answer)


def clean_text(text: str) -> str:
    """Composed letters, plain line ends, nothing invisible, no loose ends."""
    text = LINE_ENDS.sub("\n", text)
    text = unicodedata.normalize("NFC", CONTROL.sub("", INVISIBLE.sub("", text)))
    return EMPTY_LINES.sub("\n\n", LOOSE_ENDS.sub("", text)).strip()


def bare_answer(answer: str) -> str:
    """The answer out of a worked solution: what follows #### or stands in the last box."""
    if GRADE_SCHOOL_MARK in answer:
        answer = answer.rpartition(GRADE_SCHOOL_MARK)[2]
    if BOX in answer and (inner := _last_box(answer)) is not None:
        answer = inner
    return LEAD.sub("", answer).strip()


def find_flaw(record: Record, part: FormatPart) -> str:
    """Why no cleaning mends a record; empty when it is sound."""
    if not all(message.content for message in record.prompt):
        return "empty_prompt"
    text = record.question
    if len(text) > part.most_characters:
        return "too_long"
    if "\ufffd" in text or (not isinstance(record.answer, Reference) and "\ufffd" in record.answer):
        return "broken_text"
    if part.drop_pictures and PICTURE.search(text):
        return "needs_picture"
    if part.drop_links and LINK.search(text) and record.verifier.kind in BARE_KINDS:
        return "has_link"
    return ""


def _last_box(text: str) -> str | None:
    start = text.rfind(BOX) + len(BOX)
    depth = 1
    for index in range(start, len(text)):
        depth += (text[index] == "{") - (text[index] == "}")
        if depth == 0:
            return text[start:index]
    return None
