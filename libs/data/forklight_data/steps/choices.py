"""Makes open questions of multiple choice where the question stands without its options; drops the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from forklight_data.ports import AnswerRules
from forklight_data.recipe import ChoicesPart
from forklight_data.record import Json, Record, Reference
from forklight_data.records_file import RecordsFile
from forklight_data.steps.step import Dropped, Outcome, Work

KINDS = frozenset({"math"})
WRAPPED = r"(?:\\(?:textbf|textrm|mathrm|text)\s*\{\s*)?"
OPTION = re.compile(
    rf"(?:(?<=[\s$~])|^){WRAPPED}(?:\(\s*([A-H])\s*\)|([A-H])\s*[).:])\s*\}}?[\s~]*", re.MULTILINE
)
LETTER = re.compile(rf"\$?\s*{WRAPPED}\(?\s*([A-H])\s*\)?\s*\}}?\s*\$?[.)]?")
DEPENDS = re.compile(
    r"\bwhich\s+(?:one\s+)?(?:of\s+)?(?:the\s+following|these|the\s+(?:options|choices|statements))\b"
    r"|\bof\s+the\s+following\b|\bfollowing\s+(?:is|are|statements?|options?|choices?|expressions?|numbers?)\b"
    r"|\b(?:choose|select|pick)\b|\bcorrect\s+(?:option|choice|statement|answer)\b|\bclosest\b|\bapproximately\b|\bwhich\b",
    re.IGNORECASE,
)
NO_VALUE = re.compile(
    r"\b(?:none|all|both|neither|either|cannot|can't|not|other|undetermined|depends)\b|\b[A-H]\s+(?:and|or)\s+[A-H]\b",
    re.IGNORECASE,
)
VALUE = re.compile(r"\d|\\(?:pi|sqrt|frac|infty)|\be\b")
LONG_WORD = re.compile(r"(?<!\\)\b[a-z]{4,}\b", re.IGNORECASE)
FEWEST, MOST = 3, 8
TRIM = " \t\n$~,;.\\"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """A question and what it offers."""

    stem: str
    options: tuple[str, ...]


def open_choices(work: Work, part: ChoicesPart) -> Iterator[Outcome]:
    """Row by row; other kinds than maths, and questions without options, pass."""
    num_opened = 0
    with RecordsFile(work.source, is_ours=True) as records:
        for _, record in records:
            choices = find_choices(record.prompt[-1].content) if record.verifier.kind in KINDS else None
            if choices is None or isinstance(record.answer, Reference):
                yield record
                continue
            if right_option(record.answer, choices.options) is None and not all(
                map(is_value, choices.options)
            ):
                yield record  # letters that name points or sets, not options
                continue
            opened = open_record(record, record.answer, choices, work.rules)
            if isinstance(opened, Record):
                num_opened += 1
                yield opened
            elif part.closed == "keep":
                yield record
            else:
                yield Dropped(id=record.id, reason="closed_choice", detail=opened)
    work.notes["num_opened"] = num_opened


def find_choices(text: str) -> Choices | None:
    """The last run of options A, B, C ... ; None when there is none."""
    marks = list(OPTION.finditer(text))
    letters = [mark[1] or mark[2] for mark in marks]
    starts = [index for index, letter in enumerate(letters) if letter == "A"]
    for start in reversed(starts):
        size = 0
        while start + size < len(letters) and letters[start + size] == chr(ord("A") + size):
            size += 1
        if FEWEST <= size <= MOST and start + size == len(letters):
            ends = [mark.start() for mark in marks[start + 1 :]] + [len(text)]
            options = tuple(
                text[mark.end() : end].strip(TRIM) for mark, end in zip(marks[start:], ends, strict=True)
            )
            stem = text[: marks[start].start()].rstrip(TRIM.replace(".", ""))
            return Choices(stem=stem, options=options)
    return None


def open_record(record: Record, answer: str, choices: Choices, rules: AnswerRules) -> Record | str:
    """The record without its options, or why the question needs them."""
    if not choices.stem or DEPENDS.search(choices.stem):
        return "the question speaks of its options"
    if any(not is_value(option) for option in choices.options):
        return "an option is no value"
    if not _are_different(choices.options, rules):
        return "two options are the same value"
    value = right_option(answer, choices.options)
    if value is None:
        return "the answer names no option"
    options: list[Json] = list(choices.options)
    meta = {**record.meta, "options": options, "option_answer": answer}
    stem = choices.stem + ("$" if choices.stem.count("$") % 2 else "")
    opened = replace(record.with_question(stem), answer=value, meta=meta)
    return rules.find_problem(opened) or opened


def right_option(answer: str, options: Sequence[str]) -> str | None:
    """By its letter, or because it is there word for word."""
    found = LETTER.fullmatch(answer.strip())
    if found:
        index = ord(found[1]) - ord("A")
        return options[index] if index < len(options) else None
    return answer if answer.strip(TRIM) in options else None


def is_value(option: str) -> bool:
    """A number or an expression, and no words around it."""
    return bool(
        option and VALUE.search(option) and not NO_VALUE.search(option) and not LONG_WORD.search(option)
    )


def _are_different(options: Sequence[str], rules: AnswerRules) -> bool:
    return not any(
        left == right or rules.agree("math", left, right) for left, right in combinations(options, 2)
    )
