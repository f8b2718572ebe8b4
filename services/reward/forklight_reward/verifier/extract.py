"""Finds the answer in a response: the last balanced \\boxed{...} after the thinking.

Nothing inside the thinking counts.
"""

from __future__ import annotations

from dataclasses import dataclass

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
BOX = "\\boxed"
MAX_ANSWER_BYTES = 4096
MAX_BOXES_TRIED = 64


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


def box_content(text: str, start: int) -> str | None:
    """The balanced content of the box whose \\boxed begins at `start`; None when it is not closed in 4 kB."""
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
                return text[position + 1 : index]
        index += 1
    return None


def extract_answer(response: str) -> Extraction:
    """The content of the last balanced box after the thinking."""
    text = final_part(response)
    end = len(text)
    for _ in range(MAX_BOXES_TRIED):
        start = text.rfind(BOX, 0, end)
        if start < 0:
            return Extraction(answer=None, reason="no \\boxed{...} after the thinking")
        content = box_content(text, start)
        if content is not None:
            return check_length(content)
        end = start
    return Extraction(answer=None, reason="no balanced \\boxed{...} after the thinking")


def check_length(content: str) -> Extraction:
    """Refuse what no answer needs."""
    if len(content.encode("utf-8", "replace")) > MAX_ANSWER_BYTES:
        return Extraction(answer=None, reason=f"the box holds more than {MAX_ANSWER_BYTES} bytes")
    return Extraction(answer=content.strip())
