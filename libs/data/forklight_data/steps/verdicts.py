"""What becomes of records that are compared with each other: 9 bytes a record, and the words for it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forklight_data.ports import AnswerRules
from forklight_data.record import Record, Reference
from forklight_data.records_file import RecordsFile
from forklight_data.steps.step import Dropped, Outcome

REASONS = ("", "duplicate", "conflicting_answers", "near_duplicate", "embedding_duplicate")
WORDY = frozenset({"code", "judge"})
"""Kinds whose references cannot be compared: other tests of the same program are no other program."""


@dataclass(frozen=True, slots=True)
class Table:
    """What is known of every record of a file, by its number."""

    places: NDArray[np.int64]
    rank: NDArray[np.int64]
    """Of the ids: what is kept of a group does not depend on the order of the file."""
    signatures: NDArray[np.uint64]
    texts: NDArray[np.uint64]
    """Hashes of the text with its spaces made one."""


class Verdicts:
    """Which records go, why, and for whose sake."""

    def __init__(self, size: int) -> None:
        self.reasons = np.zeros(size, dtype=np.uint8)
        self._of = np.full(size, -1, dtype=np.int64)

    def drop(self, member: int, reason: str, of: int) -> None:
        """The first reason stands."""
        if not self.reasons[member]:
            self.reasons[member] = REASONS.index(reason)
            self._of[member] = of

    def apply(self, records: RecordsFile, table: Table) -> Iterator[Outcome]:
        """Every record, or why it goes."""
        for number, (_, record) in enumerate(records):
            reason = REASONS[int(self.reasons[number])]
            if reason:
                of = records.at(int(table.places[int(self._of[number])]))
                yield Dropped(id=record.id, reason=reason, of=of.id)
            else:
                yield record


def hash_text(text: str) -> int:
    """8 bytes of a text."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def rank_of(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """0 for the smallest."""
    rank = np.empty(len(hashes), dtype=np.int64)
    rank[np.argsort(hashes, kind="stable")] = np.arange(len(hashes))
    return rank


def groups_of(names: NDArray[np.generic], rank: NDArray[np.int64]) -> Iterator[list[int]]:
    """Numbers of records with equal names, in the order of rank; those that stand alone are left out."""
    if len(names) == 0:
        return
    order = np.lexsort((rank, names))
    ordered = names[order]
    cuts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    begins, ends = np.concatenate([[0], cuts]), np.concatenate([cuts, [len(order)]])
    for index in np.flatnonzero(ends - begins > 1):
        yield order[begins[index] : ends[index]].tolist()


def same_answer(rules: AnswerRules, left: Record, right: Record) -> bool:
    """Whether two records ask for the same thing, as far as their references tell."""
    if left.verifier.kind != right.verifier.kind:
        return False
    if left.answer_hash == right.answer_hash:
        return True
    if left.verifier.kind in WORDY:
        return not (_is_repository(left) or _is_repository(right))
    if (
        left.verifier.kind != "math"
        or isinstance(left.answer, Reference)
        or isinstance(right.answer, Reference)
    ):
        return False
    return rules.agree("math", left.answer, right.answer) or rules.agree("math", right.answer, left.answer)


def _is_repository(record: Record) -> bool:
    """A task of a repository is its tree, not the words of its issue."""
    spec = record.verifier.spec
    return isinstance(spec, Reference) or spec.get("mode") == "repo"
