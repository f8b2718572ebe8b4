"""Finds the answer in a response: the last balanced \\boxed{...} after the thinking.

Nothing inside the thinking counts. Boxes with nothing but "or", "and" and commas between them are one answer
with several parts, and a box inside another one is a part of it: showing many answers is showing none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
BOX = "\\boxed"
MAX_ANSWER_BYTES = 4096
MAX_BOXES_TRIED = 64
_JOINT = re.compile(
    r"(?:[\s,;.$&*]|\\\\|\\[,;:! ]|\\q?quad|\\text\s*\{\s*(?:or|and)\s*\}|\\(?:lor|land|vee|wedge)|or|and)*"
)
MAX_JOINT = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """An answer, or why there is none."""

    answer: str | None
    reason: str = ""


def looks_like_response(text: str) -> bool:
    """True when the text is a whole response and not a bare answer."""
    return BOX in text or THINK_CLOSE in text or THINK_OPEN in text


def final_part(response: str) -> str:
    """What was said after the thinking; empty while the thinking is still open."""
    _, closed, tail = response.rpartition(THINK_CLOSE)
    head, opened, _ = tail.partition(THINK_OPEN)
    if opened:
        return head if closed else ""
    return tail


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A balanced box: its content, and where it begins and ends in the text."""

    content: str
    start: int
    end: int


def read_box(text: str, start: int) -> Box | None:
    """The box whose \\boxed begins at `start`; None when it is not closed in 4 kB."""
    position = start + len(BOX)
    while position < len(text) and text[position] == " ":
        position += 1
    if position >= len(text) or text[position] != "{":
        return None
    depth = 0
    index = position
    end = min(len(text), position + MAX_ANSWER_BYTES + 2)
    while index < end:
        character = text[index]
        if character == "\\":
            index += 2
            continue
        if character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return Box(content=text[position + 1 : index], start=start, end=index + 1)
        index += 1
    return None


def box_content(text: str, start: int) -> str | None:
    """The balanced content of the box whose \\boxed begins at `start`; None when it is not closed in 4 kB."""
    box = read_box(text, start)
    return None if box is None else box.content


def extract_answer(response: str) -> Extraction:
    """The content of the last balanced box after the thinking."""
    text = final_part(response)
    end, num_tried = len(text), 0
    last: list[Box] = []
    while num_tried < MAX_BOXES_TRIED and (start := text.rfind(BOX, 0, end)) >= 0:
        num_tried += 1
        end = start
        box = read_box(text, start)
        if box is None:
            continue
        if last and box.end > last[0].start:
            last = [box, *(each for each in last if each.start >= box.end)]  # it holds the others
        elif not last or is_joint(text, box, last[0]):
            last.insert(0, box)
        else:
            break
    if not last:
        found = "balanced " if num_tried else ""
        return Extraction(answer=None, reason=f"no {found}\\boxed{{...}} after the thinking")
    contents = [unwrap(box.content) for box in last]
    return check_length(contents[0] if len(set(contents)) == 1 else ", ".join(contents))


def is_joint(text: str, box: Box, following: Box) -> bool:
    """Whether nothing that could take a box back stands between two."""
    between = text[box.end : following.start]
    return len(between) <= MAX_JOINT and _JOINT.fullmatch(between) is not None


def unwrap(content: str) -> str:
    """Without further boxes around the whole."""
    content = content.strip()
    while content.startswith(BOX) and (box := read_box(content, 0)) is not None and box.end == len(content):
        content = box.content.strip()
    return content


def check_length(content: str) -> Extraction:
    """Refuse what no answer needs."""
    if len(content.encode("utf-8", "replace")) > MAX_ANSWER_BYTES:
        return Extraction(answer=None, reason=f"the box holds more than {MAX_ANSWER_BYTES} bytes")
    return Extraction(answer=content)
