"""Keeps what a policy solves sometimes, and writes down how often which version did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from forklight_core.errors import InvalidInputError
from forklight_data.reading.lines import read_lines
from forklight_data.recipe import PassRatePart
from forklight_data.record import Difficulty
from forklight_data.records_file import RecordsFile
from forklight_data.steps.step import Dropped, Outcome, Work

MEND = 'not like {"id": "p1", "k": 10, "passes": 4, "policy_version": "v1"}'
KEYS = {"id", "k", "passes", "policy_version"}


def filter_pass_rate(work: Work, part: PassRatePart) -> Iterator[Outcome]:
    """Row by row; the results are held, 300 bytes each."""
    results = read_results(part.results)
    num_used = 0
    with RecordsFile(work.source, is_ours=True) as records:
        for _, record in records:
            found = results.get(record.id)
            num_used += found is not None
            if found is None:
                yield record if part.unmeasured == "keep" else Dropped(id=record.id, reason="unmeasured")
                continue
            share = found.passes / found.k
            told = f"{found.passes} of {found.k} by {found.policy_version}"
            if share <= part.low:
                yield Dropped(id=record.id, reason="too_hard", detail=told)
            elif share >= part.high:
                yield Dropped(id=record.id, reason="too_easy", detail=told)
            else:
                yield replace(record, difficulty=found)
    work.notes["num_results"] = len(results)
    work.notes["num_results_of_other_ids"] = len(results) - num_used


def read_results(paths: tuple[Path, ...]) -> dict[str, Difficulty]:
    """Counts of one id and policy add up; two policies for one id are an error: they are no one rate."""
    found: dict[str, Difficulty] = {}
    for path in paths:
        for row in read_lines(path, frozenset()):
            fields = row.fields or {}
            name, k, passes = fields.get("id"), fields.get("k"), fields.get("passes")
            version = fields.get("policy_version")
            if (
                set(fields) != KEYS
                or not isinstance(name, str)
                or not isinstance(version, str)
                or not version
            ):
                raise InvalidInputError(f"{path}: {row.where}: {row.problem or MEND}")
            if type(k) is not int or type(passes) is not int or not 0 <= passes <= k or k < 1:
                raise InvalidInputError(f"{path}: {row.where}: passes must be from 0 to k, and k at least 1")
            before = found.get(name)
            if before is not None and before.policy_version != version:
                raise InvalidInputError(
                    f"{path}: {row.where}: {name!r} was measured with {before.policy_version} and {version}; "
                    "give the results of one policy"
                )
            k, passes = (k + before.k, passes + before.passes) if before else (k, passes)
            found[name] = Difficulty(k=k, passes=passes, policy_version=version)
    return found
