"""Reads what a judge replied, strictly: one JSON object with the two keys that were asked for, or nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import TypeVar

from forklight_core.errors import DeadlineError
from forklight_reward.judge.chat import ChatModel, Message, seed_of
from forklight_reward.judge.contract import HIGHEST_GRADE, LOWEST_GRADE
from forklight_reward.verifier.extract import final_part

NUM_RETRIES = 2
MOST_CHARACTERS = 8192
MOST_ANALYSIS_CHARACTERS = 2000
"""600 are asked for; models cannot count."""

Found = TypeVar("Found")


class Winner(StrEnum):
    """Who is better."""

    A = "A"
    B = "B"
    TIE = "tie"


def parse_grade(text: str) -> int | None:
    """The grade; None when the reply is not what was asked for."""
    grade = _parse(text, "grade")
    if type(grade) is not int or not LOWEST_GRADE <= grade <= HIGHEST_GRADE:
        return None
    return grade


def parse_winner(text: str) -> Winner | None:
    """The winner; None when the reply is not what was asked for."""
    winner = _parse(text, "winner")
    return Winner(winner) if isinstance(winner, str) and winner in set(Winner) else None


def _parse(text: str, key: str) -> object:
    text = _unwrap(final_part(text).strip())
    if len(text) > MOST_CHARACTERS:
        return None
    try:
        found = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or set(found) != {"analysis", key}:
        return None
    analysis = found["analysis"]
    if not isinstance(analysis, str) or len(analysis) > MOST_ANALYSIS_CHARACTERS:
        return None
    return found[key]


def _unwrap(text: str) -> str:
    """Without the one code fence that many models put around JSON."""
    for opening in ("```json\n", "```\n"):
        if text.startswith(opening) and text.endswith("\n```"):
            return text[len(opening) : -4].strip()
    return text


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key comes twice")
    return dict(pairs)


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")


async def ask(
    chat: ChatModel,
    make: Callable[[bool], Sequence[Message]],
    parse: Callable[[str], Found | None],
    *,
    seed: int,
    timeout_s: float,
) -> Found | None:
    """Ask, and ask again twice when the reply cannot be read, with another seed and a word about it. `make`
    is told whether it is again. None: the judge would not answer as asked.
    """
    deadline = time.monotonic() + timeout_s
    for number in range(1 + NUM_RETRIES):
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise DeadlineError(f"judge: {number} replies were no JSON as asked, and the time is over")
        text = await chat.complete(
            make(number > 0), seed=seed_of(seed, number) if number else seed, timeout_s=left_s
        )
        found = parse(text)
        if found is not None:
            return found
    return None
