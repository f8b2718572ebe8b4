"""Near duplicates by meaning: a model nominates pairs; only the same numbers and the same answer drop one.

Vectors lie on the disk in half precision; only prompts with the same signature are compared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from forklight_core.errors import ConfigError
from forklight_core.whole_files import named_errors
from forklight_data.ports import Embedder
from forklight_data.recipe import EmbeddingsPart
from forklight_data.records_file import RecordsFile
from forklight_data.steps.duplicates import survey
from forklight_data.steps.step import Outcome, Work
from forklight_data.steps.verdicts import Table, Verdicts, groups_of, same_answer

TEXTS_AT_A_TIME = 256
ROWS_AT_A_TIME = 1024


def drop_by_meaning(work: Work, part: EmbeddingsPart) -> Iterator[Outcome]:
    """Two passes: embed and find out, then tell."""
    if work.embedder is None:
        raise ConfigError("step embeddings needs a model, and none was given")
    with (
        RecordsFile(work.source, is_ours=True) as records,
        tempfile.TemporaryDirectory(dir=work.scratch, prefix=".vectors-") as folder,
    ):
        table = survey(records, None)
        vectors = _embed(records, work.embedder, Path(folder) / "vectors", len(table.places))
        verdicts = Verdicts(len(table.places))
        _drop_nominated(work, records, table, verdicts, (vectors, part.threshold))
        yield from verdicts.apply(records, table)
    work.notes["model"] = work.embedder.name


def _embed(records: RecordsFile, embedder: Embedder, path: Path, size: int) -> NDArray[np.float16]:
    texts = (record.question for _, record in records)
    width = 0
    with named_errors(path), path.open("wb") as file:
        while batch := list(islice(texts, TEXTS_AT_A_TIME)):
            vectors = embedder.embed(batch)
            width = vectors.shape[1]
            file.write(np.ascontiguousarray(vectors, dtype=np.float16).tobytes())
    if not size:
        return np.zeros((0, 1), dtype=np.float16)
    return np.memmap(path, dtype=np.float16, mode="r", shape=(size, width))


def _drop_nominated(
    work: Work,
    records: RecordsFile,
    table: Table,
    verdicts: Verdicts,
    found: tuple[NDArray[np.float16], float],
) -> None:
    vectors, threshold = found
    num_nominated = 0
    for members in groups_of(table.signatures, table.rank):
        for first, second in _near_pairs(vectors, members, threshold):
            if verdicts.reasons[first] or verdicts.reasons[second]:
                continue
            num_nominated += 1
            pair = [records.at(int(table.places[member])) for member in (first, second)]
            if same_answer(work.rules, pair[0], pair[1]):
                verdicts.drop(second, "embedding_duplicate", first)
    work.notes["num_nominated"] = num_nominated


def _near_pairs(
    vectors: NDArray[np.float16], members: list[int], threshold: float
) -> Iterator[tuple[int, int]]:
    """Pairs in the order of rank, the one to keep first."""
    for start in range(0, len(members), ROWS_AT_A_TIME):
        rows = members[start : start + ROWS_AT_A_TIME]
        block = vectors[rows].astype(np.float32)
        for before in range(0, start + 1, ROWS_AT_A_TIME):
            columns = members[before : before + ROWS_AT_A_TIME]
            near = np.argwhere(block @ vectors[columns].astype(np.float32).T >= threshold)
            for row, column in near.tolist():
                if before + column < start + row:
                    yield columns[column], rows[row]
