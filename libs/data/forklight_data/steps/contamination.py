"""Drops prompts that share long runs of words with what is kept to test with.

A run has 13 words, or all of a prompt that has fewer (down to `short_run_words`; shorter ones must be equal).
Short prompts are also dropped for a common run of 8 words, or all words of one, when the answers agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from forklight_core.errors import InvalidInputError
from forklight_data.reading.folders import EVERY, read_path
from forklight_data.recipe import ContaminationPart
from forklight_data.record import Record
from forklight_data.records_file import RecordsFile
from forklight_data.shapes import ColumnMapping, Shape, find_shape, fit_columns, make_record
from forklight_data.steps.step import Dropped, Outcome, Work
from forklight_data.steps.verdicts import same_answer
from forklight_data.text import run_hashes, word_hashes, words_of

ONE_IN = 50


@dataclass(slots=True)
class TestItems:
    """What is kept to test with: every run of every length that is asked for, with the item it is of."""

    __test__ = False
    records: list[Record] = field(default_factory=list)
    num_words: list[int] = field(default_factory=list)
    keys: dict[int, NDArray[np.uint64]] = field(default_factory=dict)
    owners: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    short_lengths: set[int] = field(default_factory=set)
    """Of items that have fewer words than a run."""
    num_boilerplate: int = 0

    def owners_of(self, runs: NDArray[np.uint64], length: int) -> Iterator[int]:
        """All items that hold one of the runs."""
        keys = self.keys.get(length)
        if keys is None or not len(keys) or not len(runs):
            return
        begins = np.searchsorted(keys, runs, side="left")
        ends = np.searchsorted(keys, runs, side="right")
        for hit in np.flatnonzero(ends > begins):
            yield from self.owners[length][begins[hit] : ends[hit]].tolist()


def drop_contaminated(work: Work, part: ContaminationPart) -> Iterator[Outcome]:
    """Row by row, against all test items at once."""
    items = read_items(part)
    work.notes["num_test_items"] = len(items.records)
    work.notes["num_boilerplate_runs"] = items.num_boilerplate
    with RecordsFile(work.source, is_ours=True) as records:
        for _, record in records:
            hashes = word_hashes(words_of(record.question))
            found = find_overlap(hashes, items, part) or find_agreement(record, hashes, items, (work, part))
            if found is None:
                yield record
            else:
                reason, owner = found
                yield Dropped(id=record.id, reason=reason, of=items.records[owner].id)


def find_overlap(
    hashes: NDArray[np.uint64], items: TestItems, part: ContaminationPart
) -> tuple[str, int] | None:
    """A common run that is long enough by itself; of shorter test items, all their words."""
    lengths = {part.run_words, len(hashes)} | items.short_lengths
    for length in sorted(lengths, reverse=True):
        if length > min(part.run_words, len(hashes)):
            continue
        is_whole = length == len(hashes)
        for owner in items.owners_of(run_hashes(hashes, length), length):
            is_item = length == items.num_words[owner] and (length >= part.short_run_words or is_whole)
            is_prompt = is_whole and length >= part.short_run_words
            if length == part.run_words or is_item or is_prompt:
                return "contaminated", owner
    return None


def find_agreement(
    record: Record, hashes: NDArray[np.uint64], items: TestItems, asked: tuple[Work, ContaminationPart]
) -> tuple[str, int] | None:
    """A shorter run counts when one of the two is short, and they have the same answer."""
    work, part = asked
    usual = part.short_run_words
    lengths = {min(usual, len(hashes))} | {length for length in items.short_lengths if length < usual}
    for length in sorted(lengths, reverse=True):
        for owner in dict.fromkeys(items.owners_of(run_hashes(hashes, length), length)):
            num_words = items.num_words[owner]
            is_whole = length in (len(hashes), num_words)
            if min(len(hashes), num_words) > part.short_words or not (length == usual or is_whole):
                continue
            item = items.records[owner]
            if item.answer and record.answer and same_answer(work.rules, item, record):
                return "contaminated_short", owner
    return None


def read_items(part: ContaminationPart) -> TestItems:
    """All test files, their runs sorted."""
    items = TestItems()
    gathered: dict[int, list[NDArray[np.uint64]]] = {}
    owners: dict[int, list[NDArray[np.int64]]] = {}
    for number, record in enumerate(_read_records(part)):
        hashes = word_hashes(words_of(record.question))
        items.records.append(record)
        items.num_words.append(len(hashes))
        if len(hashes) < part.run_words:
            items.short_lengths.add(len(hashes))
        for length in range(1, min(part.run_words, len(hashes)) + 1):
            runs = np.unique(run_hashes(hashes, length))
            gathered.setdefault(length, []).append(runs)
            owners.setdefault(length, []).append(np.full(len(runs), number))
    for length, runs_of in gathered.items():
        _settle(items, length, (np.concatenate(runs_of), np.concatenate(owners[length])), part)
    return items


def _read_records(part: ContaminationPart) -> Iterator[Record]:
    """A row that is no record is an error here: what is not compared is not proven clean."""
    for path in part.tests:
        mapping = ColumnMapping(file_name=path.name.partition(".")[0])
        shape = None
        for row in read_path(path, EVERY, frozenset()):
            try:
                if row.fields is None:
                    raise InvalidInputError(row.problem)
                if shape is None:
                    shape, _ = find_shape(row.fields, mapping)
                    mapping = fit_columns(row.fields, mapping) if shape is Shape.COLUMNS else mapping
                yield make_record(row.fields, shape, mapping)
            except InvalidInputError as error:
                raise InvalidInputError(
                    f"{path}: {row.where}: {error}; mend the file of test items"
                ) from error


def _settle(
    items: TestItems,
    length: int,
    runs: tuple[NDArray[np.uint64], NDArray[np.int64]],
    part: ContaminationPart,
) -> None:
    """Sorted, without the boilerplate: runs that many items share say nothing of any of them."""
    most = max(part.most_items, len(items.records) // ONE_IN)
    keys, owners = runs
    order = np.lexsort((owners, keys))
    keys, owners = keys[order], owners[order]
    _, places, counts = np.unique(keys, return_inverse=True, return_counts=True)
    is_common = counts[places] > most
    if length == part.run_words:
        items.num_boilerplate = int((counts > most).sum())
    items.keys[length], items.owners[length] = keys[~is_common], owners[~is_common]
