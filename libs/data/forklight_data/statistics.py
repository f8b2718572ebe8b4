"""What is in a file of records: counts, lengths, duplicates, kinds of answers, pass rates."""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from forklight_data.ports import NobodyWatches, Watcher
from forklight_data.record import Record, Reference
from forklight_data.records_file import RecordsFile
from forklight_data.steps.verdicts import hash_text
from forklight_data.text import words_of

MOST_SOURCES = 1000
OTHERS = "(others)"
QUANTILES = (0, 5, 25, 50, 75, 95, 99, 100)
ANSWER_KINDS = (
    ("empty", re.compile(r"\s*")),
    ("integer", re.compile(r"\$?[+-]?\d{1,3}(?:,\d{3})+\$?|\$?[+-]?\d+\$?")),
    ("decimal", re.compile(r"\$?[+-]?\d*\.\d+\$?")),
    ("fraction", re.compile(r"\$?[+-]?(?:\d+/\d+|\\[dt]?frac\{?\d+\}?\{?\d+\}?)\$?")),
    ("letter", re.compile(r"\(?[A-Ha-h]\)?")),
    ("tuple or interval", re.compile(r"\$?(?:\\left)?[(\[].*,.*[)\]]\$?", re.DOTALL)),
    ("set", re.compile(r"\$?\\?\{.*\}\$?", re.DOTALL)),
    ("words", re.compile(r"[^\W\d_]{2,}(?:[\s,'-]+[^\W\d_]+)*\.?")),
)


@dataclass(slots=True, kw_only=True)
class Statistics:
    """Of one file."""

    num_records: int = 0
    by_source: Counter[str] = field(default_factory=Counter)
    by_domain: Counter[str] = field(default_factory=Counter)
    by_kind: Counter[str] = field(default_factory=Counter)
    by_answer: Counter[str] = field(default_factory=Counter)
    by_policy: Counter[str] = field(default_factory=Counter)
    prompt_words: dict[str, int] = field(default_factory=dict)
    prompt_characters: dict[str, int] = field(default_factory=dict)
    num_duplicates: int = 0
    """Records whose text another one has, spaces and letter forms aside."""
    num_unmeasured: int = 0
    pass_rates: list[int] = field(default_factory=lambda: [0] * 12)
    """Never; ten bins of a tenth; always."""

    def as_json(self) -> dict[str, object]:
        """Every count by its name."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in values.items()}


def count_records(path: Path, watcher: Watcher | None = None) -> Statistics:
    """One pass; 20 bytes a record in memory."""
    watcher = watcher or NobodyWatches()
    watcher.begin("stats", None)
    found = Statistics()
    words, characters, texts = array("L"), array("L"), array("Q")
    with RecordsFile(path) as records:
        for _, record in records:
            question = record.question
            words.append(len(words_of(question)))
            characters.append(len(question))
            texts.append(hash_text(" ".join(unicodedata.normalize("NFKC", question).split())))
            count_record(found, record)
            watcher.advance(1)
    found.prompt_words, found.prompt_characters = quantiles(words), quantiles(characters)
    found.num_duplicates = len(texts) - len(np.unique(np.frombuffer(texts, dtype=np.uint64)))
    return found


def count_record(found: Statistics, record: Record) -> None:
    """Everything that is counted one by one."""
    found.num_records += 1
    is_known = record.source in found.by_source or len(found.by_source) < MOST_SOURCES
    found.by_source[record.source if is_known else OTHERS] += 1
    found.by_domain[record.domain.value] += 1
    found.by_kind[record.verifier.kind] += 1
    found.by_answer[answer_kind(record.answer)] += 1
    difficulty = record.difficulty
    if difficulty is None:
        found.num_unmeasured += 1
        return
    found.by_policy[difficulty.policy_version] += 1
    k, passes = difficulty.k, difficulty.passes
    place = 0 if passes == 0 else 11 if passes == k else 1 + passes * 10 // k
    found.pass_rates[place] += 1


def answer_kind(answer: str | Reference) -> str:
    """By its looks."""
    if isinstance(answer, Reference):
        return "in the blob store"
    text = answer.strip()
    return next((name for name, pattern in ANSWER_KINDS if pattern.fullmatch(text)), "expression")


def quantiles(values: array[int]) -> dict[str, int]:
    """Lowest, highest, and what is between them."""
    if not values:
        return {}
    ordered = np.sort(np.asarray(values))
    return {f"p{percent}": int(ordered[(len(ordered) - 1) * percent // 100]) for percent in QUANTILES}
