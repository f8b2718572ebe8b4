"""Drops prompts that are there already: word for word, or near by MinHash with the same numbers and answer.

Word for word with another answer: all of them go, since nobody knows which is right.
"""

from __future__ import annotations

import unicodedata
from array import array
from collections.abc import Iterator

import numpy as np

from forklight_data.minhash import jaccard, shingles_of
from forklight_data.neighbours import Neighbours
from forklight_data.recipe import DuplicatesPart
from forklight_data.record import Record
from forklight_data.records_file import RecordsFile
from forklight_data.steps.step import Outcome, Work
from forklight_data.steps.verdicts import Table, Verdicts, groups_of, hash_text, rank_of, same_answer
from forklight_data.text import signature_of, word_hashes, words_of

MOST_KEPT_COMPARED = 64
CHANCE = 0.1
"""Estimates scatter by 0.04: candidates are taken from a little below, and measured exactly."""


def drop_duplicates(work: Work, part: DuplicatesPart) -> Iterator[Outcome]:
    """Two passes: find out, then tell."""
    with RecordsFile(work.source, is_ours=True) as records, Neighbours(work.scratch) as neighbours:
        table = survey(records, neighbours)
        verdicts = Verdicts(len(table.places))
        _drop_exact(work, records, table, verdicts)
        if part.threshold < 1:
            groups = neighbours.groups(part.threshold - CHANCE, table.rank)
            _drop_near(work, records, table, verdicts, (groups, part.threshold))
        yield from verdicts.apply(records, table)


def survey(records: RecordsFile, neighbours: Neighbours | None) -> Table:
    """One pass over the file: everything that is held of it."""
    places, ids, signatures, texts = array("q"), array("Q"), array("Q"), array("Q")
    for place, record in records:
        question = record.question
        words = words_of(question)
        if neighbours is not None:
            neighbours.add(words)
        places.append(place)
        ids.append(hash_text(record.id))
        signatures.append(hash_text(signature_of(words)))
        texts.append(hash_text(" ".join(unicodedata.normalize("NFKC", question).split())))
    return Table(
        places=np.frombuffer(places, dtype=np.int64),
        rank=rank_of(np.frombuffer(ids, dtype=np.uint64)),
        signatures=np.frombuffer(signatures, dtype=np.uint64),
        texts=np.frombuffer(texts, dtype=np.uint64),
    )


def _drop_exact(work: Work, records: RecordsFile, table: Table, verdicts: Verdicts) -> None:
    for members in groups_of(table.texts, table.rank):
        first = records.at(int(table.places[members[0]]))
        other = next(
            (
                member
                for member in members[1:]
                if not same_answer(work.rules, first, records.at(int(table.places[member])))
            ),
            None,
        )
        if other is None:
            for member in members[1:]:
                verdicts.drop(member, "duplicate", members[0])
            continue
        for member in members:
            verdicts.drop(member, "conflicting_answers", other if member == members[0] else members[0])


def _drop_near(
    work: Work, records: RecordsFile, table: Table, verdicts: Verdicts, found: tuple[np.ndarray, float]
) -> None:
    """Inside a group, only prompts with the same numbers and operators are compared."""
    groups, threshold = found
    names = groups.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ table.signatures
    num_alike = 0
    for members in groups_of(names, table.rank):
        kept: list[tuple[int, Record, np.ndarray]] = []
        for member in members:
            if verdicts.reasons[member]:
                continue
            record = records.at(int(table.places[member]))
            runs = shingles_of(word_hashes(words_of(record.question)))
            near = [item for item in kept if jaccard(item[2], runs) >= threshold]
            same = next((item[0] for item in near if same_answer(work.rules, item[1], record)), None)
            num_alike += bool(near) and same is None
            if same is not None:
                verdicts.drop(member, "near_duplicate", same)
            elif len(kept) < MOST_KEPT_COMPARED:
                kept.append((member, record, runs))
    work.notes["num_near_with_other_answer"] = num_alike
