"""The reward service's rules as the data path asks for them, and pass rates out of a run's ledger."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

from forklight_core.blobs import BlobStore
from forklight_core.errors import InvalidInputError, NotFoundError
from forklight_data.record import Record, Reference, write_json
from forklight_reward.logic import registry
from forklight_reward.sandbox.spec import parse_spec
from forklight_reward.verifier.compare import is_prose
from forklight_reward.verifier.guard import find_danger
from forklight_reward.verifier.normalise import normalise
from forklight_reward.verifier.parse import parse_value
from forklight_reward.verifier.verify import default_pool, rules_version, verify_math

EQUAL = "equal"
WAIT_S = 30.0
MOST_PROSE_WORDS = 6
LEDGER = "ledger.sqlite"
NEWEST_GROUPS = """
SELECT s.prompt_id, COUNT(*), SUM(s.correct >= 1.0), g.opened_version
FROM samples s JOIN groups g ON g.group_id = s.group_id
WHERE s.correct IS NOT NULL AND g.opened_version = (
  SELECT MAX(h.opened_version) FROM samples r JOIN groups h ON h.group_id = r.group_id
  WHERE r.prompt_id = s.prompt_id AND r.correct IS NOT NULL)
GROUP BY s.prompt_id, g.opened_version ORDER BY s.prompt_id
"""


class RewardRules:
    """What will judge responses, asked about references."""

    def __init__(self, blobs: BlobStore | None = None) -> None:
        self._blobs = blobs
        self._checks: dict[str, Callable[[Record], str]] = {
            "math": self._math,
            "logic": self._logic,
            "code": self._code,
            "judge": self._judge,
            "gym": self._gym,
        }
        self._agree = lru_cache(maxsize=65536)(agree_math)
        self._readable = lru_cache(maxsize=65536)(find_unreadable)

    @property
    def fingerprint(self) -> str:
        """The versions of all rules."""
        return "; ".join(self.version(kind) for kind in sorted(self._checks))

    def version(self, kind: str) -> str:
        """Name and version of the rules of a kind."""
        if kind == "math":
            return rules_version()
        if kind == "logic":
            return registry.rules_version()
        if kind in self._checks:
            return f"{kind}-spec/1"
        raise NotFoundError(f"no rules know kind {kind!r}: known are {', '.join(sorted(self._checks))}")

    def find_problem(self, record: Record) -> str:
        """Why the rules could never call a response right; empty when they could."""
        return self._checks[record.verifier.kind](record)

    def agree(self, kind: str, answer: str, other: str) -> bool:
        """Whether the second is right where the first is the reference."""
        return kind == "math" and self._agree(answer, other)

    def _math(self, record: Record) -> str:
        return self._readable(self._answer(record))

    def _judge(self, record: Record) -> str:
        from forklight_reward.judge.spec import parse_judge_spec

        if not self._answer(record).strip():
            return "the judge has no reference to compare with"
        return _problem_of(parse_judge_spec, self._spec(record))

    def _logic(self, record: Record) -> str:
        return _problem_of(lambda spec: registry.check(spec, ""), self._spec(record))

    def _gym(self, record: Record) -> str:
        from forklight_reward.gym.item import read_item, wrap_spec

        return _problem_of(lambda spec: read_item(wrap_spec(spec)), self._spec(record))

    def _code(self, record: Record) -> str:
        if '"mode":"run"' in self._spec(record):
            return "sandbox mode run has no tests"
        return _problem_of(lambda spec: parse_spec(spec, "pass"), self._spec(record))

    def _answer(self, record: Record) -> str:
        answer = record.answer
        return self._fetch(answer).decode() if isinstance(answer, Reference) else answer

    def _spec(self, record: Record) -> str:
        spec = record.verifier.spec
        return self._fetch(spec).decode() if isinstance(spec, Reference) else write_json(dict(spec))

    def _fetch(self, reference: Reference) -> bytes:
        if self._blobs is None:
            raise InvalidInputError(
                f"a record refers to {reference.ref[:16]}...: say where it lies with --blobs"
            )
        return self._blobs.get(reference.ref)


def find_unreadable(answer: str) -> str:
    """Why maths rules cannot read an answer; empty when they can."""
    text = normalise(answer)
    if not text:
        return "the answer is empty"
    if danger := find_danger(text):
        return f"never evaluated: {danger}"
    if parse_value(text) is not None:
        return ""
    if is_prose(text):
        num_words = len(text.split())
        return (
            f"prose of {num_words} words, which must be met word for word"
            if num_words > MOST_PROSE_WORDS
            else ""
        )
    word = default_pool().compare(text, text, wait_s=WAIT_S)
    if word == EQUAL:
        return ""
    return f"math-verify says of the answer and itself: {word}"


def agree_math(answer: str, other: str) -> bool:
    """By the maths rules."""
    return verify_math(answer, other, True, wait_s=WAIT_S).correct


def _problem_of(read: Callable[[str], object], spec: str) -> str:
    try:
        read(spec)
    except InvalidInputError as error:
        return str(error)
    return ""


def ledger_pass_rates(folder: Path) -> Iterator[str]:
    """Lines of results: of every prompt, the samples of the newest version that has scored ones."""
    path = folder / LEDGER
    if not path.is_file():
        raise InvalidInputError(
            f"{folder}: no {LEDGER} in it; name the folder of a run, or a file of results"
        )
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            for prompt_id, k, passes, version in connection.execute(NEWEST_GROUPS):
                told = {
                    "id": prompt_id,
                    "k": k,
                    "passes": passes,
                    "policy_version": f"{folder.name}/v{version}",
                }
                yield json.dumps(told, sort_keys=True)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise InvalidInputError(f"{path}: not a ledger that can be read: {error}") from error
